"""Pictures of the differences between labels and masks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FALSE = (230, 30, 40)
"""Red: false positive."""

MISSED = (20, 170, 70)
"""Green: false negative."""

PANEL_PX = 420
"""Longest side of a panel, pixels."""

GAP_PX = 6

PALER = 0.45
"""Opacity of the image beneath its errors, on white."""


def error_map(
    pixels: NDArray[Any], truth: NDArray[np.uint8], found: NDArray[np.uint8], label: int
) -> NDArray[np.uint8]:
    """Return a pale picture (y, x, 3) on which a class's false pixels are red, missed ones green.

    Parameters
    ----------
    pixels
        (c, y, x); three channels are red, green and blue, otherwise the first is grey.
    truth, found
        (y, x) labels.
    label
        The class.

    Examples
    --------
    >>> blank = np.full((3, 1, 3), 255, np.uint8)
    >>> error_map(blank, np.array([[1, 1, 0]]), np.array([[1, 0, 1]]), 1).tolist()
    [[[255, 255, 255], [20, 170, 70], [230, 30, 40]]]
    """
    seen = 255 - PALER * (255 - as_rgb(pixels).astype(np.float32))
    picture = np.rint(seen).astype(np.uint8)
    picture[(found == label) & (truth != label)] = FALSE
    picture[(truth == label) & (found != label)] = MISSED
    return picture


def as_rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return (c, y, x) pixels as displayed: (y, x, 3) uint8."""
    planes = pixels[:3] if len(pixels) >= 3 else np.repeat(pixels[:1], 3, axis=0)
    if planes.dtype != np.uint8:
        low, high = np.percentile(planes, (0.5, 99.5))
        planes = np.clip((planes - low) / max(high - low, 1e-9), 0, 1) * 255
    return np.moveaxis(planes, 0, 2).astype(np.uint8)


def draw_errors(
    pixels: NDArray[Any],
    truth: NDArray[np.uint8],
    found: NDArray[np.uint8],
    labels: Sequence[int],
) -> bytes:
    """Return a PNG of the image, and next to it an error map for each of some classes.

    Parameters
    ----------
    pixels, truth, found
        See `error_map`.
    labels
        The classes, from the left.
    """
    from PIL import Image

    panels = [as_rgb(pixels), *(error_map(pixels, truth, found, label) for label in labels)]
    # Skipping pixels would lose thin errors, so panels are averaged.
    shrunk = [_shrunk(panel) for panel in panels]
    height, width = shrunk[0].shape[:2]
    across = len(shrunk) * width + (len(shrunk) - 1) * GAP_PX
    strip = np.full((height, across, 3), 255, np.uint8)
    for n, panel in enumerate(shrunk):
        start = n * (width + GAP_PX)
        strip[:, start : start + width] = panel
    kept = io.BytesIO()
    Image.fromarray(strip).save(kept, "PNG")
    return kept.getvalue()


def _shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    step = -(-max(picture.shape[:2]) // PANEL_PX)
    if step == 1:
        return picture
    height, width = (side // step for side in picture.shape[:2])
    cut = picture[: height * step, : width * step].astype(np.float32)
    return np.rint(cut.reshape(height, step, width, step, 3).mean(axis=(1, 3))).astype(np.uint8)
