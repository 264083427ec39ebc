"""Candidates: a circle fitted at every peak, kept if chance does not explain its edge points."""

from __future__ import annotations

import numpy as np

from engine.kernels._jit import Floats, Floats32, Whole, Whole32, compiled
from engine.kernels.circles.fit import (
    P_DISTANCE,
    P_SINE,
    box_px,
    estimate_radius,
    gather,
    refine_circle,
)
from engine.kernels.circles.support import collect_support, count_bins, drop_touching, visible_bins
from engine.kernels.circles.votes import LEAST_SUPPORT_OUTSIDE

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

FIT_ROUNDS = 6
"""The biweight's width shrinks by a factor of 0.6 a round: from 9 px, the coarsest usual cell, to
1.5 px in four rounds; two more converge the fit far below 0.01 px."""

CHAIN_PX = 3.2
"""Edge points in noise come in short chains, since smoothing spreads every disturbance: arcs
shorter than this are not independent. (It is also the longest arc, see `support.count_bins`.)"""

LEAST_VISIBLE_OUTSIDE = 0.3
"""Least visible share of a circle whose centre lies outside the plane: a third, less the error of
a fit (and one arc)."""

LEAST_CHANCE = 1e-3
"""Lower bound of the chance of an accidental point in an arc, for empty neighbourhoods."""


