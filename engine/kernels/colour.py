"""Conversion of colour images to one grey plane."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError

WITH_LUMINANCE = (2, 3, 4)
"""Numbers of channels with a luminance if they are colours: grey with alpha, RGB and RGBA."""

COLOURS = (3, 4)
"""Numbers of channels taken as colours by default: RGB and RGBA."""

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Red, green, blue: ITU-R BT.601-7, section 2.5.1. They apply to gamma-corrected values, the
values stored in files."""


def luminance(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the luma of RGB or RGBA pixels; return a grey channel unchanged.

    Parameters
    ----------
    pixels
        Array (c, y, x): 1 channel (grey), 2 (grey, alpha), 3 (red, green, blue) or 4 (and alpha);
        alpha is ignored. Bool, integers or floats.

    Returns
    -------
    Array (y, x) of the same type; integers are rounded to the nearest (a half upwards), bool by
    the same rule.

    Raises
    ------
    ParameterError
        If there are more than 4 channels: the caller must choose one.

    Notes
    -----
    Weights 0.299, 0.587, 0.114: ITU-R BT.601-7, section 2.5.1.

    Examples
    --------
    >>> int(luminance(np.full((3, 1, 1), 200, np.uint8))[0, 0])
    200
    """
    array = np.asarray(pixels)
    if array.ndim != 3:
        raise ParameterError("pixels", f"of shape {array.shape}", "of axes (c, y, x)")
    channels = array.shape[0]
    if channels in (1, 2):
        return array[0]
    if channels not in (3, 4):
        raise ParameterError(
            "channel", f"not given for {channels} channels", "one of them (1 to 4 need none)"
        )
    red, green, blue = (float(weight) for weight in LUMA_WEIGHTS)
    grey = red * array[0] + green * array[1] + blue * array[2]
    if array.dtype.kind in "buif" and array.dtype.kind != "f":
        return np.floor(grey + 0.5).astype(array.dtype)
    return grey.astype(array.dtype, copy=False)


def with_luminance(pixels: NDArray[Any], separate: bool) -> list[NDArray[Any]]:
    """Return the planes of pixels (c, y, x), plus the luminance of colours.

    Parameters
    ----------
    separate
        Whether channels are independent measurements instead of colours.
    """
    planes = list(pixels)
    return (
        [*planes, luminance(pixels)] if len(planes) in WITH_LUMINANCE and not separate else planes
    )


def has_luminance(channels: int, noises: int) -> bool:
    """Return whether channels are grey or colours, with or without alpha, instead of stains.

    Parameters
    ----------
    channels
        Number of channels.
    noises
        Number of estimated noises: channels plus one if a luminance was estimated; 0 if unknown,
        when three or four channels count as RGB and RGBA.

    Examples
    --------
    >>> has_luminance(3, 4), has_luminance(3, 3), has_luminance(2, 0)
    (True, False, False)
    """
    return channels == 1 or (noises > channels if noises else channels in COLOURS)


def full_scale(dtype: np.dtype[Any]) -> float:
    """Return the largest value of pixels of a dtype; 1 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
