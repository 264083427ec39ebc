"""Ellipses with the second moments of objects: lengths of axes, eccentricity, orientation."""

from __future__ import annotations

import math

import numpy as np

from engine.kernels._jit import Floats, Whole, compiled
from engine.kernels.objects.extents import Extents
from engine.kernels.objects.runs import Runs


@compiled
def add_squares(runs: Runs, origin: Whole, sums: Whole) -> None:
    """Add up second-order products of coordinates.

    Parameters
    ----------
    origin
        (n, 2) int64: the pixel from which coordinates of each object count. Near the centroid, so
        that no sum leaves int64 and little cancels.
    sums
        (n, 5) int64, zeros: filled with sums of y, x, yy, xx, yx.
    """
    for i in range(origin.shape[0]):
        for place in range(runs.first[i], runs.first[i + 1]):
            run = runs.order[place]
            y = runs.row[run] - origin[i, 0]
            start = runs.start[run] - origin[i, 1]
            last = runs.stop[run] - 1 - origin[i, 1]
            count = last - start + 1
            across = count * (start + last) // 2
            # Sum of squares up to m: m (m + 1) (2 m + 1) / 6, for negative m too.
            below = start - 1
            squares = (
                last * (last + 1) * (2 * last + 1) - below * (below + 1) * (2 * below + 1)
            ) // 6
            sums[i, 0] += y * count
            sums[i, 1] += across
            sums[i, 2] += y * y * count
            sums[i, 3] += squares
            sums[i, 4] += y * across


COLUMNS = ("axis_major_length", "axis_minor_length", "eccentricity", "orientation")
"""Columns of `fit_ellipses`."""


@compiled
def fit_ellipses(moments: Floats, area: Floats, found: Floats) -> None:
    """Write the ellipses with some moments.

    Parameters
    ----------
    moments
        (n, 4) float64, of central second moments times area: their sum, their difference, twice
        the mixed one, and the determinant.
    found
        (n, 4) float64: filled with `COLUMNS`.
    """
    for i in range(area.size):
        total, apart, crossed, least = moments[i]
        # The larger eigenvalue, and the smaller one from the product of both: nothing cancels.
        large = 0.5 * (total + math.hypot(apart, crossed))
        small = least / large if large > 0.0 else 0.0
        found[i, 0] = 4.0 * math.sqrt(large) / area[i]
        found[i, 1] = 4.0 * math.sqrt(small) / area[i]
        found[i, 2] = math.sqrt(max(0.0, 1.0 - small / large)) if large > 0.0 else 0.0
        if apart == 0.0:
            found[i, 3] = math.pi / 4 if crossed > 0.0 else -math.pi / 4
        else:
            found[i, 3] = 0.5 * math.atan2(crossed, apart)


def ellipse_columns(extents: Extents, runs: Runs) -> dict[str, Floats]:
    """Return the columns of the ellipses with the objects' second moments.

    Returns
    -------
    `COLUMNS`, as `skimage.measure.regionprops` defines them: lengths in pixels, the orientation in
    radians from the axis of rows, -pi/4 for an object without a longer axis.
    """
    sums = np.zeros((extents.area.size, 5), np.int64)
    add_squares(runs, extents.sums // extents.area[:, None], sums)
    # Python's integers, which are exact: rounding errors would give a minor axis to points on a
    # line, and an orientation to a square.
    area = extents.area.astype(object)
    y, x, yy, xx, yx = sums.astype(object).T
    down, across, both = area * yy - y * y, area * xx - x * x, area * yx - y * x
    moments = np.stack([down + across, down - across, 2 * both, down * across - both * both], 1)
    found = np.empty((extents.area.size, len(COLUMNS)))
    fit_ellipses(moments.astype(np.float64), extents.area.astype(np.float64), found)
    return {name: found[:, n] for n, name in enumerate(COLUMNS)}
