"""Grouping of a TIFF's pages by OME-XML and ImageJ metadata.

The engine assigns OME's pages itself instead of using tifffile's series: those allocate memory as
the XML claims, read planes in other files and missing ones as zeros, and ignore spacing. Here
memory is bound by the file's pages.

Sources: OME-TIFF specification and OME schema 2016-06 (Open Microscopy Environment); ImageJ 1.x,
`ij.io.FileSaver.getDescriptionString` and `ij.io.TiffEncoder`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from xml.etree.ElementTree import Element, ParseError, fromstring

import numpy as np
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.header import MISSING_PLANES
from engine.sources.pixel_size import UM_PER_INCH, spacing_from_density
from engine.sources.tiff.checks import MAX_PAGES
from engine.sources.tiff.imagej_values import (
    number_or_nan,
    read_channel_colours,
    read_channel_labels,
)

_NOWHERE, _ELSEWHERE = -1, -2  # pages not in this file: assigned to no file, or to another one
_MAX_PLANES = 10 * MAX_PAGES  # limit for one XML, including planes in the other files of a plate

# Length units of the OME schema and of ImageJ, micrometres. U+00B5 is the micro sign, U+03BC the
# Greek mu; ImageJ escapes non-ASCII characters with six characters.
_UNITS_UM = {"pm": 1e-6, "Å": 1e-4, "A": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "dm": 1e5}
_UNITS_UM |= {"m": 1e6, "inch": UM_PER_INCH, "in": UM_PER_INCH}
# Time units, milliseconds: of the OME schema, and in ImageJ's spelling.
_UNITS_MS = {"ns": 1e-6, "µs": 1e-3, "μs": 1e-3, "us": 1e-3, "ms": 1.0, "msec": 1.0}
_UNITS_MS |= dict.fromkeys(("s", "sec", "second", "seconds"), 1e3)
_UNITS_MS |= {"min": 6e4, "minute": 6e4, "minutes": 6e4, "h": 3.6e6, "hour": 3.6e6, "d": 8.64e7}
_UNITS_UM |= dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "\\u00B5m"), 1.0)


@dataclass(frozen=True, slots=True)
class Group:
    """Pages of one image: one per channel (or one for all, if pages have colour).

    The other fields are as in `engine.sources.base.Plane`; ``channel_names`` and
    ``channel_colours`` have one per page.
    """

    pages: tuple[int, ...]
    place: tuple[int, int] | None = None
    series: int = 0
    spacing_um: tuple[float, float] | None = None
    step_um: float | None = None
    step_ms: float | None = None
    channel_names: tuple[str, ...] = ()
    channel_colours: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    rescale: tuple[float, float] | None = None
    companions: tuple[str, ...] = ()


def is_ome(description: str) -> bool:
    """Return True if a description is OME-XML, even if truncated."""
    return description.startswith(("<?xml", "<OME ", "<OME>")) and "<OME" in description[:4096]


def imagej_count(fields: Mapping[str, Any], name: str) -> int:
    """Return a count from ImageJ's description; 1 by default.

    Raises
    ------
    SourceUnreadable
        ``corrupt`` if it is invalid, ``unsupported`` if it exceeds the limit of pages.
    """
    return _bounded(_whole(str(fields.get(name, 1))))


def group_imagej(
    fields: Mapping[str, Any], pages: int, samples: int, shown: Sequence[int]
) -> list[Group]:
    """Group the pages of an ImageJ stack.

    Parameters
    ----------
    fields
        Fields of ImageJ's description.
    pages
        Number of pages in the file.
    samples
        Values per pixel of the first page: some programs count colours as channels.
    shown
        Indices of the pages that are images.

    Returns
    -------
    Groups in the order of t, then z. Channels run fastest, then z, then t, unless ``order`` says
    otherwise. If the counts do not fit the pages, or the order is invalid, each page is an image of
    its own, with a finding.
    """
    t, z, c = (imagej_count(fields, name) for name in ("frames", "slices", "channels"))
    if samples > 1 and c == samples and z * t == pages:
        c = 1
    order = str(fields.get("order", "czt")).lower()  # fastest first
    order = "czt" if order == "default" else order
    if c * z * t != pages or sorted(order) != ["c", "t", "z"]:
        odd = c * z * t > 1 or "order" in fields
        return [Group((i,), findings=("counts_differ",) if odd else ()) for i in shown]
    if pages == 1:
        return [Group((0,))]
    counts = {"t": t, "z": z, "c": c}
    slowest = order[::-1]
    at = np.arange(pages).reshape([counts[axis] for axis in slowest])
    at = at.transpose([slowest.index(axis) for axis in "tzc"])
    step_um = _step(fields.get("spacing"), _UNITS_UM.get(str(fields.get("unit", "")).strip()))
    step_ms = _step(fields.get("finterval"), _UNITS_MS.get(str(fields.get("tunit", "sec")).strip()))
    names, colours = read_channel_labels(fields, at), read_channel_colours(fields, c)
    return [
        Group(
            tuple(at[i, j].tolist()), (i, j) if z * t > 1 else None, step_um=step_um,
            step_ms=step_ms, channel_names=names, channel_colours=colours,
        )
        for i, j in np.ndindex(t, z)
    ]  # fmt: skip


def group_shaped(text: str, pages: int) -> list[Group] | None:
    """Group the pages of a file with axes in tifffile's JSON description.

    Returns
    -------
    None if the description has another form, has no axes, or they do not fit the pages.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not (isinstance(fields, dict) and isinstance(fields.get("axes"), str)):
        return None
    axes, shape = fields["axes"].upper(), fields.get("shape")
    if not isinstance(shape, list) or len(shape) != len(axes):
        return None
    slow = axes.removesuffix("S").removesuffix("YX")
    counts = dict(zip(slow, shape, strict=False))
    fits = len(counts) == len(slow) > 0 and not set(slow) - {*"TZC"} and "YX" in axes
    if not fits or not all(isinstance(count, int) and count > 0 for count in counts.values()):
        return None
    names = {"T": "frames", "Z": "slices", "C": "channels"}
    known = {names[axis]: count for axis, count in counts.items()}
    known = {**fields, **dict.fromkeys(names.values(), 1), **known}
    known["order"] = slow[::-1] + "".join(axis for axis in "CZT" if axis not in slow)
    # some pages are missing; surplus pages belong to other arrays
    if math.prod(counts.values()) > pages:
        return [Group((i,), findings=("counts_differ",)) for i in range(pages)]
    if math.prod(counts.values()) != pages:
        return None
    return group_imagej(known, pages, 1, range(pages))