@compiled
def score_candidate(
    points: Floats,
    index: Whole,
    count: int,
    nearby: int,
    area: int,
    y: float,
    x: float,
    radius: float,
    anchor_y: int,
    anchor_x: int,
    sign: int,
    height: int,
    width: int,
    limits: Floats,
    cosines: Floats,
    sums: Floats,
    table: Floats,
    numbers: Whole,
    members: Whole,
    member_bins: Whole,
    filled: Whole,
) -> float:
    """Append a fitted circle to the candidates if enough of its circumference is on edges.

    Parameters
    ----------
    points, index, count
        See `fit.gather`.
    nearby, area
        Number of all edge points in the neighbourhood, and its area, square pixels.
    y, x, radius
        The circle, from the anchor, pixels.
    anchor_y, anchor_x, sign
        The anchor in the plane, pixels; polarity, +1 or -1.
    height, width
        Size of the plane, pixels.
    limits
        (6,) float64: smallest and largest radius, pixels; variance of the blur, square pixels;
        least support; least evidence, nats; largest turning error, rad per rad.
    cosines
        See `support.visible_bins`.
    sums
        Buffer of `support.collect_support`.
    table, numbers, members, member_bins, filled
        See `fit_candidates`.

    Returns
    -------
    The circle's support, or 0 if it was not appended.
    """
    if radius <= 0.0:
        return 0.0
    corrected = radius + 0.5 * limits[2] / radius
    if corrected < limits[0] - RADIUS_SLACK_PX or corrected > limits[1] + RADIUS_SLACK_PX:
        return 0.0
    # Position of the plane's edges relative to the anchor.
    top = -0.5 - anchor_y
    left = -0.5 - anchor_x
    bottom = height - 0.5 - anchor_y
    right = width - 0.5 - anchor_x
    outside = y < top or x < left or y > bottom or x > right
    c = filled[0]
    if count > members.size - filled[1] or c >= table.shape[0]:
        filled[0] += 1
        filled[1] += count
        return 0.0
    bins = count_bins(radius)
    visible = visible_bins(y, x, radius, bins, cosines, top, left, bottom, right)
    if outside and visible + 1 < LEAST_VISIBLE_OUTSIDE * bins:
        return 0.0
    found, residual = collect_support(
        points,
        index,
        count,
        y,
        x,
        radius,
        bins,
        sums,
        members[filled[1] :],
        member_bins[filled[1] :],
    )
    turning = drop_touching(sums, bins, limits[5])
    arcs = 0
    for b in range(bins):
        arcs += 1 if sums[b, 0] > 0.0 else 0
    support = min(1.0, arcs / max(visible, 1))
    least = max(limits[3], LEAST_SUPPORT_OUTSIDE) if outside else limits[3]
    if support < least or abs(turning) > limits[5]:
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
    if evidence < limits[4]:
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
    pixel: Whole32,
    value: Floats32,
    starts: Whole32,
    height: int,
    width: int,
    sign: int,
    anchors: Whole,
    shifts: Floats,
    peaks: int,
    low: float,
    high: float,
    cell: int,
    spread: float,
    limits: Floats,
    cosines: Floats,
    points: Floats,
    index: Whole,
    histogram: Floats,
    sums: Floats,
    table: Floats,
    numbers: Whole,
    members: Whole,
    member_bins: Whole,
    filled: Whole,
) -> None:
    """Fit a circle at every peak of a band; append those with enough support to the candidates.

    Parameters
    ----------
    pixel, value, starts
        Edge points, see `edges.find_edges`.
    height, width
        Size of the plane, pixels.
    sign
        +1 for bright circles, -1 for dark ones.
    anchors, shifts, peaks
        See `votes.find_peaks`; ``peaks`` is the number of peaks.
    low, high, cell
        The band's radii and cell, pixels.
    spread
        See `fit.gather`.
    limits, cosines
        See `score_candidate`.
    points, index, histogram, sums
        Buffers of `fit` and `support`.
    table, numbers, members, member_bins
        The candidates so far, written: columns as above; members are edge points.
    filled
        (2,) int64: number of candidates and members so far; updated. Rows beyond the buffers' room
        are dropped.
    """
    nearest = max(1.0, low - GATHER_CELLS * cell)
    farthest = high + GATHER_CELLS * cell
    box = box_px(farthest)
    blur = cell // 2 + 1
    for p in range(peaks):
        anchor_y = anchors[p, 0]
        anchor_x = anchors[p, 1]
        shift_y = shifts[p, 0]
        shift_x = shifts[p, 1]
        count, nearby = gather(
            pixel,
            value,
            starts,
            sign,
            anchor_y,
            anchor_x,
            shift_y,
            shift_x,
            nearest,
            farthest,
            spread,
            points,
            index,
        )
        radius, share = estimate_radius(
            points, count, shift_y, shift_x, low - 0.25 * cell, high + 0.25 * cell, blur, histogram
        )
        whole = (
            min(anchor_y, height - 1 - anchor_y) > farthest
            and min(anchor_x, width - 1 - anchor_x) > farthest
        )
        # At least a quarter of a circle is visible, or a third if its centre lies outside.
        if radius <= 0.0 or share < limits[3] * (1.0 if whole else 0.25):
            continue
        rows = min(anchor_y + box, height - 1) - max(anchor_y - box, 0) + 1
        columns = min(anchor_x + box, width - 1) - max(anchor_x - box, 0) + 1
        walk = WALK_CELLS * cell
        y, x, radius = refine_circle(
            points, count, shift_y, shift_x, radius, shift_y, shift_x, 1.0 + cell, walk, FIT_ROUNDS
        )
        support = score_candidate(
            points,
            index,
            count,
            nearby,
            rows * columns,
            y,
            x,
            radius,
            anchor_y,
            anchor_x,
            sign,
            height,
            width,
            limits,
            cosines,
            sums,
            table,
            numbers,
            members,
            member_bins,
            filled,
        )
        if support == 0.0 or support > AMBIGUOUS_SUPPORT:
            continue
        # Two discs that overlap widely share a peak, and the fit may converge between them.
        for side in range(4):
            from_y = y + (cell * (side - 1) if side % 2 == 0 else 0)
            from_x = x + (cell * (side - 2) if side % 2 == 1 else 0)
            start, share = estimate_radius(
                points, count, from_y, from_x, low - cell, high + cell, 1, histogram
            )
            if start <= 0.0:
                continue
            other_y, other_x, other_radius = refine_circle(
                points, count, from_y, from_x, start, shift_y, shift_x, 2.0, walk, FIT_ROUNDS
            )
            if abs(other_y - y) + abs(other_x - x) + abs(other_radius - radius) < 1.0:
                continue
            score_candidate(
                points,
                index,
                count,
                nearby,
                rows * columns,
                other_y,
                other_x,
                other_radius,
                anchor_y,
                anchor_x,
                sign,
                height,
                width,
                limits,
                cosines,
                sums,
                table,
                numbers,
                members,
                member_bins,
                filled,
            )
