"""Plausibility figures of contours; the caller decides which values count as wrong."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from engine.geometry import YX
from engine.kernels._jit import Bytes, Floats, Whole, compiled
from engine.kernels.contours.geometry import edges_of, edges_of_layers
from engine.kernels.contours.layers import Rings, side, split_layers

LINES_PER_PX = 16
"""Scan lines per row of pixels for areas of overlap. Along a line lengths are exact; between lines
outlines are taken as straight, which for rings of 20 pixels and more is within 0.01 %."""

NEXT_TO_ALL = 1e-6
"""Tolerance for rounding in a share of one."""

Sweep = tuple[Floats, Whole]
"""Edges (n, 4) from top to bottom, by their tops, and the index of each one's layer."""


def _sweep(rings: Rings) -> Sweep:
    layers = edges_of_layers(rings)
    numbers = np.repeat(np.arange(len(layers)), [len(edges) for edges in layers])
    edges = np.concatenate([np.empty((0, 4)), *layers])
    upwards = edges[:, 0] > edges[:, 2]
    edges[upwards] = edges[upwards][:, [2, 3, 0, 1]]
    order = np.argsort(edges[:, 0], kind="stable")
    return np.ascontiguousarray(edges[order]), np.ascontiguousarray(numbers[order])


@compiled
def _pass_line(edges: Floats, y: float, active: Whole, state: Whole) -> None:
    """Keep in ``active`` the edges that cross a line; ``state`` counts these and those reached."""
    kept = 0
    for k in range(state[0]):
        if edges[active[k], 2] > y:
            active[kept] = active[k]
            kept += 1
    n = state[1]
    while n < len(edges) and edges[n, 0] <= y:
        if edges[n, 2] > y:
            active[kept] = n
            kept += 1
        n += 1
    state[0], state[1] = kept, n


@compiled
def _intervals_of_line(
    edges: Floats, layer: Whole, y: float, active: Whole, count: int, inside: Bytes, out: Floats
) -> int:
    """Write where a line enters and leaves the union of layers; return the number of values."""
    at = np.empty(count)
    for k in range(count):
        y0, x0, y1, x1 = edges[active[k]]
        at[k] = x0 + (y - y0) * ((x1 - x0) / (y1 - y0))
    written, depth = 0, 0
    for k in np.argsort(at):
        n = layer[active[k]]
        inside[n] ^= 1
        depth += 1 if inside[n] else -1
        if (inside[n] and depth == 1) or depth == 0:
            out[written] = at[k]
            written += 1
    inside[:] = 0
    return written


@compiled
def _overlap(
    first: Floats,
    of_first: Whole,
    second: Floats,
    of_second: Whole,
    layers: int,
    top: float,
    bottom: float,
    step: float,
) -> Floats:
    """Return the areas of the first contour and of the intersection, from even-odd intervals."""
    a = np.empty(len(first) + 1)
    b = np.empty(len(second) + 1)
    active_a, active_b = np.empty(len(first), np.int64), np.empty(len(second), np.int64)
    state_a, state_b = np.zeros(2, np.int64), np.zeros(2, np.int64)
    inside = np.zeros(layers, np.uint8)
    own = 0.0
    both = 0.0
    for line in range(math.ceil((bottom - top) / step)):
        y = top + (line + 0.5) * step
        _pass_line(first, y, active_a, state_a)
        _pass_line(second, y, active_b, state_b)
        in_a = _intervals_of_line(first, of_first, y, active_a, state_a[0], inside, a)
        in_b = _intervals_of_line(second, of_second, y, active_b, state_b[0], inside, b)
        j = 0
        for i in range(0, in_a - 1, 2):
            own += a[i + 1] - a[i]
            while j + 1 < in_b and b[j + 1] <= a[i]:
                j += 2
            k = j
            while k + 1 < in_b and b[k] < a[i + 1]:
                both += min(a[i + 1], b[k + 1]) - max(a[i], b[k])
                k += 2
    out = np.empty(2)
    out[0] = own * step
    out[1] = both * step
    return out


def share_inside(inner: Rings, outer: Rings) -> float:
    """Return the share of a contour's area that lies inside another one, from 0 to 1.

    Both follow the rule of `engine.kernels.contours.geometry`; exactly 1 for a contour and itself.
    NaN for a contour without area.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [0, 8], [8, 8], [8, 0]])
    >>> share_inside([square], [square]), share_inside([square], [square + (0, 6)])
    (1.0, 0.25)
    """
    (first, of_first), (second, of_second) = _sweep(inner), _sweep(outer)
    if not len(first):
        return math.nan
    top, bottom = float(first[:, 0].min()), float(first[:, 2].max())
    if bottom <= top:
        return math.nan
    layers = 1 + int(max(of_first.max(), of_second.max(initial=0)))
    step = 1.0 / LINES_PER_PX
    own, both = _overlap(first, of_first, second, of_second, layers, top, bottom, step)
    return float(both / own) if own > 0 else math.nan


