"""Layers: overlapping polygons of one structure in one contour.

A contour is a list of rings. A ring without points ends a layer: rings within a layer follow the
even-odd rule, and the contour is the union of its layers. A contour without such a ring is one
layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import Bytes, Floats, Whole, compiled

Rings = Sequence[NDArray[np.float64]]
"""A contour: arrays (n, 2) of y, x, pixels; holes are ordinary rings."""


def split_layers(rings: Rings) -> list[Rings]:
    """Return the rings of each layer.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [0, 4], [4, 4], [4, 0]])
    >>> [len(layer) for layer in split_layers([square, square + 9, np.empty((0, 2)), square + 1])]
    [2, 1]
    """
    layers: list[list[NDArray[np.float64]]] = [[]]
    for ring in rings:
        if len(ring):
            layers[-1].append(ring)
        else:
            layers.append([])
    return [layer for layer in layers if layer]


def join_layers(layers: Iterable[Rings]) -> tuple[NDArray[np.float64], ...]:
    """Return the contour made of some layers.

    Examples
    --------
    >>> square = np.array([[0.0, 0], [0, 4], [4, 4], [4, 0]])
    >>> [len(ring) for ring in join_layers([[square], [square + 1]])]
    [4, 0, 4]
    """
    joined: list[NDArray[np.float64]] = []
    for layer in layers:
        joined += [np.empty((0, 2)), *layer] if joined else layer
    return tuple(joined)


def moments_of_union(edges: NDArray[np.float64], layer: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the area of a union, and the integrals of y and x over it; pixels.

    The plane is cut at the height of each point and crossing; between two cuts no edges cross, so
    the covered area consists of trapezoids with exact integrals.

    Parameters
    ----------
    edges
        (n, 4): y, x of both ends.
    layer
        Index of each edge's layer, from 0.
    """
    if not len(edges):
        return np.zeros(3)
    origin = edges[0, :2].copy()  # near the origin, where differences lose no digits
    moved = edges - np.tile(origin, 2)
    down = np.where((moved[:, 0] > moved[:, 2])[:, None], moved[:, [2, 3, 0, 1]], moved)
    order = np.argsort(down[:, 0], kind="stable")
    down = np.ascontiguousarray(down[order])
    crossings = np.empty(_count_heights(down, np.empty(0)))
    _count_heights(down, crossings)
    cuts = np.unique(np.concatenate([down[:, 0], down[:, 2], crossings]))
    count = int(layer.max()) + 1
    area, y, x = _moments(down, np.ascontiguousarray(layer[order]), count, cuts)
    return np.array([area, y + area * origin[0], x + area * origin[1]])


@compiled
def side(ay: float, ax: float, by: float, bx: float, cy: float, cx: float) -> float:
    """Return the side of a line from a to b on which point c lies, as a sign; 0 is on it."""
    return (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)


@compiled
def _count_heights(down: Floats, out: Floats) -> int:
    """Count the pairs of edges that cross, and write the heights of the crossings, if room."""
    found = 0
    for i in range(len(down)):
        ay, ax, by, bx = down[i]
        for j in range(i + 1, len(down)):
            cy, cx, dy, dx = down[j]
            if cy > by:
                break
            if max(cx, dx) < min(ax, bx) or min(cx, dx) > max(ax, bx):
                continue
            c, d = side(ay, ax, by, bx, cy, cx), side(ay, ax, by, bx, dy, dx)
            one = c * d
            other = side(cy, cx, dy, dx, ay, ax) * side(cy, cx, dy, dx, by, bx)
            if one < 0.0 and other < 0.0:
                if found < len(out):
                    out[found] = cy + (dy - cy) * (c / (c - d))
                found += 1
    return found


@compiled
def _moments(down: Floats, layer: Whole, count: int, cuts: Floats) -> tuple[float, float, float]:
    area, moment_y, moment_x = 0.0, 0.0, 0.0
    active = np.empty(len(down), np.int64)
    inside = np.zeros(count, np.uint8)
    there, coming = 0, 0
    for cut in range(len(cuts) - 1):
        y0, y1 = cuts[cut], cuts[cut + 1]
        # Drop the edges that ended above this strip, and add those that begin at its top.
        kept = 0
        for k in range(there):
            if down[active[k], 2] > y0:
                active[kept] = active[k]
                kept += 1
        there = kept
        while coming < len(down) and down[coming, 0] <= y0:
            if down[coming, 2] > y0:
                active[there] = coming
                there += 1
            coming += 1
        if there < 2:
            continue
        height, middle = y1 - y0, 0.5 * (y0 + y1)
        # No edges cross within a strip, so their order at half its height holds throughout.
        at = np.empty(there)
        for k in range(there):
            at[k] = _x_at(down, active[k], middle)
        begun, depth = 0, 0
        for k in np.argsort(at):
            n = layer[active[k]]
            inside[n] ^= 1
            if inside[n]:
                if depth == 0:
                    begun = active[k]
                depth += 1
                continue
            depth -= 1
            if depth:
                continue
            # The union ends here: add the trapezoid from the edge where it began.
            a0, a1 = _x_at(down, begun, y0), _x_at(down, begun, y1)
            b0, b1 = _x_at(down, active[k], y0), _x_at(down, active[k], y1)
            w0, w1 = b0 - a0, b1 - a1
            area += height * (w0 + w1) / 2
            moment_y += height * (y0 * (2 * w0 + w1) + y1 * (w0 + 2 * w1)) / 6
            moment_x += height * (b0 * b0 + b0 * b1 + b1 * b1 - a0 * a0 - a0 * a1 - a1 * a1) / 6
        inside[:] = 0
    return area, moment_y, moment_x


@compiled
def _x_at(down: Floats, n: int, y: float) -> float:
    y0, x0, y1, x1 = down[n]
    return x0 + (y - y0) * ((x1 - x0) / (y1 - y0))


@compiled
def find_holes(points: Floats, starts: Whole) -> Bytes:
    """Return 1 for each ring with its first point inside an odd number of the others, else 0.

    Parameters
    ----------
    points
        (n, 2) y, x of all rings, one after the other.
    starts
        Index of the first point of each ring, and the total number of points.
    """
    count = len(starts) - 1
    box = np.empty((count, 3))
    for j in range(count):
        of = points[starts[j] : starts[j + 1]]
        box[j, 0], box[j, 1], box[j, 2] = of[:, 0].min(), of[:, 0].max(), of[:, 1].min()
    holes = np.zeros(count, np.uint8)
    for i in range(count):
        y, x = points[starts[i]]
        for j in range(count):
            if j == i or y < box[j, 0] or y >= box[j, 1] or x < box[j, 2]:
                continue
            last = starts[j + 1] - 1
            for k in range(starts[j], starts[j + 1]):
                y0, x0 = points[last]
                y1, x1 = points[k]
                last = k
                if (y0 <= y) == (y1 <= y):
                    continue
                if y0 > y1:
                    y0, x0, y1, x1 = y1, x1, y0, x0
                if x0 + (y - y0) * ((x1 - x0) / (y1 - y0)) <= x:
                    holes[i] ^= 1
    return holes
