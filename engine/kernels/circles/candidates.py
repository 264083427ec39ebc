"""Candidates: a circle fitted at every peak, kept if chance does not explain its edge points."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.kernels._jit import Floats, Whole, compiled
from engine.kernels.circles.edges import Edges
from engine.kernels.circles.fit import (
    P_DISTANCE,
    P_SINE,
    Centre,
    Circle,
    Points,
    box_px,
    estimate_radius,
    gather_edge_points,
    refine_circle,
)
from engine.kernels.circles.peaks import Peaks
from engine.kernels.circles.support import (
    Box,
    collect_support,
    count_bins,
    drop_touching,
    visible_bins,
)
from engine.kernels.circles.votes import LEAST_SUPPORT_OUTSIDE, Frame, Grid

# Columns of the table of candidates: centre from the anchor, fitted radius, share of the visible
# circumference, root mean square distance of the points, radius corrected for blur; pixels.
C_Y, C_X, C_RADIUS, C_SUPPORT, C_RESIDUAL, C_CORRECTED = range(6)
CANDIDATE_COLUMNS = 6
# Integer columns: anchor, polarity, range of members, arcs, state.
I_ANCHOR_Y, I_ANCHOR_X, I_SIGN, I_FIRST, I_COUNT, I_BINS, I_VISIBLE, I_ALIVE = range(8)
CANDIDATE_INTEGERS = 8

RADIUS_SLACK_PX = 0.5
"""Slack at the ends of the range of radii: a disc at an end may be measured a little outside."""

AMBIGUOUS_SUPPORT = 0.75
"""A fit with less support may lie between two circles: it is repeated from four sides."""

WALK_CELLS = 2.0
"""Largest shift of the centre by a fit, cells: beyond it another peak is nearer, and the halo must
cover the shift."""

GATHER_CELLS = 2.0
"""Margin of the annulus in which points are gathered around the band of radii, cells."""

CHAIN_PX = 3.2
"""Edge points in noise come in short chains, since smoothing spreads every disturbance: arcs
shorter than this are not independent. (It is also the longest arc, see `support.count_bins`.)"""

LEAST_VISIBLE_OUTSIDE = 0.3
"""Least visible share of a circle whose centre lies outside the plane: a third, less the error of
a fit (and one arc)."""

LEAST_CHANCE = 1e-3
"""Lower bound of the chance of an accidental point in an arc, for empty neighbourhoods."""


class Limits(NamedTuple):
    """Requirements of a circle, and figures that follow from the parameters of a search."""

    innermost_px: float
    """Smallest radius, pixels; that of the inner edge for rims."""
    largest_px: float
    """Largest radius, pixels."""
    smallest_px: float
    """Smallest radius of a circle to report, pixels; a rim's inner edge may be smaller."""
    variance_px2: float
    """Variance of the blur, square pixels."""
    spread_px: float
    """Standard deviation of a point across an edge at signal-to-noise ratio 1, pixels."""
    min_support: float
    """Least share of the visible circumference that shows an edge."""
    least_evidence: float
    """Least evidence against chance, nats."""
    most_turning: float
    """Largest turning error, rad per rad, see `support.drop_touching`."""
    reach_px: float
    """Largest distance of two centres that compete, pixels."""
    rims: int
    """Treatment of rims, see `rims.pair_rims`."""
    rim_px: float
    """Greatest width of a rim, pixels; infinite: a share of its radius."""


class Candidates(NamedTuple):
    """Circles so far, and the edge points that support them."""

    table: Floats
    """(n, 6) float64: C_ columns above."""
    numbers: Whole
    """(n, 8) int64: I_ columns above."""
    members: Whole
    """(m,) int64: edge points of all candidates."""
    member_bins: Whole
    """(m,) int64: arc of each of these."""
    filled: Whole
    """(2,) int64: number of candidates and of members so far. Those beyond the room of the arrays
    are counted and dropped."""