def imagej_spacing(
    unit_name: str, density: tuple[float, float] | None
) -> tuple[float, float] | None:
    """Return ImageJ's calibration (y, x), micrometres; ``density`` is in pixels per unit."""
    unit = _UNITS_UM.get(unit_name.strip())
    if unit is None or density is None:
        return None
    if unit == UM_PER_INCH:
        # ImageJ enters "inch" for an image that it opened with a printing density.
        return spacing_from_density(*density, UM_PER_INCH)
    return _positive(unit / density[0], unit / density[1])


def group_ome(xml: str, samples: Sequence[int], name: str = "") -> list[Group] | None:
    """Group the pages of an OME-TIFF by its `TiffData` blocks.

    Parameters
    ----------
    xml
        Description of the first page.
    samples
        Values per pixel of each page: channels within one page.
    name
        Name of the file, which may be the only reference to it in a set of files.

    Returns
    -------
    One group for each (series, t, z) that has a page in this file; channels in other files of the
    set, or missing ones, are a finding, and so are planes that no block assigns. None if the
    metadata are in another file, or do not identify this file in the set. Pages that the metadata
    do not name are not images of the file.

    Raises
    ------
    SourceUnreadable
        ``corrupt`` if the XML is invalid, ``truncated`` if it names missing pages.
    """
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        # The schema has neither, and entities are a way to make XML bombs.
        raise SourceUnreadable("corrupt", "the OME-XML declares entities")
    try:
        root = fromstring(xml)
    except (ParseError, ValueError, LookupError):
        raise SourceUnreadable("corrupt", "the OME-XML can't be parsed") from None
    is_here = _own_blocks(root, name)
    groups: list[Group] = []
    unnamed = 0  # next page of images without TiffData
    images = root.findall("{*}Image/{*}Pixels")
    # Planes with different channels are not one series: each set of channels is a series.
    numbers: dict[tuple[int, tuple[int, ...]], int]
    numbers = {(series, ()): series for series in range(len(images))}
    for series, pixels in enumerate(images):
        blocks = [(block, is_here(block)) for block in pixels.findall("{*}TiffData")]
        own = [block for block, here in blocks if here]
        first = _whole(own[0].get("IFD", "0"), least=0) if own else unnamed
        sizes = {axis: _whole(pixels.get(f"Size{axis}", "1")) for axis in "CZT"}
        held = samples[first] if (own or not blocks) and first < len(samples) else 1
        sizes["C"], held = _count_planes(pixels, sizes["C"], held)
        total = _bounded(math.prod(sizes.values()))
        placed = _place_pages(pixels, sizes, held, blocks, unnamed)
        odd = (MISSING_PLANES,) if (placed == _NOWHERE).any() else ()
        unnamed = _bounded(unnamed + total, _MAX_PLANES)
        common = Group(
            (), None, series, _ome_spacing(pixels), _ome_step_um(pixels), _ome_step_ms(pixels),
            companions=_companions(block for block, here in blocks if not here),
        )  # fmt: skip
        channels = pixels.findall("{*}Channel")
        known = len(channels) == sizes["C"]
        names = [channel.get("Name") or channel.get("Fluor") or "" for channel in channels]
        colours = [_ome_colour(channel.get("Color", "-1")) for channel in channels]
        for t, z in np.argwhere((placed >= 0).any(axis=2)).tolist():
            there = np.flatnonzero(placed[t, z] >= 0)
            chosen = tuple(placed[t, z, there].tolist())
            if max(chosen) >= len(samples):
                raise SourceUnreadable("truncated", "pages that the OME-XML names are missing")
            key = (series, () if len(there) == sizes["C"] else tuple(there.tolist()))
            groups.append(
                replace(
                    common,
                    pages=chosen,
                    place=(t, z) if sizes["Z"] * sizes["T"] > 1 else None,
                    series=numbers.setdefault(key, len(numbers)),
                    channel_names=tuple(names[c] for c in there) if known else (),
                    channel_colours=tuple(colours[c] for c in there) if known else (),
                    findings=(*odd, *(("channels_elsewhere",) if key[1] else ())),
                )
            )
    return groups or None


