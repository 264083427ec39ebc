"""Convex hulls of objects in exact integers: their pixels and their longest diameter.

A pixel stands for the middles of its four edges, as in `skimage.morphology.convex_hull_image`.
Coordinates are doubled, so that these are integers; the right half of a hull is the left half of
the mirror image.
"""

from __future__ import annotations

import numpy as np

from engine.kernels._jit import Floats, Whole, compiled
from engine.kernels.objects.extents import Extents
from engine.kernels.objects.runs import Runs

EMPTY = 2**40
"""First column of a row without pixels: right of all others."""


@compiled
def leftmost(low: Whole, step: int) -> int:
    """Return the least doubled column of a point at a doubled row, or `EMPTY` or more."""
    if step % 2 == 0:
        return 2 * low[step // 2] - 1
    above = (step - 1) // 2
    column = low[above] if above >= 0 else EMPTY
    if above + 1 < low.size:
        column = min(column, low[above + 1])
    return 2 * column


@compiled
def find_chain(low: Whole, rows: Whole, columns: Whole) -> int:
    """Find the left half of the convex hull, by Andrew's monotone chain.

    Parameters
    ----------
    low
        (h,) int64: the first column of each row, or `EMPTY`; the first and last rows have pixels.
    rows, columns
        (2 h + 1,) int64: filled with the corners, doubled, from the top.

    Returns
    -------
    The number of corners; none lies on the line between its neighbours.
    """
    size = 0
    for step in range(-1, 2 * low.size):
        column = leftmost(low, step)
        if column >= EMPTY:
            continue
        while size > 1:
            down = rows[size - 1] - rows[size - 2]
            across = columns[size - 1] - columns[size - 2]
            if across * (step - rows[size - 2]) < (column - columns[size - 2]) * down:
                break
            size -= 1
        rows[size] = step
        columns[size] = column
        size += 1
    return size


@compiled
def fill_chain(rows: Whole, columns: Whole, low: Whole) -> None:
    """Write the first column of each row whose pixel's centre is not left of a chain."""
    corner = 0
    for y in range(low.size):
        while rows[corner + 1] < 2 * y:
            corner += 1
        down = rows[corner + 1] - rows[corner]
        across = columns[corner + 1] - columns[corner]
        # Rounded up: a centre on the hull is inside.
        low[y] = -(-(columns[corner] * down + across * (2 * y - rows[corner])) // (2 * down))


@compiled
def longest_square(rows: Whole, columns: Whole) -> int:
    """Return the square of the longest distance between two of some points."""
    longest = 0
    for i in range(rows.size):
        for j in range(i):
            down, across = rows[i] - rows[j], columns[i] - columns[j]
            longest = max(longest, down * down + across * across)
    return longest


@compiled
def measure_hulls(runs: Runs, box: Whole, area: Whole, feret: Floats) -> None:
    """Fill the number of pixels of the hull, and the longest diameter, of each object.

    The diameter is that of the outline of the hull's pixels (`skimage.measure.find_contours` at
    0.5): of the middles of their edges, so of the hull of these pixels.
    """
    tallest = 0
    for i in range(area.size):
        tallest = max(tallest, box[i, 2] - box[i, 0])
    sides = np.empty((2, tallest), np.int64)
    rows = np.empty(4 * tallest + 2, np.int64)
    columns = np.empty(4 * tallest + 2, np.int64)
    for i in range(area.size):
        height = box[i, 2] - box[i, 0]
        left, right = sides[0, :height], sides[1, :height]
        left[:] = EMPTY
        right[:] = EMPTY
        for place in range(runs.first[i], runs.first[i + 1]):
            run = runs.order[place]
            y = runs.row[run] - box[i, 0]
            left[y] = min(left[y], runs.start[run] - box[i, 1])
            right[y] = min(right[y], box[i, 1] + 1 - runs.stop[run])
        for side in (left, right):
            size = find_chain(side, rows, columns)
            fill_chain(rows[:size], columns[:size], side)
        for y in range(height):
            area[i] += 1 - right[y] - left[y]
        size = find_chain(left, rows, columns)
        more = find_chain(right, rows[size:], columns[size:])
        columns[size : size + more] *= -1
        longest = longest_square(rows[: size + more], columns[: size + more])
        feret[i] = 0.5 * np.sqrt(longest)


def hull_columns(extents: Extents, runs: Runs) -> dict[str, Floats]:
    """Return ``area_convex`` (pixels), ``solidity`` and ``feret_diameter_max`` (pixels).

    As `skimage.measure.regionprops` defines them.
    """
    area, feret = np.zeros(extents.area.size, np.int64), np.zeros(extents.area.size)
    measure_hulls(runs, extents.box, area, feret)
    return {
        "area_convex": area.astype(np.float64),
        "solidity": extents.area / area,
        "feret_diameter_max": feret,
    }
