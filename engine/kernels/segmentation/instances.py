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
from engine.kernels.objects.extents import object_extents

DENSE = 4
"""Largest label, per pixel, up to which a table of all labels is made instead of sorting them."""


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
    dense = _dense(labels)
    found = object_extents(dense)
    box = Region(
        (core.start[0] - origin[0], core.start[1] - origin[1]),
        (core.stop[0] - origin[0], core.stop[1] - origin[1]),
    )
    inside = dense[box.slices]
    seen = np.zeros(int(found.label.max(initial=0)) + 1, bool)
    seen[inside] = True
    order = np.argsort(found.first)
    order = order[seen[found.label[order]]]
    numbers = np.zeros(len(seen), np.uint32)
    numbers[found.label[order]] = np.arange(1, len(order) + 1)
    y, x = np.divmod(found.first[order], width)
    first = (y + origin[0]) * whole[1] + x + origin[1]
    area, sums, extent = found.area[order], found.sums[order], found.box[order]
    goes_on = [
        origin[0] > 0,
        origin[0] + height < whole[0],
        origin[1] > 0,
        origin[1] + width < whole[1],
    ]
    return Instances(
        total=len(found.label),
        numbers=numbers[inside],
        rank=order,
        first=first,
        owned=begin_in(first, whole[1], core),
        cut=(found.touches[order] & goes_on).any(axis=1),
        y=(sums[:, 0] + origin[0] * area) / area,  # one rounding
        x=(sums[:, 1] + origin[1] * area) / area,
        area_px=area,
        top=extent[:, 0] + origin[0],
        left=extent[:, 1] + origin[1],
        bottom=extent[:, 2] + origin[0],
        right=extent[:, 3] + origin[1],
    )


def begin_in(first: NDArray[np.int64], width: int, region: Region) -> NDArray[np.bool_]:
    """Return which objects belong to a region: those with their first pixel in it.

    Parameters
    ----------
    first
        First pixels, as indices into a plane of a width, row by row.
    """
    y, x = np.divmod(first, width)
    (top, left), (bottom, right) = region.start, region.stop
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def _dense(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return labels in the same order that are small enough for a table."""
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise ValueError("negative labels")
    if int(labels.max(initial=0)) <= DENSE * labels.size + 1:
        return labels.astype(np.int64)
    names, dense = np.unique(labels, return_inverse=True)
    background = int(names[0] == 0)
    return dense.reshape(labels.shape).astype(np.int64) + 1 - background