def _own_blocks(root: Element, name: str) -> Callable[[Element], bool]:
    """Return a predicate of the blocks of this file, as opposed to other files of a set.

    The file is identified by its UUID, else by its name, else as the only named one.
    """
    named = {
        ((uuid.text or "").strip(), uuid.get("FileName", "").replace("\\", "/").rpartition("/")[2])
        for uuid in root.iterfind("{*}Image/{*}Pixels/{*}TiffData/{*}UUID")
    }
    own, file = root.get("UUID"), name.rpartition("/")[2]

    def is_here(block: Element) -> bool:
        uuid = block.find("{*}UUID")
        if uuid is None:
            return True
        if own is not None and any(own == text for text, _ in named):
            return (uuid.text or "").strip() == own
        if file and any(file == known for _, known in named):
            return _file_of(block) == file
        return own is None and len(named) == 1

    return is_here


def _companions(blocks: Iterable[Element]) -> tuple[str, ...]:
    """Return the names of the files, without folders, that the blocks refer to."""
    return tuple(sorted({_file_of(block) for block in blocks} - {"", ".", ".."}))


def _file_of(block: Element) -> str:
    uuid = block.find("{*}UUID")
    name = "" if uuid is None else uuid.get("FileName", "")
    return name.replace("\\", "/").rpartition("/")[2]


def _count_planes(pixels: Element, channels: int, held: int) -> tuple[int, int]:
    """Return the number of pages for the channels of a plane, and the channels per page."""
    if channels % held == 0:
        return channels // held, held
    listed = [_whole(c.get("SamplesPerPixel", "1")) for c in pixels.findall("{*}Channel")]
    return (len(listed), 1) if sum(listed) == channels else (channels, 1)


