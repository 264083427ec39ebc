"""Grids that begin at a whole image's first pixel, so that its blocks have the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.geometry import YX


def squares_of(shape: YX, origin: YX, side_px: int) -> list[NDArray[np.int64]]:
    """Return, for each axis, the numbers of the squares that have pixels in an array.

    Parameters
    ----------
    shape, origin
        Size (y, x) of the array, and the position of its first pixel in the whole image, pixels.
    side_px
        Side of a square, pixels.
    """
    return [
        np.arange(first // side_px, (first + length - 1) // side_px + 1)
        for first, length in zip(origin, shape, strict=True)
    ]


def window_sums(squares: NDArray[np.float64], sd: float, radius: int) -> NDArray[np.float64]:
    """Return sums over a Gaussian window around each square, along the first two axes."""
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sd) ** 2)
    for axis in (0, 1):
        squares = ndimage.correlate1d(squares, taps, axis=axis, mode="constant")
    return squares


def interpolate_squares(
    squares: NDArray[np.float64],
    numbers: Sequence[NDArray[np.int64]],
    shape: YX,
    origin: YX,
    side_px: int,
) -> NDArray[np.float64]:
    """Return the values of squares, which hold at their centres, at each pixel of an array."""
    pixels = (first + np.arange(length) for first, length in zip(origin, shape, strict=True))
    at = [(each + 0.5) / side_px - 0.5 for each in pixels]
    return interpolate(squares, at, (int(numbers[0][0]), int(numbers[1][0])))


def interpolate(
    values: NDArray[Any], at: Sequence[NDArray[np.float64]], origin: YX
) -> NDArray[Any]:
    """Return values at positions of each axis, linearly; those beyond the edge are the edge's.

    Parameters
    ----------
    values
        (y, x).
    at
        Positions along y and along x, in the coordinates of ``origin``.
    origin
        Position of the first value.

    Examples
    --------
    >>> interpolate(np.array([[0.0, 4.0]]), [np.array([9.0]), np.array([5.0, 5.25, 7.0])], (9, 5))
    array([[0., 1., 4.]])
    """
    for axis, (places, first) in enumerate(zip(at, origin, strict=True)):
        below = np.floor(places)
        share = (places - below).astype(values.dtype).reshape((-1, 1) if axis == 0 else (1, -1))
        index = below.astype(np.int64) - first
        low, high = (np.clip(n, 0, values.shape[axis] - 1) for n in (index, index + 1))
        values = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return values
