"""Relations of objects: the nearest other object, neighbours within a radius, the parent."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels._jit import Floats, Plane, Whole, compiled
from engine.kernels.objects.extents import extents_of_runs
from engine.kernels.objects.runs import Runs, as_labels, find_runs


class Neighbours(NamedTuple):
    """Columns, one element an object."""

    distance: Floats
    """(n,) float64: to the nearest other centroid; NaN for an object alone."""
    number: Whole
    """(n,) int64: other centroids within the radius, itself not counted."""


def find_neighbours(centroids: NDArray[np.float64], radius: float) -> Neighbours:
    """Find the neighbours of objects by their centroids.

    Parameters
    ----------
    centroids
        (n, 2): y, x.
    radius
        Greatest distance of those that are counted, in the unit of the centroids.

    Raises
    ------
    ParameterError
        If the radius is not over 0.

    Examples
    --------
    >>> found = find_neighbours(np.array([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0]]), 4.5)
    >>> found.distance.tolist(), found.number.tolist()
    ([3.0, 3.0, 4.0], [2, 1, 1])
    """
    if not radius > 0:
        raise ParameterError("radius", radius, "over 0")
    count = len(centroids)
    if count < 2:
        return Neighbours(np.full(count, np.nan), np.zeros(count, np.int64))
    from scipy.spatial import cKDTree

    tree = cKDTree(centroids)
    # The nearest two: one is the object itself, or another one with the same centroid.
    distance = tree.query(centroids, k=2)[0][:, 1]
    around = tree.query_ball_point(centroids, radius, return_length=True)
    return Neighbours(distance, np.asarray(around, np.int64) - 1)


@compiled
def find_parents(others: Plane, runs: Runs, largest: int, parents: Whole) -> None:
    """Write the label that holds most pixels of each object, the smaller one of two, or 0.

    Parameters
    ----------
    others
        (y, x): the label image of the parents.
    largest
        Pixels of the largest object.
    parents
        (n,) int64, zeros.
    """
    values = np.empty(largest, np.int64)
    for i in range(parents.size):
        count = 0
        for place in range(runs.first[i], runs.first[i + 1]):
            run = runs.order[place]
            for x in range(runs.start[run], runs.stop[run]):
                if others[runs.row[run], x] > 0:
                    values[count] = others[runs.row[run], x]
                    count += 1
        held = values[:count]
        held.sort()
        most = 0
        begin = 0
        for n in range(count):
            if held[n] != held[begin]:
                begin = n
            if n - begin + 1 > most:
                most = n - begin + 1
                parents[i] = held[n]


def parent_labels(labels: NDArray[Any], others: NDArray[Any]) -> NDArray[np.int64]:
    """Return the parent of each object: the label of another image that holds most of its pixels.

    Parameters
    ----------
    labels, others
        (y, x) of any integer types; positive labels are objects.

    Returns
    -------
    (n,) by ascending label of ``labels``: of two labels with equally many pixels the smaller one;
    0 for an object with no pixel in any other. Background never outvotes a label.

    Raises
    ------
    ParameterError
        If they are not planes of integers of one shape.

    Examples
    --------
    >>> parent_labels(np.array([[1, 1, 0, 2]]), np.array([[5, 0, 5, 0]])).tolist()
    [5, 0]
    """
    plane = as_labels(others, "others")
    if plane.shape != np.shape(labels):
        raise ParameterError("others", f"of shape {plane.shape}", f"of shape {np.shape(labels)}")
    label, runs = find_runs(labels)
    parents = np.zeros(label.size, np.int64)
    largest = extents_of_runs(label, runs, plane.shape).area.max(initial=0)
    find_parents(plane, runs, int(largest), parents)
    return parents