def _place_pages(
    pixels: Element,
    sizes: dict[str, int],
    held: int,
    blocks: Sequence[tuple[Element, bool]],
    first: int,
) -> NDArray[np.int64]:
    """Return the page of each (t, z, c); negative for those not in this file."""
    order = pixels.get("DimensionOrder", "XYCZT")[:1:-1]  # slowest first
    if sorted(order) != ["C", "T", "Z"]:
        raise SourceUnreadable("corrupt", "the OME-XML has no such order of dimensions")
    shape = [sizes[axis] for axis in order]
    total = math.prod(shape)
    placed = np.full(total, _NOWHERE)
    all_pages = Element("TiffData", IFD=str(first), PlaneCount=str(total))
    left = total
    for block, here in blocks or [(all_pages, True)]:
        page, count = block.get("IFD"), block.get("PlaneCount")
        at = {axis: _whole(block.get(f"First{axis}", "0"), least=0) for axis in order}
        if at["C"] >= sizes["C"] and at["C"] % held == 0:
            at["C"] //= held  # counted in colours, not in pages
        start = int(np.ravel_multi_index([at[axis] for axis in order], shape))
        # Specification: without a count, a block with IFD is one plane, one without is all.
        due = _whole(count) if count is not None else (1 if page is not None else total - start)
        if not here:
            part = placed[start : start + due]
            part[part < 0] = _ELSEWHERE
            continue
        left -= due
        if left < 0 or start + due > total:
            raise SourceUnreadable("corrupt", "the OME-XML places more planes than it has")
        placed[start : start + due] = _whole(page or "0", least=0) + np.arange(due)
    return placed.reshape(shape).transpose([order.index(axis) for axis in "TZC"])


def _ome_colour(text: str) -> str:
    """Return a colour of the schema, a signed RGBA number, as RRGGBB; empty for its default."""
    try:
        colour = int(text) & 0xFFFFFFFF
    except ValueError:
        return ""
    return "" if colour == 0xFFFFFFFF else f"{colour >> 8:06X}"


def _ome_step_um(pixels: Element) -> float | None:
    unit = pixels.get("PhysicalSizeZUnit", "µm")
    return _step(pixels.get("PhysicalSizeZ"), _UNITS_UM.get(unit))


def _ome_step_ms(pixels: Element) -> float | None:
    """Return the time between frames: as stated, else the median of the first planes."""
    unit = _UNITS_MS.get(pixels.get("TimeIncrementUnit", "s"))
    stated = _step(pixels.get("TimeIncrement"), unit)
    if stated is not None:
        return stated
    times = np.array([
        number_or_nan(plane.get("DeltaT")) * _UNITS_MS.get(plane.get("DeltaTUnit", "s"), math.nan)
        for plane in pixels.findall("{*}Plane")
        if plane.get("TheC") == plane.get("TheZ") == "0"
    ])  # fmt: skip
    steps = np.diff(np.sort(times[np.isfinite(times)]))
    return _step(np.median(steps), 1.0) if len(steps) else None


def _step(value: Any, unit: float | None) -> float | None:
    """Return a distance in space or time in our unit; None if it is invalid."""
    try:
        step = float(value) * (math.nan if unit is None else unit)
    except (TypeError, ValueError):
        return None
    return step if math.isfinite(step) and step > 0 else None


def _ome_spacing(pixels: Element) -> tuple[float, float] | None:
    units = [_UNITS_UM.get(pixels.get(f"PhysicalSize{a}Unit", "µm"), math.nan) for a in "YX"]
    try:
        y, x = (float(pixels.get(f"PhysicalSize{a}", "nan")) for a in "YX")
    except ValueError:
        return None
    return _positive(y * units[0], x * units[1])


def _positive(y: float, x: float) -> tuple[float, float] | None:
    return (y, x) if all(math.isfinite(step) and step > 0 for step in (y, x)) else None


def _bounded(count: int, most: int = MAX_PAGES) -> int:
    if count > most:
        raise SourceUnreadable("unsupported", f"more than {most} pages")
    return count


def _whole(text: str, least: int = 1) -> int:
    # int() accepts signs, underscores and digits of other scripts; metadata have ten digits at
    # most.
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) < least:
        raise SourceUnreadable("corrupt", "a number of the metadata makes no sense")
    return int(text)
