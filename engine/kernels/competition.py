"""Candidates become circles: each is fitted on its own, then the better ones explain edges away.

Two circles can't both be supported by the same piece of edge. A candidate keeps only the arcs that
no better candidate nearby explains; without enough of its own, it goes. This takes a fixed number
of rounds over neighbours within a fixed distance, instead of one greedy pass, so that what decides
about a circle lies within a bounded halo.
"""

from __future__ import annotations

import numpy as np

from engine.kernels._jit import compiled
from engine.kernels.fit import (
    P_DISTANCE,
    P_SINE,
    box_px,
    collect_support,
    count_bins,
    drop_touching,
    gather,
    refine,
    rough_radius,
    visible_bins,
)

# Columns of the table of candidates: centre from the anchor, fitted radius, share of the visible
# circumference, distance of the points (root mean square), radius free of blur; pixels.
C_Y, C_X, C_RADIUS, C_SUPPORT, C_RESIDUAL, C_CORRECTED = range(6)
CANDIDATE_COLUMNS = 6
# Columns of their whole numbers: anchor, polarity, their members' place, arcs, state.
I_ANCHOR_Y, I_ANCHOR_X, I_SIGN, I_FIRST, I_COUNT, I_BINS, I_VISIBLE, I_ALIVE = range(8)
CANDIDATE_INTEGERS = 8

LEAST_OWN_SHARE = 0.5
"""A candidate that owes more than half of its arcs to better ones is made of their edges."""

SHADOW_PX = 3.0
TWICE_SHARE = 0.1
"""Circles whose centres and radii differ by less than this (3 px, or a tenth of the radius) are one
edge seen twice: on its two sides, or bright on one side and dark on the other."""

RIM_CENTRE_SHARE = 0.15
RIM_WIDTH_SHARE = 0.4
RIM_SUPPORT_SHARE = 0.75
"""A concentric circle, up to 0.4 radii smaller or larger, is a rim or relief of the same object,
unless it has at least three quarters of the other one's support, as a ring's two edges have."""

PAIR_SHARE = 0.5
"""Of two discs of similar size less than half a radius apart, one covers the other and shows nearly
all of its edge; where neither does, one uneven edge was fitted twice."""

RADIUS_SLACK_PX = 0.5
"""A disc at the very end of the range of radii may be measured a little outside it."""

AMBIGUOUS_SUPPORT = 0.75
"""With less than this a fit may lie between two circles: it is tried again from four sides."""

WALK_CELLS = 2.0
"""Cells by which a fit may move the centre: further away another peak looks from nearby, and the
halo must cover it all."""

GATHER_CELLS = 2.0
"""Cells by which the annulus in which points are gathered exceeds the band of radii."""

FIT_ROUNDS = 6
"""The biweight's width shrinks by 0.6 a round: from 9 px, the coarsest usual cell, to 1.5 px in
four; two more settle the fit far below 0.01 px."""

LEAST_CHANCE = 1e-3
"""Lower bound of the chance that an arc finds a point by accident, where no others are nearby."""


