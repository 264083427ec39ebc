"""Instances of a label image: numbered by their first pixels, measured, and cut to a block.

A block of a large plane sees the objects around it too. Two blocks that see an object whole see the
same first pixel of it (row by row, in the whole plane), and so give it the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.geometry import YX, Region
from engine.kernels._jit import compiled

DENSE = 4
"""Largest label, per pixel, up to which a table of all labels is made instead of sorting them."""

AREA, SUM_Y, SUM_X, FIRST, TOP, LEFT, BOTTOM, RIGHT, OWN = range(9)
"""Columns of the sums of an object; pixels of the read array, `OWN` those of the core region."""


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects with pixels in a region: columns of equal length, ordered by their first pixels.

    Attributes
    ----------
    total
        Number of objects in the given array, with those outside of the core region.
    numbers
        (y, x) uint32 of the core region: the position of each pixel's object in the columns, from
        1; 0 is background.
    rank
        Position of each object's label among those of the given array, ascending, from 0.
    first
        First pixel, as an index into the whole plane row by row.
    owned
        Whether the first pixel is in the core region, so that the object is counted here.
    cut
        Whether the object reaches a border of the given array inside the plane, beyond which it may
        go on.
    y, x
        Centroid, pixels of the whole plane.
    area_px
        Number of pixels.
    top, left, bottom, right
        Bounding box in the whole plane, half-open.
    """

    total: int
    numbers: NDArray[np.uint32]
    rank: NDArray[np.int64]
    first: NDArray[np.int64]
    owned: NDArray[np.bool_]
    cut: NDArray[np.bool_]
    y: NDArray[np.float64]
    x: NDArray[np.float64]
    area_px: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    bottom: NDArray[np.int64]
    right: NDArray[np.int64]


def find_instances(
    labels: NDArray[Any],
    origin: YX = (0, 0),
    core: Region | None = None,
    full_shape: YX | None = None,
) -> Instances:
    """Find the objects of a label image, or of one block of it.

    Parameters
    ----------
    labels
        (y, x) of any integer type, with any positive numbers; 0 is background. The pixels of an
        object need not be connected.
    origin
        Position of the first pixel in the whole plane.
    core
        Region of the whole plane that the block is responsible for; by default all of the array.
    full_shape
        Size of the whole plane; by default that of the array.

    Raises
    ------
    ValueError
        If a label is negative.
    """
    height, width = labels.shape
    whole = full_shape or (height, width)
    core = core or Region(origin, (origin[0] + height, origin[1] + width))
    dense, names = _dense(labels)
    box = Region(
        (core.start[0] - origin[0], core.start[1] - origin[1]),
        (core.stop[0] - origin[0], core.stop[1] - origin[1]),
    )
    order, sums = _sum_objects(dense, names, np.array([*box.start, *box.stop]))
    rank = np.argsort(np.argsort(order))
    mine = sums[:, OWN] > 0
    numbers = np.zeros(names, np.uint32)
    numbers[order[mine]] = np.arange(1, int(mine.sum()) + 1)
    rank, sums = rank[mine], sums[mine]
    y, x = sums[:, FIRST] // width, sums[:, FIRST] % width
    cut = np.zeros(len(sums), bool)
    for side, at, goes_on in (
        (TOP, 0, origin[0] > 0),
        (LEFT, 0, origin[1] > 0),
        (BOTTOM, height, origin[0] + height < whole[0]),
        (RIGHT, width, origin[1] + width < whole[1]),
    ):
        if goes_on:
            cut |= sums[:, side] == at
    return Instances(
        total=len(order),
        numbers=numbers[dense[box.slices]],
        rank=rank,
        first=(y + origin[0]) * whole[1] + x + origin[1],
        owned=(y >= box.start[0]) & (y < box.stop[0]) & (x >= box.start[1]) & (x < box.stop[1]),
        cut=cut,
        y=(sums[:, SUM_Y] + origin[0] * sums[:, AREA]) / sums[:, AREA],  # one rounding
        x=(sums[:, SUM_X] + origin[1] * sums[:, AREA]) / sums[:, AREA],
        area_px=sums[:, AREA],
        top=sums[:, TOP] + origin[0],
        left=sums[:, LEFT] + origin[1],
        bottom=sums[:, BOTTOM] + origin[0],
        right=sums[:, RIGHT] + origin[1],
    )


def _dense(labels: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Return labels in the same order that are small enough for a table, and the table's length."""
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise ValueError("negative labels")
    highest = int(labels.max(initial=0))
    if highest <= DENSE * labels.size + 1:
        return labels.astype(np.int64), highest + 1
    names, dense = np.unique(labels, return_inverse=True)
    background = int(names[0] == 0)
    return dense.reshape(labels.shape).astype(np.int64) + 1 - background, len(names) + 1


@compiled
def _sum_objects(
    labels: NDArray[np.int64], names: int, core: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the labels that occur, ordered by their first pixels, and the sums of each."""
    height, width = labels.shape
    place = np.full(names, -1, np.int64)
    order = np.empty(names, np.int64)
    sums = np.zeros((names, 9), np.int64)
    found = 0
    for y in range(height):
        for x in range(width):
            label = labels[y, x]
            if label == 0:
                continue
            n = place[label]
            if n < 0:
                n = found
                found += 1
                place[label] = n
                order[n] = label
                sums[n, FIRST] = y * width + x
                sums[n, TOP] = y
                sums[n, LEFT] = x
                sums[n, RIGHT] = x + 1
            sums[n, AREA] += 1
            sums[n, SUM_Y] += y
            sums[n, SUM_X] += x
            sums[n, BOTTOM] = y + 1
            if x < sums[n, LEFT]:
                sums[n, LEFT] = x
            if x + 1 > sums[n, RIGHT]:
                sums[n, RIGHT] = x + 1
            if core[0] <= y < core[2] and core[1] <= x < core[3]:
                sums[n, OWN] += 1
    return order[:found], sums[:found]