class FitBuffers(NamedTuple):
    """Buffers for the points and arcs of one candidate."""

    points: Points
    """Room for all edge points."""
    histogram: Floats
    """One bin a pixel of radius, see `fit.estimate_radius`."""
    sums: Floats
    """One row an arc, see `support.collect_support`."""
    cosines: Floats
    """Not written, see `support.visible_bins`."""


class Gathered(NamedTuple):
    """Edge points gathered around a peak."""

    points: int
    """Number of points."""
    nearby: int
    """Number of all edge points in the neighbourhood."""
    area: int
    """Area of the neighbourhood, square pixels."""
    anchor_y: int
    """Row of the anchor in the plane, pixels."""
    anchor_x: int
    """Column of the anchor."""
    sign: int
    """Polarity, +1 or -1."""


@compiled
def score_candidate(
    circle: Circle,
    gathered: Gathered,
    frame: Frame,
    limits: Limits,
    buffers: FitBuffers,
    candidates: Candidates,
) -> float:
    """Append a fitted circle to the candidates if enough of its circumference is on edges.

    Parameters
    ----------
    circle
        The circle.
    gathered
        Points that it was fitted to; they are in ``buffers.points``.
    frame
        The plane.
    limits
        Requirements.
    buffers
        ``sums`` are written.
    candidates
        Updated.

    Returns
    -------
    The circle's support, or 0 if it was not appended.
    """
    y, x, radius = circle
    count, nearby, area, anchor_y, anchor_x, sign = gathered
    table, numbers, members, member_bins, filled = candidates
    sums = buffers.sums
    if radius <= 0.0:
        return 0.0
    corrected = radius + 0.5 * limits.variance_px2 / radius
    if (
        corrected < limits.innermost_px - RADIUS_SLACK_PX
        or corrected > limits.largest_px + RADIUS_SLACK_PX
    ):
        return 0.0
    # Position of the plane's edges relative to the anchor.
    top = -0.5 - anchor_y
    left = -0.5 - anchor_x
    bottom = frame.height - 0.5 - anchor_y
    right = frame.width - 0.5 - anchor_x
    outside = y < top or x < left or y > bottom or x > right
    c = filled[0]
    if count > members.size - filled[1] or c >= table.shape[0]:
        filled[0] += 1
        filled[1] += count
        return 0.0
    bins = count_bins(radius)
    visible = visible_bins(circle, bins, buffers.cosines, Box(top, left, bottom, right))
    if outside and visible + 1 < LEAST_VISIBLE_OUTSIDE * bins:
        return 0.0
    found, residual = collect_support(
        buffers.points,
        count,
        circle,
        bins,
        sums,
        members[filled[1] :],
        member_bins[filled[1] :],
    )
    turning = drop_touching(sums, bins, limits.most_turning)
    arcs = 0
    for b in range(bins):
        arcs += 1 if sums[b, 0] > 0.0 else 0
    support = min(1.0, arcs / max(visible, 1))
    least = max(limits.min_support, LEAST_SUPPORT_OUTSIDE) if outside else limits.min_support
    if support < least or abs(turning) > limits.most_turning:
        return 0.0
    kept = filled[1]
    for m in range(filled[1], filled[1] + found):
        if sums[member_bins[m], 0] > 0.0:
            members[kept] = members[m]
            member_bins[kept] = member_bins[m]
            kept += 1
    found = kept - filled[1]
    # Chance that an arc has a point by accident: density of points nearby, times the area and
    # the share of directions that are allowed (mean over the points).
    allowed = 0.0
    points = buffers.points.table
    for i in range(count):
        allowed += points[i, P_DISTANCE] * points[i, P_SINE]
    allowed /= count
    chance = max(LEAST_CHANCE, (nearby - found) / area * CHAIN_PX * 2.0 * allowed / np.pi)
    share = min(support, 1.0 - LEAST_CHANCE)
    if share <= chance:
        return 0.0
    # Exponent of the binomial tail (Chernoff bound).
    trials = 2.0 * np.pi * radius / CHAIN_PX * visible / bins
    evidence = trials * (
        share * np.log(share / chance) + (1.0 - share) * np.log((1.0 - share) / (1.0 - chance))
    )
    if evidence < limits.least_evidence:
        return 0.0
    table[c, C_Y] = y
    table[c, C_X] = x
    table[c, C_RADIUS] = radius
    table[c, C_SUPPORT] = support
    table[c, C_RESIDUAL] = residual
    table[c, C_CORRECTED] = corrected
    numbers[c, I_ANCHOR_Y] = anchor_y
    numbers[c, I_ANCHOR_X] = anchor_x
    numbers[c, I_SIGN] = sign
    numbers[c, I_FIRST] = filled[1]
    numbers[c, I_COUNT] = found
    numbers[c, I_BINS] = bins
    numbers[c, I_VISIBLE] = visible
    numbers[c, I_ALIVE] = 1
    filled[0] += 1
    filled[1] += found
    return support


