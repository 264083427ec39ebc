"""Many polygons as one contour: in as few layers as hold those that overlap apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engine.kernels.contour_checks import count_crossings
from engine.kernels.contour_layers import Rings, join_layers, moments_of_union
from engine.kernels.contours import edges_of, holds_point

NOTHING_PX = 1e-6
"""What polygons share of an area is taken for none up to this, pixels squared: edges that they
have in common are rounded."""

ASIDE_PX = 1e-5
"""How far on both sides of an edge one looks what is there."""

MOST_SQUARES = 64
"""A box that touches more squares is asked for each time instead of being put into them."""


def union_of(polygons: Sequence[Rings]) -> tuple[NDArray[np.float64], ...]:
    """Return the contour that covers what any of some polygons covers; no point is moved.

    Polygons that do not overlap are rings of one layer, so a contour of such has no other form than
    if it had been drawn at once.

    Parameters
    ----------
    polygons
        Rings of each, even-odd.

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
            if layer_of[other] not in taken and _overlap(rings, polygons[other]):
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
    """Which of the boxes before one meet it: found by the squares of a grid that they touch."""

    def __init__(self, boxes: NDArray[np.float64]) -> None:
        self._boxes = boxes
        sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) if len(boxes) else np.ones(1)
        self._side = max(1.0, 2.0 * float(np.median(sides)))
        self._squares: dict[tuple[int, int], list[int]] = {}
        self._large: list[int] = []

    def before(self, n: int) -> list[int]:
        """Return the boxes that meet the n-th, ascending; then add it."""
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
        meets = (b[:, 0] < bottom) & (top < b[:, 2]) & (b[:, 1] < right) & (left < b[:, 3])
        return [int(other) for other in others[meets]]


def _overlap(one: Rings, other: Rings) -> bool:
    """Tell whether two polygons have an area in common, or their outlines cross."""
    if count_crossings([*one, *other]) > count_crossings(one) + count_crossings(other):
        return True
    return _area(one) + _area(other) - _area(one, other) > NOTHING_PX


def _area(*layers: Rings) -> float:
    edges = [edges_of(layer) for layer in layers]
    numbers = np.repeat(np.arange(len(edges)), [len(each) for each in edges])
    return float(moments_of_union(np.concatenate(edges), numbers)[0])


def outline_edges(rings: Rings) -> NDArray[np.float64]:
    """Return the edges (n, 4) of what a contour covers: those that are inside of it are left out.

    Edges are cut where others cross or touch them. Of a single ring they are its own.

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
        aside = np.array([-step[1], step[0]]) * (ASIDE_PX / length)
        for first, last in pairwise(cuts.tolist()):
            if (last - first) * length < 2 * ASIDE_PX:
                continue
            middle = begin + step * ((first + last) / 2)
            if holds_point(rings, *(middle + aside)) != holds_point(rings, *(middle - aside)):
                found.append(np.concatenate([begin + step * first, begin + step * last]))
    return np.array(found).reshape(-1, 4)


def _meetings(
    begin: NDArray[np.float64], step: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return where along an edge, from 0 to 1, others cross it or end on it."""
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
