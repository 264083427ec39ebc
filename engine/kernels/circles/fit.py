"""Circle fit through the edge points around a rough centre.

The radius starts at the mode of the points' distances; centre and radius are then refined by a
geometric least-squares fit (Gauss-Newton on distances: W. Gander, G. H. Golub, R. Strebel,
"Least-squares fitting of circles and ellipses", BIT 34 (1994)) with Tukey's biweight, whose
shrinking width removes the influence of other edges.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.kernels._jit import Floats, Whole, compiled
from engine.kernels.circles.edges import Edges

# Columns of the gathered points: position from the anchor, unit direction to the centre, weight,
# allowed distance from the circle, allowed sine between direction and radius.
P_Y, P_X, P_UY, P_UX, P_WEIGHT, P_DISTANCE, P_SINE = range(7)
GATHERED_COLUMNS = 7

MOST_DISTANCE_PX = 2.5
"""Largest distance of a member from its circle, pixels, however noisy the point is."""

ALLOWANCE = 1.4
"""The fit's weight reaches further than a point's own allowance, since it falls off to 0 there."""

LEAST_WIDTH_PX = 1.5
"""Final half width of the biweight: three times the error of a point in moderate noise."""

SETTLED_PX = 0.005
"""Convergence threshold, pixels: each step gains an order of magnitude or more."""

FIT_ROUNDS = 6
"""The biweight's width shrinks by a factor of 0.6 a round: from 9 px, the coarsest usual cell, to
1.5 px in four rounds; two more converge the fit far below 0.01 px."""

SINE_SD = 2.5
"""Allowed deviation of directions: 2.5 standard deviations (and a little more)."""


class Circle(NamedTuple):
    """A circle, from its anchor, pixels."""

    y: float
    x: float
    radius: float


class Centre(NamedTuple):
    """A rough centre: a pixel, the anchor, and the offset from it, pixels."""

    anchor_y: int
    anchor_x: int
    shift_y: float
    shift_x: float


class Points(NamedTuple):
    """Edge points around a rough centre."""

    table: Floats
    """(n, 7) float64: y, x from the anchor; unit direction to the centre; weight; allowed distance
    from the circle, pixels; allowed sine between direction and radius."""
    edge: Whole
    """(n,) int64: number of the edge point."""


@compiled
def box_px(farthest: float) -> int:
    """Return the largest distance of a gathered point from its anchor in either axis, pixels."""
    return int(np.ceil(farthest)) + 2


@compiled
def gather_edge_points(
    edges: Edges,
    sign: int,
    centre: Centre,
    nearest: float,
    farthest: float,
    spread: float,
    points: Points,
) -> tuple[int, int]:
    """Collect the edge points in an annulus around a rough centre that may be on its circle.

    Parameters
    ----------
    edges
        All edge points.
    sign
        +1: the gradient points to the centre (bright circles); -1: away from it.
    centre
        The rough centre.
    nearest, farthest
        Radii of the annulus, pixels.
    spread
        Standard deviation of a point across an edge at signal-to-noise ratio 1, pixels.
    points
        Written.

    Returns
    -------
    The number of points, in raster order, and the number of all edge points in the box of `box_px`
    around the anchor.
    """
    pixel, value, starts = edges
    anchor_y, anchor_x, shift_y, shift_x = centre
    table, edge = points
    height = starts.shape[0]
    blocks = starts.shape[1] - 1
    box = box_px(farthest)
    first_row = max(0, anchor_y - box)
    last_row = min(height - 1, anchor_y + box)
    first_block = max(0, (anchor_x - box) >> 6)
    last_block = min(blocks - 1, (anchor_x + box) >> 6)
    low = nearest * nearest
    high = farthest * farthest
    room = edge.size
    count = 0
    nearby = 0
    for row in range(first_row, last_row + 1):
        for i in range(starts[row, first_block], starts[row, last_block + 1]):
            y = (np.int64(pixel[i, 0]) - anchor_y) + np.float64(value[i, 0])
            x = (np.int64(pixel[i, 1]) - anchor_x) + np.float64(value[i, 1])
            if abs(np.int64(pixel[i, 1]) - anchor_x) > box:
                continue
            nearby += 1
            dy = shift_y - y
            dx = shift_x - x
            square = dy * dy + dx * dx
            if square < low or square > high:
                continue
            uy = sign * np.float64(value[i, 2])
            ux = sign * np.float64(value[i, 3])
            along = uy * dy + ux * dx
            # Within 45 degrees: the rough centre may be off by a quarter of the radius.
            if along <= 0.0 or along * along < 0.5 * square:
                continue
            if count >= room:
                continue
            ratio = np.float64(value[i, 4])
            error = spread / ratio
            table[count, P_Y] = y
            table[count, P_X] = x
            table[count, P_UY] = uy
            table[count, P_UX] = ux
            # Inverse variance; 0.25 px is the error without noise (pixel grid, curvature).
            table[count, P_WEIGHT] = 1.0 / (0.0625 + error * error)
            table[count, P_DISTANCE] = min(MOST_DISTANCE_PX, 0.8 + 2.0 * error)
            # Noise of a component over the magnitude is the error of the direction, radians.
            table[count, P_SINE] = min(0.7, 0.2 + SINE_SD / ratio)
            edge[count] = i
            count += 1
    return count, nearby


@compiled
def estimate_radius(
    points: Floats,
    count: int,
    shift_y: float,
    shift_x: float,
    low: float,
    high: float,
    blur: int,
    histogram: Floats,
) -> tuple[float, float]:
    """Return the most frequent radius of the points, and its share of the circumference.

    ``histogram`` is a buffer of float64, one bin a pixel; ``blur`` is the half width in pixels of
    the smoothing triangle, about the error of the rough centre.
    """
    bins = int(high) + blur + 3
    for b in range(bins):
        histogram[b] = 0.0
    for i in range(count):
        dy = points[i, P_Y] - shift_y
        dx = points[i, P_X] - shift_x
        b = int(np.sqrt(dy * dy + dx * dx) + 0.5)
        if b < bins:
            histogram[b] += 1.0
    best = 0.0
    radius = 0.0
    for b in range(max(1, int(low)), int(high) + 2):
        total = 0.0
        moment = 0.0
        for k in range(-blur, blur + 1):
            if 0 <= b + k < bins:
                part = (blur + 1 - abs(k)) * histogram[b + k]
                total += part
                moment += k * part
        if total > best * b:
            best = total / b
            radius = b + moment / total
    return radius, best / (blur + 1) / (2.0 * np.pi)


@compiled
def refine_circle(
    points: Floats, count: int, start: Circle, home: Centre, width: float, walk: float
) -> Circle:
    """Fit a circle to gathered points.

    Parameters
    ----------
    points, count
        Table of `Points`, and the number of points.
    start
        First estimate.
    home, walk
        Rough centre from which the centre may move by at most ``walk`` px in either axis.
    width
        Initial half width of the biweight, pixels; it shrinks to 1.5 px, but never below a point's
        own allowance.

    Returns
    -------
    The circle; a radius of 0 means that the points do not determine one, or that the centre moved
    too far.
    """
    y, x, radius = start
    for _ in range(FIT_ROUNDS):
        farthest = max(width, ALLOWANCE * MOST_DISTANCE_PX)
        inner = max(0.0, radius - farthest) ** 2
        outer = (radius + farthest) ** 2
        w = wy = wx = wyy = wxx = wyx = 0.0
        wr = wyr = wxr = 0.0
        for i in range(count):
            dy = points[i, P_Y] - y
            dx = points[i, P_X] - x
            square = dy * dy + dx * dx
            # Most points belong to other edges and need no square root.
            if square <= inner or square >= outer:
                continue
            distance = np.sqrt(square)
            residual = distance - radius
            allowed = max(width, ALLOWANCE * points[i, P_DISTANCE])
            if abs(residual) >= allowed:
                continue
            inverse = 1.0 / distance
            ny = dy * inverse
            nx = dx * inverse
            if abs(ny * points[i, P_UX] - nx * points[i, P_UY]) > points[i, P_SINE] + width * 0.04:
                continue
            share = residual / allowed
            weight = 1.0 - share * share
            weight *= weight * points[i, P_WEIGHT]
            w += weight
            wy += weight * ny
            wx += weight * nx
            wyy += weight * ny * ny
            wxx += weight * nx * nx
            wyx += weight * ny * nx
            wr += weight * residual
            wyr += weight * ny * residual
            wxr += weight * nx * residual
        if w <= 0.0:
            return Circle(y, x, 0.0)
        # Eliminate the radius, then solve 2 x 2 for the centre.
        ayy = wyy - wy * wy / w
        axx = wxx - wx * wx / w
        ayx = wyx - wy * wx / w
        by = wyr - wy * wr / w
        bx = wxr - wx * wr / w
        determinant = ayy * axx - ayx * ayx
        # An arc too short to fix the centre along its axis.
        if determinant <= 1e-6 * w * w:
            return Circle(y, x, 0.0)
        my = (by * axx - bx * ayx) / determinant
        mx = (bx * ayy - by * ayx) / determinant
        length = np.sqrt(my * my + mx * mx)
        if length > width:
            my *= width / length
            mx *= width / length
        y += my
        x += mx
        grown = (wr - my * wy - mx * wx) / w
        radius += grown
        if radius <= 0.5 or abs(y - home.shift_y) > walk or abs(x - home.shift_x) > walk:
            return Circle(y, x, 0.0)
        if width <= LEAST_WIDTH_PX and abs(my) + abs(mx) + abs(grown) < SETTLED_PX:
            break
        width = max(LEAST_WIDTH_PX, width * 0.6)
    return Circle(y, x, radius)
