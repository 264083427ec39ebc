"""Local contrast of a plane: its values relative to the mean and the spread around each pixel.

Statistics are those of squares of a grid that begins at the whole image's first pixel. So a block
has the contrast of the whole image, to the bit, further than `REACH_PX` from its inner borders.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.geometry import YX
from engine.kernels.noise import noise_sd as estimate_noise_sd
from engine.kernels.segmentation.grid import interpolate_squares, squares_of, window_sums

CELL_PX = 16
"""Side of the squares of the grid, pixels."""

SPREAD_CELLS = 2.0
"""Standard deviation of the Gaussian window over the grid, squares: 32 px, a few small nuclei."""

WINDOW_CELLS = 5
"""Radius at which the window ends, squares."""

REACH_PX = CELL_PX * (WINDOW_CELLS + 2)
"""Largest distance between a pixel and one that its contrast depends on, pixels."""

NOISE_SDS = 3.0
"""Spread of a plane without structures, in standard deviations of its noise: so that noise has less
contrast there than the faintest nucleus."""

DARKEST, BRIGHTEST = -2.0, 5.0
"""Inverse hyperbolic sines of the differences that become 0 and 1. It is nearly linear for small
differences, and logarithmic for those of nuclei that are much brighter than most: a limit would
hide the line between two of them."""


def local_contrast(
    plane: NDArray[Any], noise_sd: float | None = None, origin: YX = (0, 0)
) -> NDArray[np.float32]:
    """Return (y, x) float32 from 0 to 1: each value relative to its surroundings.

    Parameters
    ----------
    plane
        (y, x) of numbers; values that are not finite count as 0.
    noise_sd
        Standard deviation of the whole image's noise, grey levels, as from `noise.noise_sd`;
        estimated by default.
    origin
        Position of the first pixel in the whole image, pixels.

    Examples
    --------
    >>> local_contrast(np.full((2, 2), 7, np.uint8)).tolist()
    [[0.2857142984867096, 0.2857142984867096], [0.2857142984867096, 0.2857142984867096]]
    """
    values = np.nan_to_num(np.asarray(plane, np.float64), posinf=0.0, neginf=0.0)
    numbers = squares_of(plane.shape, origin, CELL_PX)
    starts = [
        np.maximum(known * CELL_PX - first, 0) for known, first in zip(numbers, origin, strict=True)
    ]
    count, total, squares = (
        window_sums(_sums(each, starts), SPREAD_CELLS, WINDOW_CELLS)
        for each in (np.ones_like(values), values, values**2)
    )
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    noise = estimate_noise_sd(plane) if noise_sd is None else noise_sd
    floor = max(NOISE_SDS * noise, float(np.finfo(np.float32).tiny))
    middle, scale = (
        interpolate_squares(each, numbers, plane.shape, origin, CELL_PX)
        for each in (mean, np.hypot(spread, floor))
    )
    contrast = (np.arcsinh((values - middle) / scale) - DARKEST) / (BRIGHTEST - DARKEST)
    return np.clip(contrast, 0.0, 1.0, dtype=np.float32, casting="unsafe")


def _sums(values: NDArray[np.float64], starts: Any) -> NDArray[np.float64]:
    return np.add.reduceat(np.add.reduceat(values, starts[1], axis=1), starts[0], axis=0)