@compiled
def fit_candidates(
    edges: Edges,
    frame: Frame,
    grid: Grid,
    peaks: Peaks,
    found: int,
    limits: Limits,
    buffers: FitBuffers,
    candidates: Candidates,
) -> None:
    """Fit a circle at every peak of a band; append those with enough support to the candidates.

    Parameters
    ----------
    edges, frame
        All edge points, and the plane.
    grid, peaks, found
        The band and polarity, its peaks, and their number.
    limits
        Requirements of a circle.
    buffers
        Written.
    candidates
        Updated.
    """
    points, histogram = buffers.points, buffers.histogram
    low, high, cell = grid.low, grid.high, 1 << grid.cell_log2
    nearest = max(1.0, low - GATHER_CELLS * cell)
    farthest = high + GATHER_CELLS * cell
    box = box_px(farthest)
    walk = WALK_CELLS * cell
    for p in range(found):
        anchor_y = peaks.anchors[p, 0]
        anchor_x = peaks.anchors[p, 1]
        shift_y = peaks.shifts[p, 0]
        shift_x = peaks.shifts[p, 1]
        centre = Centre(anchor_y, anchor_x, shift_y, shift_x)
        count, nearby = gather_edge_points(
            edges, grid.sign, centre, nearest, farthest, limits.spread_px, points
        )
        radius, share = estimate_radius(
            points.table,
            count,
            shift_y,
            shift_x,
            low - 0.25 * cell,
            high + 0.25 * cell,
            cell // 2 + 1,
            histogram,
        )
        whole = (
            min(anchor_y, frame.height - 1 - anchor_y) > farthest
            and min(anchor_x, frame.width - 1 - anchor_x) > farthest
        )
        # At least a quarter of a circle is visible, or a third if its centre lies outside.
        if radius <= 0.0 or share < limits.min_support * (1.0 if whole else 0.25):
            continue
        rows = min(anchor_y + box, frame.height - 1) - max(anchor_y - box, 0) + 1
        columns = min(anchor_x + box, frame.width - 1) - max(anchor_x - box, 0) + 1
        gathered = Gathered(count, nearby, rows * columns, anchor_y, anchor_x, grid.sign)
        circle = refine_circle(
            points.table, count, Circle(shift_y, shift_x, radius), centre, 1.0 + cell, walk
        )
        support = score_candidate(circle, gathered, frame, limits, buffers, candidates)
        if support == 0.0 or support > AMBIGUOUS_SUPPORT:
            continue
        # Two discs that overlap widely share a peak, and the fit may converge between them.
        for side in range(4):
            from_y = circle.y + (cell * (side - 1) if side % 2 == 0 else 0)
            from_x = circle.x + (cell * (side - 2) if side % 2 == 1 else 0)
            start, share = estimate_radius(
                points.table, count, from_y, from_x, low - cell, high + cell, 1, histogram
            )
            if start <= 0.0:
                continue
            other = refine_circle(
                points.table, count, Circle(from_y, from_x, start), centre, 2.0, walk
            )
            apart = abs(other.y - circle.y) + abs(other.x - circle.x)
            if apart + abs(other.radius - circle.radius) < 1.0:
                continue
            score_candidate(other, gathered, frame, limits, buffers, candidates)
