"""Union of many polygons as one contour, with overlapping ones in as few layers as possible."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import Floats, Whole, compiled
from engine.kernels.contours.geometry import edges_of, holds_point
from engine.kernels.contours.layers import Rings, join_layers, side

ASIDE_PX = 1e-5
"""Distance on both sides of an edge at which the union is sampled."""

MOST_SQUARES = 64
"""Boxes that touch more grid squares are compared every time instead of being indexed."""


def union_of(polygons: Sequence[Rings]) -> tuple[NDArray[np.float64], ...]:
    """Return the contour that covers the union of some polygons, without moving any point.

    Polygons that neither overlap nor touch are rings of one layer, so their contour has the same
    form as if it had been drawn at once.

    Parameters
    ----------
    polygons
        Rings of each polygon, even-odd.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [0, 4], [4, 4], [4, 0]])
    >>> [len(ring) for ring in union_of([[square], [square + 9], [square + 2]])]
    [4, 4, 0, 4]
    """
    boxes = np.array([_box(rings) for rings in polygons]).reshape(-1, 4)
    near = _Near(boxes)
    layer_of: list[int] = []
    for n, rings in enumerate(polygons):
        taken: set[int] = set()
        for other in near.before(n):
            if layer_of[other] not in taken and _share_points(rings, polygons[other]):
                taken.add(layer_of[other])
        layer_of.append(next(layer for layer in range(n + 1) if layer not in taken))
    layers: list[list[NDArray[np.float64]]] = [[] for _ in range(max(layer_of, default=-1) + 1)]
    for layer, rings in zip(layer_of, polygons, strict=True):
        layers[layer] += rings
    return join_layers(layers)


def _box(rings: Rings) -> tuple[float, float, float, float]:
    points = np.concatenate(list(rings))
    (top, left), (bottom, right) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return top, left, bottom, right


class _Near:
    """Index of boxes by the squares of a grid that they touch, to find those that intersect."""

    def __init__(self, boxes: NDArray[np.float64]) -> None:
        self._boxes = boxes
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) if len(boxes) else np.ones(1)
        self._side = max(1.0, 2.0 * float(np.median(sides)))
        self._squares: dict[tuple[int, int], list[int]] = {}
        self._large: list[int] = []

    def before(self, n: int) -> list[int]:
        """Return the earlier boxes that intersect the n-th, ascending; then add the n-th."""
        top, left, bottom, right = self._boxes[n]
        ends = (np.array([top, bottom, left, right]) // self._side).astype(int).tolist()
        count = (ends[1] - ends[0] + 1) * (ends[3] - ends[2] + 1)
        if count > MOST_SQUARES:
            found = set(range(n))
            self._large.append(n)
        else:
            found = set(self._large)
            for y in range(ends[0], ends[1] + 1):
                for x in range(ends[2], ends[3] + 1):
                    square = self._squares.setdefault((y, x), [])
                    found.update(square)
                    square.append(n)
        others = np.array(sorted(found), int)
        b = self._boxes[others]
        meets = (b[:, 0] <= bottom) & (top <= b[:, 2]) & (b[:, 1] <= right) & (left <= b[:, 3])
        return [int(other) for other in others[meets]]


def _share_points(one: Rings, other: Rings) -> bool:
    """Return whether two polygons overlap or touch."""
    edges = np.concatenate([edges_of(one), edges_of(other)])
    upwards = edges[:, 0] > edges[:, 2]
    edges[upwards] = edges[upwards][:, [2, 3, 0, 1]]
    owner = np.zeros(len(edges), np.int64)
    owner[len(edges_of(one)) :] = 1
    order = np.argsort(edges[:, 0], kind="stable")
    if _outlines_meet(np.ascontiguousarray(edges[order]), owner[order]):
        return True
    # Otherwise each ring is entirely inside or outside.
    return any(holds_point(other, *ring[0]) for ring in one) or any(
        holds_point(one, *ring[0]) for ring in other
    )


@compiled
def _outlines_meet(down: Floats, owner: Whole) -> bool:
    """Return whether edges of different owners share a point; edges are sorted by their tops."""
    active = np.empty(len(down), np.int64)
    there = 0
    for i in range(len(down)):
        ay, ax, by, bx = down[i]
        kept = 0
        for k in range(there):
            j = active[k]
            cy, cx, dy, dx = down[j]
            if dy < ay:
                continue
            active[kept] = j
            kept += 1
            if owner[j] == owner[i] or max(cx, dx) < min(ax, bx) or min(cx, dx) > max(ax, bx):
                continue
            one = side(ay, ax, by, bx, cy, cx) * side(ay, ax, by, bx, dy, dx)
            other = side(cy, cx, dy, dx, ay, ax) * side(cy, cx, dy, dx, by, bx)
            if one <= 0.0 and other <= 0.0:
                return True
        active[kept] = i
        there = kept + 1
    return False


def outline_edges(rings: Rings) -> NDArray[np.float64]:
    """Return the edges (n, 4) of the area of a contour, without those in its interior.

    Edges are cut where others cross or touch them. A single ring keeps its own edges.

    Examples
    --------
    >>> left = np.array([[0.0, 0], [0, 4], [4, 4], [4, 0]])
    >>> edges = outline_edges([left, left + (0, 4)])  # which have an edge in common
    >>> float(np.hypot(*(edges[:, 2:] - edges[:, :2]).T).sum())
    24.0
    """
    edges = edges_of(rings)
    if sum(len(ring) > 0 for ring in rings) < 2:
        return edges
    found = []
    for n, edge in enumerate(edges):
        begin, step = edge[:2], edge[2:] - edge[:2]
        length = float(np.hypot(*step))
        if length == 0.0:
            continue
        cuts = np.unique([0.0, 1.0, *_meetings(begin, step, np.delete(edges, n, axis=0))])
        across = np.array([-step[1], step[0]]) * (ASIDE_PX / length)
        for first, last in pairwise(cuts.tolist()):
            if (last - first) * length < 2 * ASIDE_PX:
                continue
            middle = begin + step * ((first + last) / 2)
            if holds_point(rings, *(middle + across)) != holds_point(rings, *(middle - across)):
                found.append(np.concatenate([begin + step * first, begin + step * last]))
    return np.array(found).reshape(-1, 4)


def _meetings(
    begin: NDArray[np.float64], step: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the positions along an edge, from 0 to 1, at which others cross it or end on it."""
    way = others[:, 2:] - others[:, :2]
    gap = others[:, :2] - begin
    cross = step[0] * way[:, 1] - step[1] * way[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (gap[:, 0] * way[:, 1] - gap[:, 1] * way[:, 0]) / cross
        where = (gap[:, 0] * step[1] - gap[:, 1] * step[0]) / cross
    slack = 1e-9
    met = along[(where >= -slack) & (where <= 1.0 + slack)]
    ends = others.reshape(-1, 2) - begin
    squared = float(step @ step)
    off = np.abs(ends[:, 0] * step[1] - ends[:, 1] * step[0])
    met = np.concatenate([met, (ends[off <= slack * squared] @ step) / squared])
    return np.asarray(met[(met > 0.0) & (met < 1.0)])
