"""Otsu's threshold of a window around each pixel, the same in blocks as in the whole image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.geometry import YX
from engine.kernels.segmentation.grid import interpolate_squares, squares_of, window_sums

SPREAD_CELLS = 2.0
"""Standard deviation of the Gaussian window, squares of the grid."""

WINDOW_CELLS = 4
"""Radius at which the window ends, squares."""

FRACTION_BITS = 19
"""Bits of a float32 that a bin of the histograms leaves out: 16 bins remain for each doubling."""


def reach_px(cell_px: int) -> int:
    """Return the largest distance between a pixel and one that its threshold depends on."""
    return cell_px * (WINDOW_CELLS + 2)


def local_otsu(
    values: NDArray[np.float32], cell_px: int, least: float, origin: YX = (0, 0)
) -> NDArray[np.float32]:
    """Return Otsu's threshold (y, x) of the values around each pixel, at least ``least``.

    Histograms are those of squares of a grid that begins at the whole image's first pixel, so that
    a block has the same ones; thresholds are interpolated between the squares' centres.

    Parameters
    ----------
    values
        (y, x), positive.
    cell_px
        Side of a square, pixels.
    least
        Smaller values count as 0.
    origin
        Position of the first pixel in the whole image, pixels.

    Notes
    -----
    N. Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on
    Systems, Man, and Cybernetics 9 (1979).

    Examples
    --------
    >>> local_otsu(np.float32([[1, 1, 9, 9]]), cell_px=4, least=0.5).round(1).tolist()
    [[5.0, 5.0, 5.0, 5.0]]
    """
    values = np.where(values < least, np.float32(0), values)
    names, bins = np.unique(values.view(np.int32) >> FRACTION_BITS, return_inverse=True)
    numbers = squares_of(values.shape, origin, cell_px)
    rows, columns = (
        (first + np.arange(side)) // cell_px - known[0]
        for known, first, side in zip(numbers, origin, values.shape, strict=True)
    )
    shape = (len(numbers[0]), len(numbers[1]), len(names))
    place = ((rows[:, None] * shape[1] + columns) * shape[2] + bins.reshape(values.shape)).ravel()
    counts = np.bincount(place, minlength=np.prod(shape)).reshape(shape).astype(np.float64)
    sums = np.bincount(place, values.ravel(), np.prod(shape)).reshape(shape).astype(np.float64)
    thresholds = _otsu(
        window_sums(counts, SPREAD_CELLS, WINDOW_CELLS),
        window_sums(sums, SPREAD_CELLS, WINDOW_CELLS),
    )
    thresholds = interpolate_squares(thresholds, numbers, values.shape, origin, cell_px)
    return np.maximum(thresholds, least).astype(np.float32)


def _otsu(counts: NDArray[np.float64], sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the middle between the two classes' means, for histograms along the last axis."""
    below, dark = np.cumsum(counts, axis=-1), np.cumsum(sums, axis=-1)
    total, light = below[..., -1:], dark[..., -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        means = dark / below, (light - dark) / (total - below)
        apart = below * (total - below) * (means[1] - means[0]) ** 2
    apart = np.where((below > 0) & (total - below > 0), apart, -1.0)
    best = np.argmax(apart, axis=-1)[..., None]
    low, high = (np.take_along_axis(mean, best, -1)[..., 0] for mean in means)
    return np.where(np.isfinite(low + high), (low + high) / 2, light[..., 0] / total[..., 0])
