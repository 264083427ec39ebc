"""Orientation of images by EXIF and TIFF, and rotation of pixels by it.

The eight values are those of TIFF 6.0, field 274: the sides of the shown image on which the first
row and the first column of the stored pixels are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.geometry import YX

UPRIGHT = 1
ORIENTED = "oriented"
"""Finding (`engine.header.FINDINGS`) of images stored in another orientation than upright."""

TAG = 274

_SWAPPED = (5, 6, 7, 8)  # rows are shown as columns


def orientation_of(value: Any) -> int:
    """Return a stated orientation; invalid values are upright, as in viewers."""
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def exif_orientation(block: bytes) -> int:
    """Return the orientation of an EXIF block, a small TIFF; damaged blocks count as upright."""
    exif = Image.Exif()
    try:
        exif.load(block)
        return orientation_of(exif.get(TAG))
    except Exception:  # damaged metadata: viewers show the image nevertheless
        return UPRIGHT


def findings_of(orientation: int) -> tuple[str, ...]:
    """Return the finding of an orientation, if any."""
    return () if orientation == UPRIGHT else (ORIENTED,)


def shown_shape(stored: YX, orientation: int) -> YX:
    """Return the height and width that a viewer shows."""
    return (stored[1], stored[0]) if orientation in _SWAPPED else stored


def as_shown(stored: NDArray[Any], orientation: int) -> NDArray[Any]:
    """View stored pixels, (..., y, x), as a viewer shows them.

    Examples
    --------
    >>> as_shown(np.array([[1, 2], [3, 4]]), 6)
    array([[3, 1],
           [4, 2]])
    """
    turned = np.swapaxes(stored, -1, -2) if orientation in _SWAPPED else stored
    if orientation in (3, 4, 7, 8):
        turned = turned[..., ::-1, :]
    return turned[..., ::-1] if orientation in (2, 3, 6, 7) else turned


def as_stored(shown: NDArray[Any], orientation: int) -> NDArray[Any]:
    """View shown pixels, (..., y, x), as stored: the inverse of `as_shown`.

    Examples
    --------
    >>> pixels = np.array([[1, 2], [3, 4]])
    >>> all((as_stored(as_shown(pixels, n), n) == pixels).all() for n in range(1, 9))
    True
    """
    inverse = {6: 8, 8: 6}
    return as_shown(shown, inverse.get(orientation, orientation))
