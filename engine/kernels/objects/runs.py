"""Runs: horizontal lines of pixels of one object, so that time depends on rows, not on pixels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels._jit import Plane, Whole, Whole32, compiled
from engine.kernels.planes import as_plane


class Runs(NamedTuple):
    """The runs of a label image, row by row, and the runs of each object.

    Runs of object ``i`` are ``order[first[i]:first[i + 1]]``, by ascending row and column.
    """

    row: Whole32
    """(r,) int32."""
    start: Whole32
    """(r,) int32: the first column."""
    stop: Whole32
    """(r,) int32: the column behind the last one."""
    number: Whole32
    """(r,) int32: index of the object among the ascending labels."""
    order: Whole32
    """(r,) int32: indices of runs, grouped by object."""
    first: Whole
    """(n + 1,) int64: offsets of objects in ``order``."""


@compiled
def count_runs(labels: Plane) -> int:
    """Return the number of runs of positive labels."""
    count = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            if labels[y, x] > 0 and (x == 0 or labels[y, x] != labels[y, x - 1]):
                count += 1
    return count


@compiled
def fill_runs(labels: Plane, row: Whole32, start: Whole32, stop: Whole32, label: Whole) -> None:
    """Write the runs of positive labels, row by row."""
    n = -1
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            if labels[y, x] > 0:
                if x == 0 or labels[y, x] != labels[y, x - 1]:
                    n += 1
                    row[n] = y
                    start[n] = x
                    label[n] = labels[y, x]
                stop[n] = x + 1


@compiled
def group_runs(number: Whole32, first: Whole, order: Whole32) -> None:
    """Group the runs by object, in their order.

    Parameters
    ----------
    number
        (r,) int32: the object of each run.
    first
        (n + 1,) int64, zeros: filled with offsets.
    order
        (r,) int32: filled with indices of runs.
    """
    for n in number:
        first[n + 1] += 1
    for n in range(1, first.size):
        first[n] += first[n - 1]
    place = first.copy()
    for run in range(number.size):
        order[place[number[run]]] = run
        place[number[run]] += 1


def as_labels(labels: NDArray[Any], parameter: str = "labels") -> NDArray[Any]:
    """Return a label image in native byte order and C order.

    Raises
    ------
    ParameterError
        If it is not two-dimensional, or its labels are not integers that int64 holds.
    """
    plane = as_plane(labels, parameter)
    if plane.dtype.kind not in "ui":
        raise ParameterError(parameter, f"of type {plane.dtype}", "integer labels")
    if plane.dtype == np.uint64 and plane.size and int(plane.max()) > np.iinfo(np.int64).max:
        raise ParameterError(parameter, int(plane.max()), "labels below 2**63")
    return plane


def find_runs(labels: NDArray[Any]) -> tuple[NDArray[np.int64], Runs]:
    """Find the objects of a label image and their runs.

    Parameters
    ----------
    labels
        (y, x) of any integer type; an object is all pixels of one positive label.

    Returns
    -------
    The labels, ascending, (n,) int64, and the runs.

    Raises
    ------
    ParameterError
        If the labels are not a plane of integers.

    Examples
    --------
    >>> found, runs = find_runs(np.array([[7, 7, 0, 3], [0, 7, 3, 3]]))
    >>> found.tolist(), runs.start.tolist(), runs.stop.tolist()
    ([3, 7], [0, 3, 1, 2], [2, 4, 2, 4])
    """
    plane = as_labels(labels)
    count = count_runs(plane)
    row, start, stop, order = (np.empty(count, np.int32) for _ in range(4))
    label = np.empty(count, np.int64)
    fill_runs(plane, row, start, stop, label)
    found, inverse = np.unique(label, return_inverse=True)
    number = np.asarray(inverse, np.int32)
    first = np.zeros(found.size + 1, np.int64)
    group_runs(number, first, order)
    return found, Runs(row, start, stop, number, order, first)
