"""Extents of objects: first pixel, area, box, sums of coordinates, sides of the image touched."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import Whole, compiled
from engine.kernels.objects.runs import Runs, find_runs


class Extents(NamedTuple):
    """Columns of integers, one element an object, by ascending label."""

    label: Whole
    """(n,) int64."""
    first: Whole
    """(n,) int64: index of the first pixel, row by row."""
    area: Whole
    """(n,) int64, pixels."""
    box: Whole
    """(n, 4) int64: first row, first column, row behind the last, column behind the last."""
    sums: Whole
    """(n, 2) int64: sums of rows and of columns over the pixels; divided by the area, they are the
    centroid."""
    touches: NDArray[np.bool_]
    """(n, 4) bool: has pixels in the first row, last row, first column, last column of the image,
    in the order of the sides of `engine.kernels.segmentation.components`."""


@compiled
def add_extents(runs: Runs, width: int, first: Whole, area: Whole, box: Whole, sums: Whole) -> None:
    """Fill the columns of `Extents`, and the first pixels of an image of some width."""
    for i in range(area.size):
        begin = runs.order[runs.first[i]]
        end = runs.order[runs.first[i + 1] - 1]
        first[i] = np.int64(runs.row[begin]) * width + runs.start[begin]
        box[i, 0] = runs.row[begin]
        box[i, 2] = runs.row[end] + 1
        box[i, 1] = runs.start[begin]
        box[i, 3] = runs.stop[begin]
        for place in range(runs.first[i], runs.first[i + 1]):
            run = runs.order[place]
            start = np.int64(runs.start[run])
            stop = np.int64(runs.stop[run])
            box[i, 1] = min(box[i, 1], start)
            box[i, 3] = max(box[i, 3], stop)
            area[i] += stop - start
            sums[i, 0] += runs.row[run] * (stop - start)
            sums[i, 1] += (stop - start) * (start + stop - 1) // 2


def extents_of_runs(label: Whole, runs: Runs, shape: tuple[int, ...]) -> Extents:
    """Return the extents of objects from their runs, in an image of a shape (y, x)."""
    count = label.size
    first, area = np.zeros(count, np.int64), np.zeros(count, np.int64)
    box, sums = np.zeros((count, 4), np.int64), np.zeros((count, 2), np.int64)
    add_extents(runs, shape[1], first, area, box, sums)
    height, width = shape
    touches = np.stack(
        [box[:, 0] == 0, box[:, 2] == height, box[:, 1] == 0, box[:, 3] == width], axis=1
    )
    return Extents(label, first, area, box, sums, touches)


def object_extents(labels: NDArray[Any]) -> Extents:
    """Return the extents of the objects of a label image, by ascending label.

    Parameters
    ----------
    labels
        (y, x) of any integer type; an object is all pixels of one positive label.

    Raises
    ------
    ParameterError
        If the labels are not a plane of integers.

    Examples
    --------
    >>> found = object_extents(np.array([[0, 7, 7], [3, 0, 7]]))
    >>> found.label.tolist(), found.first.tolist(), found.area.tolist()
    ([3, 7], [3, 1], [1, 3])
    """
    label, runs = find_runs(labels)
    return extents_of_runs(label, runs, np.shape(labels))