@compiled
def judge(
    points,
    index,
    count,
    nearby,
    area,
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
):
    """Append a fitted circle to the candidates if enough of its circumference is on edges.

    Parameters
    ----------
    points, index, count
        See `fit.gather`.
    nearby, area
        Number of all edge points in the neighbourhood, and its size, square pixels.
    y, x, radius
        The circle, from the anchor, pixels.
    anchor_y, anchor_x, sign
        The anchor in the plane, pixels; polarity, +1 or -1.
    height, width
        Size of the plane, pixels.
    limits
        (6,) float64: smallest and largest radius, pixels; variance of the blur, square pixels;
        least support; least evidence, nats; most turning error, rad per rad.
    cosines
        See `fit.visible_bins`.
    sums
        Buffer of `fit.collect_support`.
    table, numbers, members, member_bins, filled
        See `fit_peaks`.

    Returns
    -------
    The circle's support, or 0 where it was not appended.
    """
    if radius <= 0.0:
        return 0.0
    corrected = radius + 0.5 * limits[2] / radius
    if corrected < limits[0] - RADIUS_SLACK_PX or corrected > limits[1] + RADIUS_SLACK_PX:
        return 0.0
    # The plane's edges, seen from the anchor.
    top = -0.5 - anchor_y
    left = -0.5 - anchor_x
    bottom = height - 0.5 - anchor_y
    right = width - 0.5 - anchor_x
    if y < top or x < left or y > bottom or x > right:
        return 0.0
    c = filled[0]
    if count > members.size - filled[1] or c >= table.shape[0]:
        filled[0] += 1
        filled[1] += count
        return 0.0
    bins = count_bins(radius)
    visible = visible_bins(y, x, radius, bins, cosines, top, left, bottom, right)
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
    if support < limits[3] or abs(turning) > limits[5]:
        return 0.0
    kept = filled[1]
    for m in range(filled[1], filled[1] + found):
        if sums[member_bins[m], 0] > 0.0:
            members[kept] = members[m]
            member_bins[kept] = member_bins[m]
            kept += 1
    found = kept - filled[1]
    # Chance that an arc has a point by accident: points around, times the area and the share of
    # directions that are allowed (mean over the points).
    allowed = 0.0
    for i in range(count):
        allowed += points[i, P_DISTANCE] * points[i, P_SINE]
    allowed /= count
    arc = 2.0 * np.pi * radius / bins
    chance = max(LEAST_CHANCE, (nearby - found) / area * arc * 2.0 * allowed / np.pi)
    share = min(support, 1.0 - LEAST_CHANCE)
    if share <= chance:
        return 0.0
    # Exponent of the binomial tail (Chernoff's bound): arcs times the Kullback-Leibler divergence.
    evidence = visible * (
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
def fit_peaks(
    pixel,
    value,
    starts,
    height,
    width,
    sign,
    anchors,
    shifts,
    peaks,
    low,
    high,
    cell,
    spread,
    limits,
    cosines,
    points,
    index,
    histogram,
    sums,
    table,
    numbers,
    members,
    member_bins,
    filled,
):
    """Fit a circle at every peak of a band; append those with enough support to the candidates.

    Parameters
    ----------
    pixel, value, starts
        Edge points, see `gradient.find_edges`.
    height, width
        Size of the plane, pixels.
    sign
        +1 for bright circles, -1 for dark ones.
    anchors, shifts, peaks
        See `votes.find_peaks`; the number of peaks.
    low, high, cell
        The band's radii and cell, pixels.
    spread
        See `fit.gather`.
    limits, cosines
        See `judge`.
    points, index, histogram, sums
        Buffers of `fit`.
    table, numbers, members, member_bins
        The candidates so far, written: columns as above; members are edge points.
    filled
        (2,) int64: candidates and members so far; updated. If they exceed what fits, the rest was
        dropped.
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
        radius, share = rough_radius(
            points, count, shift_y, shift_x, low - cell, high + cell, blur, histogram
        )
        whole = (
            min(anchor_y, height - 1 - anchor_y) > farthest
            and min(anchor_x, width - 1 - anchor_x) > farthest
        )
        # Of a circle whose centre lies in the plane a quarter is visible at least.
        if radius <= 0.0 or share < limits[3] * (1.0 if whole else 0.25):
            continue
        rows = min(anchor_y + box, height - 1) - max(anchor_y - box, 0) + 1
        columns = min(anchor_x + box, width - 1) - max(anchor_x - box, 0) + 1
        walk = WALK_CELLS * cell
        y, x, radius = refine(
            points, count, shift_y, shift_x, radius, shift_y, shift_x, 1.0 + cell, walk, FIT_ROUNDS
        )
        support = judge(
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
        # Two discs that overlap widely share a peak, and the fit may settle between them.
        for side in range(4):
            from_y = y + (cell * (side - 1) if side % 2 == 0 else 0)
            from_x = x + (cell * (side - 2) if side % 2 == 1 else 0)
            start, share = rough_radius(
                points, count, from_y, from_x, low - cell, high + cell, 1, histogram
            )
            if start <= 0.0:
                continue
            other_y, other_x, other_radius = refine(
                points, count, from_y, from_x, start, shift_y, shift_x, 2.0, walk, FIT_ROUNDS
            )
            if abs(other_y - y) + abs(other_x - x) + abs(other_radius - radius) < 1.0:
                continue
            judge(
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


@compiled
def offset(table, numbers, a, b):  # type: ignore[no-untyped-def]
    """Return y and x from candidate ``b`` to ``a``, pixels; the same in every crop."""
    dy = (numbers[a, I_ANCHOR_Y] - numbers[b, I_ANCHOR_Y]) + (table[a, C_Y] - table[b, C_Y])
    dx = (numbers[a, I_ANCHOR_X] - numbers[b, I_ANCHOR_X]) + (table[a, C_X] - table[b, C_X])
    return dy, dx


@compiled
def better(table, numbers, a, b):  # type: ignore[no-untyped-def]
    """Tell whether candidate ``a`` comes before ``b``: a total order, the same in every crop."""
    if table[a, C_SUPPORT] != table[b, C_SUPPORT]:
        return table[a, C_SUPPORT] > table[b, C_SUPPORT]
    if table[a, C_RESIDUAL] != table[b, C_RESIDUAL]:
        return table[a, C_RESIDUAL] < table[b, C_RESIDUAL]
    dy, dx = offset(table, numbers, a, b)
    if dy != 0.0:
        return dy < 0.0
    if dx != 0.0:
        return dx < 0.0
    return a < b


@compiled
def is_shadow(table, a, b, distance):  # type: ignore[no-untyped-def]
    """Tell whether ``a`` is the better ``b`` seen twice, or the rim of the same object."""
    radius = min(table[a, C_RADIUS], table[b, C_RADIUS])
    difference = abs(table[a, C_RADIUS] - table[b, C_RADIUS])
    twice = max(SHADOW_PX, TWICE_SHARE * radius)
    if distance <= twice and difference <= twice:
        return True
    if (
        distance <= max(SHADOW_PX, RIM_CENTRE_SHARE * radius)
        and difference <= RIM_WIDTH_SHARE * radius
        and table[a, C_SUPPORT] < RIM_SUPPORT_SHARE * table[b, C_SUPPORT]
    ):
        return True
    return (
        distance <= PAIR_SHARE * radius
        and difference <= PAIR_SHARE * radius
        and table[b, C_SUPPORT] < AMBIGUOUS_SUPPORT
    )


@compiled
def claim(numbers, members, a, b, owner):  # type: ignore[no-untyped-def]
    """Mark the edge points of candidate ``b`` as taken from candidate ``a``."""
    for m in range(numbers[b, I_FIRST], numbers[b, I_FIRST] + numbers[b, I_COUNT]):
        owner[members[m]] = a


@compiled
def compete(
    table, numbers, order, members, member_bins, min_support, reach, rounds, owner, seen, verdict
):  # type: ignore[no-untyped-def]
    """Take from each candidate the arcs that better ones within ``reach`` px explain.

    Candidates that keep too few arcs of their own, or are another one seen twice, are marked as not
    alive. All candidates of a round are judged by those alive before it.

    Parameters
    ----------
    table, numbers, members, member_bins
        Candidates, see `fit_peaks`; I_ALIVE is updated.
    order
        (n,) int64: candidates by rising y.
    min_support
        Least share of the visible circumference that a candidate must have of its own.
    reach
        Largest distance of two centres that compete, pixels.
    rounds
        How often the survivors are judged again; each adds ``reach`` to the halo.
    owner, seen, verdict
        Buffers of int64: one an edge point, one an arc, one a candidate.
    """
    count = order.size
    for _ in range(rounds):
        owner[:] = -1
        for i in range(count):
            a = order[i]
            verdict[a] = 0
            if numbers[a, I_ALIVE] == 0:
                continue
            verdict[a] = 1
            for way in (-1, 1):
                j = i + way
                while 0 <= j < count:
                    b = order[j]
                    j += way
                    dy, dx = offset(table, numbers, a, b)
                    if abs(dy) > reach:
                        break
                    square = dy * dy + dx * dx
                    if (
                        numbers[b, I_ALIVE] == 0
                        or square > reach * reach
                        or not better(table, numbers, b, a)
                    ):
                        continue
                    if is_shadow(table, a, b, np.sqrt(square)):
                        verdict[a] = 0
                        break
                    if numbers[b, I_SIGN] == numbers[a, I_SIGN]:
                        claim(numbers, members, a, b, owner)
            if verdict[a] == 0:
                continue
            for s in range(numbers[a, I_BINS]):
                seen[s] = 0
            for m in range(numbers[a, I_FIRST], numbers[a, I_FIRST] + numbers[a, I_COUNT]):
                if owner[members[m]] != a:
                    seen[member_bins[m]] = 1
            own = 0
            for s in range(numbers[a, I_BINS]):
                own += seen[s]
            share = own / max(numbers[a, I_VISIBLE], 1)
            if share < min_support or share < LEAST_OWN_SHARE * table[a, C_SUPPORT]:
                verdict[a] = 0
        for a in range(count):
            numbers[a, I_ALIVE] = verdict[a]