def share_outside_image(rings: Rings, shape: YX) -> float:
    """Return the share of a contour's area that no pixel of an image covers, from 0 to 1.

    Examples
    --------
    >>> share_outside_image([np.array([[0, -4.5], [0, 3.5], [8, 3.5], [8, -4.5]])], (20, 20))
    0.5
    """
    height, width = shape
    top, left, bottom, right = -0.5, -0.5, height - 0.5, width - 0.5
    frame = np.array([[top, left], [top, right], [bottom, right], [bottom, left]])
    inside = share_inside(rings, [frame])
    if math.isnan(inside):  # without area: outside if any point is
        points = np.concatenate([np.empty((0, 2)), *rings])
        low, high = (top, left), (bottom, right)
        return float(((points < low) | (points > high)).any()) if len(points) else 0.0
    return min(1.0, max(0.0, 1.0 - inside))


@compiled
def _count_crossings(edges: Floats) -> int:
    """Count the pairs of edges that pass right through each other.

    ``edges`` are sorted by their upper ends, so edges that begin below an edge can be skipped.
    """
    found = 0
    for i in range(len(edges)):
        ay, ax, by, bx = edges[i]
        low_y, high_y = min(ay, by), max(ay, by)
        low_x, high_x = min(ax, bx), max(ax, bx)
        for j in range(i + 1, len(edges)):
            cy, cx, dy, dx = edges[j]
            if min(cy, dy) > high_y:
                break
            if max(cy, dy) < low_y:
                continue
            if max(cx, dx) < low_x or min(cx, dx) > high_x:
                continue
            one = side(ay, ax, by, bx, cy, cx) * side(ay, ax, by, bx, dy, dx)
            other = side(cy, cx, dy, dx, ay, ax) * side(cy, cx, dy, dx, by, bx)
            if one < 0.0 and other < 0.0:
                found += 1
    return found


def count_crossings(rings: Rings) -> int:
    """Return how often a contour crosses itself: pairs of edges that pass through each other.

    Outlines that only touch, as those drawn on a grid of half pixels often do, do not cross.
    Neither do outlines of different layers, which may overlap.

    Examples
    --------
    >>> count_crossings([np.array([[0.0, 0], [4, 4], [4, 0], [0, 4]])])
    1
    """
    return sum(_crossings(edges_of(layer)) for layer in split_layers(rings))


def _crossings(edges: NDArray[np.float64]) -> int:
    upper = np.minimum(edges[:, 0], edges[:, 2])
    return int(_count_crossings(edges[np.argsort(upper, kind="stable")]))


def count_nested(rings: Rings) -> int:
    """Return the number of outlines that another layer covers: the union is the same without them.

    A hole that was drawn as a separate polygon counts; a hole within a layer does not.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [0, 8], [8, 8], [8, 0]])
    >>> count_nested([square, np.empty((0, 2)), square / 2 + 1]), count_nested([square, square / 2])
    (1, 0)
    """
    layers = split_layers(rings)
    if len(layers) < 2:
        return 0
    boxes = [np.array([(ring.min(axis=0), ring.max(axis=0)) for ring in one]) for one in layers]
    return sum(
        any(_covers(layers[m], boxes[m], ring) for m in range(len(layers)) if m != n)
        for n, layer in enumerate(layers)
        for ring in layer
    )


def _covers(layer: Rings, boxes: NDArray[np.float64], ring: NDArray[np.float64]) -> bool:
    low, high = ring.min(axis=0), ring.max(axis=0)
    if not ((boxes[:, 0] <= low) & (boxes[:, 1] >= high)).all(axis=1).any():
        return False
    near = ((boxes[:, 0] <= high) & (boxes[:, 1] >= low)).all(axis=1)
    share = share_inside([ring], [one for one, meets in zip(layer, near, strict=True) if meets])
    return share > 1.0 - NEXT_TO_ALL


def closing_gap_px(ring: NDArray[np.float64]) -> tuple[float, float]:
    """Return the distance from a ring's last point to its first, and its longest other step, px.

    Examples
    --------
    >>> closing_gap_px(np.array([[0.0, 0], [0, 3], [4, 3]]))
    (5.0, 4.0)
    """
    points = np.asarray(ring, np.float64)
    if len(points) < 2:
        return 0.0, 0.0
    steps = np.hypot(*np.diff(points, axis=0).T)
    gap = float(np.hypot(*(points[-1] - points[0])))
    return gap, float(steps.max())


def canonical_ring(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a ring in a canonical form, independent of its first point and its direction.

    Points that repeat the previous one are dropped, including an explicit closing point.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [0, 1], [1, 1], [1, 0], [0, 0]])
    >>> bool((canonical_ring(square) == canonical_ring(square[::-1])).all())
    True
    """
    points = np.asarray(ring, np.float64) + 0.0  # no negative zeros
    points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)]
    if not len(points):
        return np.asarray(ring, np.float64)[:1]
    candidates = []
    for turned in (points, points[::-1]):
        least = np.lexsort((turned[:, 1], turned[:, 0]))[0]
        starts = np.flatnonzero((turned == turned[least]).all(axis=1))
        candidates += [np.roll(turned, -start, axis=0) for start in starts]
    return min(candidates, key=lambda form: form.ravel().tolist())
