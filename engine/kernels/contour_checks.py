"""What can be wrong with a contour, as figures; what counts as wrong is for the caller to say."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from engine.geometry import YX
from engine.kernels._jit import Floats, compiled
from engine.kernels.contours import Rings, edges_of

LINES_PER_PX = 16
"""Scan lines in a row of pixels for areas of overlap. Along a line lengths are exact; between lines
outlines are taken as straight, which for rings of 20 pixels and more is within 0.01 %."""


@compiled
def _crossings_of_line(edges: Floats, y: float, out: Floats) -> int:
    """Write where a line crosses edges, in order of x; return how often."""
    count = 0
    for n in range(len(edges)):
        y0, x0, y1, x1 = edges[n]
        if (y0 <= y) != (y1 <= y):
            if y0 > y1:
                y0, x0, y1, x1 = y1, x1, y0, x0
            out[count] = x0 + (y - y0) * ((x1 - x0) / (y1 - y0))
            count += 1
    out[:count].sort()
    return count


@compiled
def _overlap(first: Floats, second: Floats, top: float, bottom: float, step: float) -> Floats:
    """Return the areas of the first contour and of what both cover, from even-odd intervals."""
    a = np.empty(len(first) + 1)
    b = np.empty(len(second) + 1)
    own = 0.0
    both = 0.0
    for line in range(math.ceil((bottom - top) / step)):
        y = top + (line + 0.5) * step
        in_a = _crossings_of_line(first, y, a)
        in_b = _crossings_of_line(second, y, b)
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

    Both by the even-odd rule; exactly 1 for a contour and itself. Of a contour without area it is
    NaN.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [0, 8], [8, 8], [8, 0]])
    >>> share_inside([square], [square]), share_inside([square], [square + (0, 6)])
    (1.0, 0.25)
    """
    first, second = edges_of(inner), edges_of(outer)
    if not len(first):
        return math.nan
    top, bottom = float(first[:, 0].min()), float(first[:, 0].max())
    if bottom <= top:
        return math.nan
    own, both = _overlap(first, second, top, bottom, 1.0 / LINES_PER_PX)
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
    if math.isnan(inside):  # no area: it is outside if a point is
        points = np.concatenate([np.empty((0, 2)), *rings])
        low, high = (top, left), (bottom, right)
        return float(((points < low) | (points > high)).any()) if len(points) else 0.0
    return min(1.0, max(0.0, 1.0 - inside))


@compiled
def _side(ay: float, ax: float, by: float, bx: float, cy: float, cx: float) -> float:
    return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)


@compiled
def _count_crossings(edges: Floats) -> int:
    """Count the pairs of edges of which each passes right through the other.

    ``edges`` are in order of their upper ends, so that one need not look below an edge.
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
            one = _side(ay, ax, by, bx, cy, cx) * _side(ay, ax, by, bx, dy, dx)
            other = _side(cy, cx, dy, dx, ay, ax) * _side(cy, cx, dy, dx, by, bx)
            if one < 0.0 and other < 0.0:
                found += 1
    return found


def count_crossings(rings: Rings) -> int:
    """Return how often a contour crosses itself: pairs of edges that pass through each other.

    Outlines that only touch, as those drawn on a grid of half pixels often do, do not cross.

    Examples
    --------
    >>> count_crossings([np.array([[0.0, 0], [4, 4], [4, 0], [0, 4]])])
    1
    """
    edges = edges_of(rings)
    upper = np.minimum(edges[:, 0], edges[:, 2])
    return int(_count_crossings(edges[np.argsort(upper, kind="stable")]))


def closing_gap_px(ring: NDArray[np.float64]) -> tuple[float, float]:
    """Return how far a ring's last point is from its first, and its longest other step, pixels.

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
    """Return a ring in a form that is the same wherever it begins and whichever way it turns.

    Points that repeat the one before are left out, so a written closing point is, too.

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
