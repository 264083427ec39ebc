"""One grey plane of a colour image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError

WITH_LUMINANCE = (2, 3, 4)
"""Channels that have a luminance where they are colours: grey with alpha, RGB and RGBA."""

COLOURS = (3, 4)
"""Channels that are colours where nothing says otherwise: RGB and RGBA."""

LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Red, green, blue: ITU-R BT.601-7, section 2.5.1. They apply to values as stored
(gamma-corrected), which is what files hold."""


def luminance(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the luma of RGB or RGBA pixels, and a grey channel as it is.

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
        If there are more than 4 channels: then it takes a choice of one.

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
    """Return the planes of pixels (c, y, x), and of colours their luminance as one more.

    Parameters
    ----------
    separate
        Whether channels are measurements of their own, and no colours.
    """
    planes = list(pixels)
    return (
        [*planes, luminance(pixels)] if len(planes) in WITH_LUMINANCE and not separate else planes
    )


def has_luminance(channels: int, noises: int) -> bool:
    """Tell whether channels are grey or colours, with or without alpha, and not stains, say.

    Parameters
    ----------
    channels
        How many there are.
    noises
        How many noises were estimated of them: one more than channels if one is of a luminance;
        none where that is not known, and three or four channels are then RGB and RGBA.

    Examples
    --------
    >>> has_luminance(3, 4), has_luminance(3, 3), has_luminance(2, 0)
    (True, False, False)
    """
    return channels == 1 or (noises > channels if noises else channels in COLOURS)


def full_scale(dtype: np.dtype[Any]) -> float:
    """Return the largest value that pixels of a dtype have; floats go to 1."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
