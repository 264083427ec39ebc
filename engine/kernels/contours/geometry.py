"""Contours as arrays: filling, area and position of polygons.

A contour is one or more rings; a ring is an array (n, 2) of points y, x in pixels, and is closed
implicitly: its last point is joined to its first, even if the first point is repeated at the end.
Coordinates are those of the whole engine: the centre of the first pixel is (0, 0), so it covers
-0.5 to 0.5.

A point is inside if a ray from it crosses the rings an odd number of times (even-odd rule), over
all rings together: a ring within a ring is a hole, independent of the direction of either. A pixel
is inside if its centre is. Of the centres on the outline itself, the left and top ones are inside,
the right and bottom ones are not, so polygons that share an edge neither share nor omit a pixel.

Polygons of one structure may overlap. Then they are layers of the structure, which is their union:
a ring without points ends a layer, and even-odd holds within a layer (see
`engine.kernels.contours.layers`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.geometry import YX
from engine.kernels._jit import Bytes, Floats, compiled
from engine.kernels.contours.layers import Rings, find_holes, moments_of_union, split_layers

STRIP_PX = 1 << 24
"""Pixels of a mask that are counted at once: a slide is counted in strips."""


@compiled
def _toggle(edges: Floats, parity: Bytes, top: int, left: int) -> None:
    """Flip, for each edge and row, the first pixel to the right of the edge.

    ``edges`` (n, 4) are y, x, y, x; ``parity`` (height, width + 1) starts as zeros, and its first
    pixel is ``top``, ``left`` of the plane. The exclusive or along a row then gives the mask.
    """
    height, columns = parity.shape
    for n in range(len(edges)):
        y0, x0, y1, x1 = edges[n]
        if y0 == y1:
            continue
        if y0 > y1:  # from top to bottom, so that both neighbours of a shared edge round alike
            y0, x0, y1, x1 = y1, x1, y0, x0
        if y1 <= top or y0 > top + height - 1:
            continue
        first = max(top, math.ceil(y0))
        last = min(top + height, math.ceil(y1))  # half-open: y0 <= y < y1
        slope = (x1 - x0) / (y1 - y0)
        for y in range(first, last):
            x = x0 + (y - y0) * slope  # plane coordinates, so that a part rounds as the whole
            column = 0
            if x > left:
                column = columns - 1 if x > left + columns - 1 else math.ceil(x) - left
            parity[y - top, column] ^= 1


@compiled
def _accumulate(parity: Bytes, mask: Bytes) -> None:
    height, width = mask.shape
    for y in range(height):
        inside = np.uint8(0)
        for x in range(width):
            inside ^= parity[y, x]
            mask[y, x] = inside


@compiled
def _paint(edges: Floats, labels: Bytes, label: int, top: int, left: int) -> None:
    """Label the pixels inside; ``labels`` begins at ``top``, ``left`` of the plane."""
    if not len(edges):
        return
    height, width = labels.shape
    first_y = min(max(math.floor(edges[:, 0].min()), top), top + height)
    first_x = min(max(math.floor(edges[:, 1].min()), left), left + width)
    stop_y = min(max(math.ceil(edges[:, 0].max()) + 1, top), top + height)
    stop_x = min(max(math.ceil(edges[:, 1].max()) + 1, left), left + width)
    if stop_y <= first_y or stop_x <= first_x:
        return
    parity = np.zeros((stop_y - first_y, stop_x - first_x + 1), np.uint8)
    _toggle(edges, parity, first_y, first_x)
    for y in range(stop_y - first_y):
        inside = np.uint8(0)
        row = labels[first_y - top + y, first_x - left : stop_x - left]
        for x in range(len(row)):
            inside ^= parity[y, x]
            if inside:
                row[x] = label


def edges_of(rings: Rings) -> NDArray[np.float64]:
    """Return the edges of all rings (n, 4): y, x of both ends, pixels.

    Raises
    ------
    ParameterError
        If a ring is not an array (n, 2), or holds a value that is not a finite number.
    """
    found = [np.empty((0, 4))]
    for ring in rings:
        points = np.asarray(ring, np.float64)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ParameterError("rings", points.shape, "arrays of shape (n, 2), y and x")
        if not np.isfinite(points).all():
            raise ParameterError("rings", "not finite", "finite numbers")
        edges = np.empty((len(points), 4))
        edges[:, :2] = points
        edges[:-1, 2:] = points[1:]
        edges[-1:, 2:] = points[:1]
        found.append(edges)
    return found[1] if len(found) == 2 else np.concatenate(found)


def fill_contour(rings: Rings, shape: YX, *, origin: float = 0.0) -> NDArray[np.bool_]:
    """Return the pixels with their centre inside a contour, by the rule of the module.

    Parameters
    ----------
    rings
        Arrays (n, 2) of y, x; see the module.
    shape
        Shape of the mask (y, x), pixels. Parts of the contour outside it are clipped.
    origin
        The coordinate of the first pixel's centre: 0 here, 1 for counting from one (MATLAB), 0.5 if
        the first pixel covers 0 to 1 (QuPath).

    Returns
    -------
    (y, x), True inside.

    Examples
    --------
    >>> square = np.array([[0.5, 0.5], [0.5, 3.5], [2.5, 3.5], [2.5, 0.5]])
    >>> fill_contour([square], (4, 5)).astype(int)
    array([[0, 0, 0, 0, 0],
           [0, 1, 1, 1, 0],
           [0, 1, 1, 1, 0],
           [0, 0, 0, 0, 0]])
    >>> int(fill_contour([square + 1], (4, 5), origin=1).sum())
    6
    """
    height, width = shape
    if height < 1 or width < 1:
        raise ParameterError("shape", shape, "positive")
    layers = split_layers(rings) or [rings]
    return _fill([edges_of(layer) - origin for layer in layers], (0, 0), shape)


def _fill(layers: list[NDArray[np.float64]], corner: YX, shape: YX) -> NDArray[np.bool_]:
    """Return the union of layers, given as edges."""
    union: NDArray[np.bool_] | None = None
    for edges in layers:
        parity = np.zeros((shape[0], shape[1] + 1), np.uint8)
        _toggle(edges, parity, *corner)
        mask = np.empty(shape, np.uint8)
        _accumulate(parity, mask)
        union = mask.view(np.bool_) if union is None else union | mask.view(np.bool_)
    return np.zeros(shape, np.bool_) if union is None else union


def paint_contour(
    labels: NDArray[np.uint8], rings: Rings, label: int, *, corner: YX = (0, 0)
) -> None:
    """Give a label to the pixels inside a contour, and leave all others unchanged.

    The same rule as `fill_contour`; the time depends on the contour's bounding box, not on the
    image, and a part of an image is painted exactly like the whole.

    Parameters
    ----------
    labels
        (y, x), modified in place.
    rings
        Arrays (n, 2) of y, x; pixels of the whole image.
    label
        From 0 to 255.
    corner
        Position of the first pixel of ``labels`` in the image (y, x), pixels.

    Examples
    --------
    >>> labels = np.zeros((2, 4), np.uint8)
    >>> square = np.array([[0.5, 0.5], [0.5, 3.5], [2.5, 3.5], [2.5, 0.5]])
    >>> paint_contour(labels, [square], 7, corner=(2, 1))
    >>> labels
    array([[7, 7, 7, 0],
           [0, 0, 0, 0]], dtype=uint8)
    """
    paint_edges(labels, edges_of_layers(rings), label, corner=corner)


def edges_of_layers(rings: Rings) -> tuple[NDArray[np.float64], ...]:
    """Return the edges of each layer, as `edges_of` does."""
    return tuple(edges_of(layer) for layer in split_layers(rings))


def paint_edges(
    labels: NDArray[np.uint8],
    layers: tuple[NDArray[np.float64], ...],
    label: int,
    *,
    corner: YX = (0, 0),
) -> None:
    """Paint a contour as `paint_contour` does, from the edges of `edges_of_layers`."""
    for edges in layers:
        _paint(edges, labels, label, corner[0], corner[1])


def count_inside(rings: Rings, shape: YX) -> int:
    """Return the number of pixels of an image with their centre inside a contour.

    Equal to the number that `fill_contour` marks; needs memory for a strip of the bounding box.

    Examples
    --------
    >>> count_inside([np.array([[0.5, 0.5], [0.5, 3.5], [2.5, 3.5], [2.5, 0.5]])], (10**6, 10**6))
    6
    """
    layers = list(edges_of_layers(rings))
    if not layers:
        return 0
    points = np.concatenate(layers)[:, :2]
    low = np.clip(np.floor(points.min(axis=0)), 0, shape).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)) + 1, 0, shape).astype(int)
    if (high <= low).any():
        return 0
    (top, left), (bottom, right) = low.tolist(), high.tolist()
    step = max(1, STRIP_PX // (right - left))
    return sum(
        int(_fill(layers, (y, left), (min(step, bottom - y), right - left)).sum())
        for y in range(top, bottom, step)
    )


def ring_area_px(ring: NDArray[Any]) -> float:
    """Return the signed area of a ring by the shoelace formula, pixels squared.

    Positive for rings that run from x to y, clockwise on the screen (y down). If a ring crosses
    itself, its parts count with the sign of their direction.

    Examples
    --------
    >>> ring_area_px(np.array([[0, 0], [0, 4], [3, 4], [3, 0]]))
    12.0
    """
    points = np.asarray(ring, np.float64)
    if len(points) < 3:
        return 0.0
    y, x = (points - points[0]).T  # near the origin, where differences lose no digits
    return float(0.5 * (x @ np.roll(y, -1) - np.roll(x, -1) @ y))


def area_px(rings: Rings) -> float:
    """Return the area of a contour, pixels squared: the outer rings without their holes.

    A ring is a hole if its first point is inside an odd number of the others (even-odd), so the
    direction of a ring has no meaning. Rings of a layer must neither cross nor touch; for several
    layers the result is the area of their union.

    Examples
    --------
    >>> outer = np.array([[0.0, 0], [0, 10], [10, 10], [10, 0]])
    >>> area_px([outer, outer / 2 + 1])
    75.0
    """
    if len(split_layers(rings)) > 1:
        return float(_moments(rings)[0])
    total = 0.0
    for ring, hole in zip(rings, _holes(rings), strict=True):
        total += -abs(ring_area_px(ring)) if hole else abs(ring_area_px(ring))
    return abs(total)


def _moments(rings: Rings) -> NDArray[np.float64]:
    layers = edges_of_layers(rings)
    numbers = np.repeat(np.arange(len(layers)), [len(edges) for edges in layers])
    return moments_of_union(np.concatenate(layers), numbers)


def _holes(rings: Rings) -> NDArray[np.bool_]:
    """Return a mask of the rings of a layer that are holes."""
    if len(rings) < 2:
        return np.zeros(len(rings), np.bool_)
    points = np.concatenate([np.asarray(ring, np.float64) for ring in rings])
    starts = np.cumsum([0, *(len(ring) for ring in rings)])
    return find_holes(points, starts).view(np.bool_)


def area_mm2(rings: Rings, spacing_mm: tuple[float, float]) -> float:
    """Return the area of a contour in square millimetres, from the polygon instead of a mask.

    Parameters
    ----------
    spacing_mm
        Distance of rows and of columns, millimetres (DICOM's Pixel Spacing, PS3.3, 10.7.1.3).

    Examples
    --------
    >>> area_mm2([np.array([[0.0, 0], [0, 4], [3, 4], [3, 0]])], (2.0, 0.5))
    12.0
    """
    return area_px(rings) * spacing_mm[0] * spacing_mm[1]


def holds_point(rings: Rings, y: float, x: float) -> bool:
    """Return whether a point is inside a contour, by the rule of `fill_contour`."""
    return any(_layer_holds(edges, y, x) for edges in edges_of_layers(rings))


def _layer_holds(edges: NDArray[np.float64], y: float, x: float) -> bool:
    edges = edges[(edges[:, 0] <= y) != (edges[:, 2] <= y)]
    upwards = edges[:, 0] > edges[:, 2]
    edges[upwards] = edges[upwards][:, [2, 3, 0, 1]]
    y0, x0, y1, x1 = edges.T
    return bool(np.count_nonzero(x0 + (y - y0) * ((x1 - x0) / (y1 - y0)) <= x) % 2)


def centroid(rings: Rings) -> tuple[float, float]:
    """Return the centre of gravity (y, x) of the area of a contour, pixels.

    For a contour without area, the mean of its points.

    Examples
    --------
    >>> centroid([np.array([[0.0, 0], [0, 4], [3, 4], [3, 0]])])
    (1.5, 2.0)
    """
    total, moment = 0.0, np.zeros(2)
    if len(split_layers(rings)) > 1:
        total, *moments = _moments(rings).tolist()
        rings, moment = [ring for ring in rings if len(ring)], np.array(moments)
        return _centre(total, moment, rings)
    for ring, hole in zip(rings, _holes(rings), strict=True):
        points = np.asarray(ring, np.float64)
        area = ring_area_px(points)
        if area == 0.0:
            continue
        near = points - points[0]
        after = np.roll(near, -1, axis=0)
        cross = near[:, 1] * after[:, 0] - after[:, 1] * near[:, 0]
        centre = points[0] + ((near + after) * cross[:, None]).sum(axis=0) / (6.0 * area)
        weight = -abs(area) if hole else abs(area)
        total += weight
        moment += weight * centre
    return _centre(total, moment, rings)


def _centre(total: float, moment: NDArray[np.float64], rings: Rings) -> tuple[float, float]:
    if total == 0.0:
        everything = np.concatenate([np.asarray(ring, np.float64) for ring in rings])
        y, x = everything.mean(axis=0)
    else:
        y, x = moment / total
    return float(y), float(x)
