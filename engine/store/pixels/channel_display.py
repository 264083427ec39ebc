"""Display of named channels: labels, colours and windows, for viewers of OME-Zarr.

The metadata of a stack are written before its pixels, once. So windows are estimated from a few
planes beforehand, and kept in the catalog with each image of the stack, from which its metadata can
be made again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DISPLAY = "display"
"""Key of the catalog's column ``header``: the display of the image's stack, as JSON."""

SATURATED_PERCENT = 0.175
"""Share of values below and above a window, as ImageJ chooses it (`ContrastAdjuster`: 0.35 % in
all)."""

MOST_ACTIVE = 6
"""Number of channels that are shown at first; vizarr blends no more."""

_COLOURS = (
    ("0000FF", r"DAPI|Hoechst|BFP|blue|B|(AF|Alexa.*|ATTO) ?405|405.*"),
    ("00FF00", r"E?GFP|FITC|Cy ?2|green|G|(AF|Alexa.*|ATTO|Opal) ?(488|520)|488.*"),
    (
        "FF0000",
        r"TRITC|Cy ?3|RFP|mCherry|tdTomato|Texas ?Red|red|R|(AF|Alexa.*) ?5\d\d",
    ),
    ("FF00FF", r"Cy ?5(\.5)?|DRAQ5|(AF|Alexa.*|ATTO) ?(633|647)|6[34]\d.*"),
    ("FFFF00", r"E?YFP|yellow"),
    ("00FFFF", r"E?CFP|cyan"),
    ("FFFFFF", r"bright-? ?field|phase.*|DIC|TL|transmi.*|white"),
)
"""Usual colours of dyes, RRGGBB, in the order in which other channels take them."""


@dataclass(frozen=True, slots=True)
class ChannelDisplay:
    """Label, colour (RRGGBB) and window (start, end; values of the pixels) of a channel."""

    label: str
    colour: str
    window: tuple[float, float]


def choose_display(
    names: Sequence[str], colours: Sequence[str], windows: Sequence[tuple[float, float]]
) -> tuple[ChannelDisplay, ...]:
    """Return the display of channels.

    Parameters
    ----------
    names, colours
        From the file, "" for a channel without; ``colours`` may be empty.
    windows
        Of each channel.

    Examples
    --------
    >>> [c.colour for c in choose_display(["CD3", "DAPI", "x"], (), [(0, 1)] * 3)]
    ['00FF00', '0000FF', 'FF0000']
    """
    chosen = list(colours) if len(colours) == len(names) else [""] * len(names)
    chosen = [own or _usual_colour(name) for own, name in zip(chosen, names, strict=True)]
    free = [colour for colour, _ in _COLOURS if colour not in chosen]
    if len(names) == 1:
        free = ["FFFFFF"]
    for n, colour in enumerate(chosen):
        if not colour:
            chosen[n] = free.pop(0) if free else "FFFFFF"
    return tuple(
        ChannelDisplay(name or str(n), colour, window)
        for n, (name, colour, window) in enumerate(zip(names, chosen, windows, strict=True))
    )


def _usual_colour(name: str) -> str:
    return next((c for c, words in _COLOURS if re.fullmatch(words, name, re.IGNORECASE)), "")


def full_window(dtype: str) -> tuple[float, float]:
    """Return the range of a type of values: (0, 1) for floats.

    Examples
    --------
    >>> full_window("uint8")
    (0, 255)
    """
    kind = np.dtype(dtype)
    if kind.kind not in "iu":
        return 0, 1
    limits = np.iinfo(kind)
    return int(limits.min), int(limits.max)


def robust_window(values: NDArray[Any]) -> tuple[float, float] | None:
    """Return the window that all but the extreme values are in; None without finite values.

    Examples
    --------
    >>> robust_window(np.array([*range(1000), 60_000], np.uint16))
    (2, 998)
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    ends = np.percentile(finite, (SATURATED_PERCENT, 100 - SATURATED_PERCENT), method="nearest")
    low, high = (end.item() for end in ends)
    return low, high if high > low else low + 1


def omero_attributes(display: Sequence[ChannelDisplay], dtype: str) -> dict[str, Any]:
    """Return the block ``omero`` of an image's attributes (NGFF 0.5, "omero" metadata)."""
    channels = []
    for n, one in enumerate(display):
        start, end = one.window
        least, most = full_window(dtype) if np.dtype(dtype).kind in "iu" else one.window
        channels.append(
            {
                "label": one.label,
                "color": one.colour,
                "active": n < MOST_ACTIVE,
                "window": {"min": least, "max": most, "start": start, "end": end},
            }
        )
    return {"channels": channels, "rdefs": {"defaultT": 0, "defaultZ": 0, "model": "color"}}


def display_text(display: Sequence[ChannelDisplay]) -> str:
    """Return a display as it is kept in the catalog; see `read_display`."""
    return json.dumps([asdict(one) for one in display], ensure_ascii=False)


def read_display(facts: Mapping[str, str]) -> tuple[ChannelDisplay, ...]:
    """Return the display in a catalogued ``header``, empty without one.

    Examples
    --------
    >>> one = ChannelDisplay("DAPI", "0000FF", (3, 99.5))
    >>> read_display({DISPLAY: display_text([one])}) == (one,)
    True
    """
    found = json.loads(facts.get(DISPLAY, "[]"))
    return tuple(ChannelDisplay(o["label"], o["colour"], tuple(o["window"])) for o in found)
