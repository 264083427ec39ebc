"""Edge support of circles: the share of the circumference that shows an edge of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.kernels._jit import Floats, Whole, compiled
from engine.kernels.circles.fit import (
    P_DISTANCE,
    P_SINE,
    P_UX,
    P_UY,
    P_X,
    P_Y,
    SINE_SD,
    Circle,
    Points,
)

SINE_TO_VARIANCE = 1.0 / SINE_SD**2
"""Factor from the square of the allowed deviation to the variance of a direction."""

MOST_BINS = 1024
"""Number of arcs of the largest circles; beyond a radius of 512 px arcs become longer."""


class Box(NamedTuple):
    """Edges of a plane from an anchor, pixels."""

    top: float
    left: float
    bottom: float
    right: float


@compiled
def pseudo_turn(y: float, x: float) -> float:
    """Return the direction of (y, x) as a share of a full turn, [0, 1), within 0.0003.

    A polynomial instead of arctan2, because the last bits of arctan2 differ between machines.
    """
    ay = abs(y)
    ax = abs(x)
    t = min(ay, ax) / max(ay, ax, 1e-300)
    # arctan(t) on [0, 1] with an error below 0.0015 rad (S. Rajan et al., IEEE Signal Processing
    # Magazine 23 (2006), "Efficient approximations for the arctangent function").
    angle = t * (0.7853981633974483 + 0.273 * (1.0 - t))
    if ay > ax:
        angle = 1.5707963267948966 - angle
    if x < 0.0:
        angle = 3.141592653589793 - angle
    if y < 0.0:
        angle = 6.283185307179586 - angle
    turn = angle * 0.15915494309189535
    return turn if turn < 1.0 else 0.0


@compiled
def count_bins(radius: float) -> int:
    """Return the number of arcs by which a circle's support is counted, each 1.6 to 3.2 px long.

    Edge points are at most 1.42 px apart, so a complete edge leaves no arc empty.
    """
    bins = 8
    while bins < 2.0 * radius and bins < MOST_BINS:
        bins *= 2
    return bins


@compiled
def collect_support(
    points: Points,
    count: int,
    circle: Circle,
    bins: int,
    sums: Floats,
    members: Whole,
    member_bins: Whole,
) -> tuple[int, float]:
    """List the points on a circle that face its centre, and sum them up by arc.

    Parameters
    ----------
    points, count
        See `fit.gather_edge_points`.
    circle
        The circle.
    bins
        Number of arcs.
    sums
        (bins or more, 3) float64, written: points of an arc, and the sums of their directions'
        deviations from the radius, sines, and of these deviations' variances.
    members, member_bins
        (n,) int64, written: index of the edge point, and its arc.

    Returns
    -------
    The number of members, and the root of their mean squared distance from the circle, pixels.
    """
    table, edge = points
    y, x, radius = circle
    for b in range(bins):
        sums[b, 0] = 0.0
        sums[b, 1] = 0.0
        sums[b, 2] = 0.0
    found = 0
    squares = 0.0
    for i in range(count):
        dy = table[i, P_Y] - y
        dx = table[i, P_X] - x
        distance = np.sqrt(dy * dy + dx * dx)
        residual = abs(distance - radius)
        if residual > table[i, P_DISTANCE] or distance < 1e-9:
            continue
        cross = (dy * table[i, P_UX] - dx * table[i, P_UY]) / distance
        along = dy * table[i, P_UY] + dx * table[i, P_UX]
        if abs(cross) > table[i, P_SINE] or along > 0.0:
            continue
        b = int(pseudo_turn(dy, dx) * bins)
        sums[b, 0] += 1.0
        sums[b, 1] += cross
        sums[b, 2] += table[i, P_SINE] * table[i, P_SINE] * SINE_TO_VARIANCE
        members[found] = edge[i]
        member_bins[found] = b
        found += 1
        squares += residual * residual
    return found, np.sqrt(squares / max(found, 1))


@compiled
def drop_touching(sums: Floats, bins: int, most: float) -> float:
    """Drop runs of arcs whose normals do not turn with the radius; return the turning error left.

    The deviation of an edge's direction from the radius grows by 0 rad per rad on a circle's own
    edge, and by 1 + r / q where another circle of radius q touches one of radius r from outside
    (1 - r / q from inside): so arcs of another circle are recognised without knowing that circle. A
    run (arcs without a gap) is dropped if its slope exceeds ``most`` by twice its standard error.

    Parameters
    ----------
    sums
        See `collect_support`; the points of dropped arcs are set to 0.
    bins
        Number of arcs.
    most
        Largest turning error of a circle's own edge, rad per rad.

    Returns
    -------
    The pooled slope over all remaining runs, rad per rad.
    """
    angle = 2.0 * np.pi / bins
    upper = 0.0
    lower = 0.0
    first = 0
    for b in range(bins + 1):
        if b < bins and sums[b, 0] > 0.0:
            continue
        if first < b:
            n = 0.0
            t = 0.0
            e = 0.0
            tt = 0.0
            te = 0.0
            variance = 0.0
            for k in range(first, b):
                m = sums[k, 0]
                n += m
                t += m * k
                tt += m * k * k
                e += sums[k, 1]
                te += sums[k, 1] * k
                variance += sums[k, 2]
            above = te - t * e / n
            below = (tt - t * t / n) * angle
            slope = abs(above) / below if below > 0.0 else 0.0
            error = np.sqrt(variance / n / (below * angle)) if below > 0.0 else np.inf
            if slope > most + 2.0 * error:
                for k in range(first, b):
                    sums[k, 0] = 0.0
            else:
                upper += above
                lower += below
        first = b + 1
    return upper / lower if lower > 0.0 else 0.0


@compiled
def visible_bins(circle: Circle, bins: int, cosines: Floats, box: Box) -> int:
    """Count the arcs of a circle with their middle in a box.

    ``cosines`` holds cos(2 pi i / n) for one full turn, n a multiple of ``4 * bins``.
    """
    y, x, radius = circle
    top, left, bottom, right = box
    if y - radius >= top and x - radius >= left and y + radius <= bottom and x + radius <= right:
        return bins
    n = cosines.size
    stride = n // bins
    count = 0
    for b in range(bins):
        i = b * stride + stride // 2
        py = y + radius * cosines[(i + n - n // 4) % n]
        px = x + radius * cosines[i]
        if top <= py <= bottom and left <= px <= right:
            count += 1
    return count
