"""Circle search from edge points to circles in one compiled call.

Calling eight kernels a band from Python costs more than some of the kernels themselves.
"""

from __future__ import annotations

import numpy as np

from engine.kernels._jit import Floats, Floats32, Whole, Whole32, compiled
from engine.kernels.circles.candidates import (
    C_CORRECTED,
    C_SUPPORT,
    C_X,
    C_Y,
    I_ALIVE,
    I_ANCHOR_X,
    I_ANCHOR_Y,
    fit_candidates,
)
from engine.kernels.circles.rims import NO_RIMS, pair_rims
from engine.kernels.circles.suppression import suppress_candidates
from engine.kernels.circles.votes import (
    B_CELL_LOG2,
    B_HIGH,
    B_LEAST,
    B_LEAST_OUTSIDE,
    B_LOW,
    B_STEPS,
    MARGIN_CELLS,
    cast_votes,
    find_peaks,
    outside_cells,
    sum_windows,
)

ROUNDS = 2
"""Rounds of non-maximum suppression; each adds its reach to the halo."""


@compiled
def vote_and_fit(
    pixel: Whole32,
    value: Floats32,
    count: int,
    starts: Whole32,
    height: int,
    width: int,
    origin_y: int,
    origin_x: int,
    signs: Whole,
    bands: Floats,
    accumulator: Whole32,
    windows: Whole32,
    line: Whole32,
    anchors: Whole,
    shifts: Floats,
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
) -> int:
    """Cast votes in every band and polarity, and fit circles at all peaks.

    Parameters
    ----------
    pixel, value, count, starts
        Edge points, see `edges.find_edges`.
    height, width, origin_y, origin_x
        Size of the plane, and position of its first pixel in the image, pixels.
    signs
        Polarities: +1 bright, -1 dark.
    bands
        (n, 5) float64, see `votes.tabulate_bands`.
    accumulator, windows, line
        Buffers of int32 for the largest band's cells (flat), their windows and one row.
    anchors, shifts
        Buffers for the largest band's peaks, see `votes.find_peaks`.
    spread, limits, cosines, points, index, histogram, sums
        See `candidates.fit_candidates`.
    table, numbers, members, member_bins, filled
        The candidates, written: see `candidates.fit_candidates`.

    Returns
    -------
    The number of peaks.
    """
    total = 0
    for b in range(bands.shape[0]):
        low = bands[b, B_LOW]
        high = bands[b, B_HIGH]
        log2 = int(bands[b, B_CELL_LOG2])
        steps = int(bands[b, B_STEPS])
        cell = 1 << log2
        around = outside_cells(high, log2)
        phase_y = origin_y % cell + around * cell
        phase_x = origin_x % cell + around * cell
        rows = (phase_y + height + cell - 1) // cell + around + 2 * MARGIN_CELLS
        columns = (phase_x + width + cell - 1) // cell + around + 2 * MARGIN_CELLS
        votes = accumulator[: rows * columns].reshape((rows, columns))
        summed = windows[: rows * columns].reshape((rows, columns))
        for s in range(signs.size):
            sign = signs[s]
            # One more vote on each side: a circle at the band's end keeps all of its votes.
            cast_votes(
                pixel, value, count, sign, low - 0.5 * cell, log2, steps, phase_y, phase_x, votes
            )
            sum_windows(votes, line[:columns], summed)
            peaks = find_peaks(
                votes,
                summed,
                bands[b, B_LEAST],
                bands[b, B_LEAST_OUTSIDE],
                log2,
                phase_y,
                phase_x,
                height,
                width,
                high,
                anchors,
                shifts,
            )
            total += peaks
            fit_candidates(
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
            )
    return total


@compiled
def list_circles(
    table: Floats, numbers: Whole, order: Whole, origin_y: int, origin_x: int, out: Floats
) -> int:
    """Write the live candidates: y, x, radius, support; sorted by the first three.

    ``order`` (n,) int64 sorts the candidates by y, up to the last bit.
    """
    count = 0
    for i in range(order.size):
        c = order[i]
        if numbers[c, I_ALIVE] == 0:
            continue
        y = (numbers[c, I_ANCHOR_Y] + origin_y) + table[c, C_Y]
        x = (numbers[c, I_ANCHOR_X] + origin_x) + table[c, C_X]
        radius = table[c, C_CORRECTED]
        # Adding the origin may round y, so that two values become equal only now.
        place = count
        while place > 0 and (
            out[place - 1, 0] > y
            or (
                out[place - 1, 0] == y
                and (
                    out[place - 1, 1] > x or (out[place - 1, 1] == x and out[place - 1, 2] > radius)
                )
            )
        ):
            for k in range(4):
                out[place, k] = out[place - 1, k]
            place -= 1
        out[place, 0] = y
        out[place, 1] = x
        out[place, 2] = radius
        out[place, 3] = table[c, C_SUPPORT]
        count += 1
    return count


@compiled
def find_circles(
    pixel: Whole32,
    value: Floats32,
    count: int,
    starts: Whole32,
    height: int,
    width: int,
    origin_y: int,
    origin_x: int,
    signs: Whole,
    bands: Floats,
    accumulator: Whole32,
    windows: Whole32,
    line: Whole32,
    anchors: Whole,
    shifts: Floats,
    spread: float,
    limits: Floats,
    cosines: Floats,
    points: Floats,
    histogram: Floats,
    sums: Floats,
    table: Floats,
    numbers: Whole,
    index: Whole,
    members: Whole,
    member_bins: Whole,
    owner: Whole,
    seen: Whole,
    verdict: Whole,
    reach: float,
    rims: int,
    rim_px: float,
    smallest: float,
    out: Floats,
) -> int:
    """Search all bands, suppress weaker candidates, and list the circles.

    Parameters
    ----------
    pixel, value, count, starts, height, width, origin_y, origin_x, signs, bands
        See `vote_and_fit`.
    accumulator, windows, line, anchors, shifts, spread, limits, cosines, points, histogram, sums
        See `vote_and_fit`.
    table, numbers, index, members, member_bins
        Buffers, see `vote_and_fit`.
    owner, seen, verdict, reach
        See `suppression.suppress_candidates`; ``owner`` has room for all edge points.
    rims, rim_px
        Treatment of rims, see `rims.pair_rims`, and their greatest width, pixels.
    smallest
        Least radius of a circle, pixels; a rim's inner edge may be smaller.
    out
        (n, 4) float64, written: see `list_circles`.

    Returns
    -------
    The number of circles, or -1 if the buffers are too small for all candidates.
    """
    filled = np.zeros(2, np.int64)
    vote_and_fit(
        pixel,
        value,
        count,
        starts,
        height,
        width,
        origin_y,
        origin_x,
        signs,
        bands,
        accumulator,
        windows,
        line,
        anchors,
        shifts,
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
    )
    found = filled[0]
    if found > table.shape[0] or filled[1] > members.size:
        return -1
    ys = np.empty(found)
    for c in range(found):
        ys[c] = numbers[c, I_ANCHOR_Y] + table[c, C_Y]
    order = np.argsort(ys, kind="mergesort")
    suppress_candidates(
        table,
        numbers,
        order,
        members,
        member_bins,
        limits[3],
        reach,
        ROUNDS,
        rim_px if rims != NO_RIMS else 0.0,
        owner[:count],
        seen,
        verdict,
    )
    if rims != NO_RIMS:
        pair_rims(table, numbers, order, rims, rim_px, reach, limits[2], verdict)
        # Drop edges that did not compete and found no partner.
        suppress_candidates(
            table,
            numbers,
            order,
            members,
            member_bins,
            limits[3],
            reach,
            1,
            0.0,
            owner[:count],
            seen,
            verdict,
        )
        for c in range(found):
            if table[c, C_CORRECTED] < smallest:
                numbers[c, I_ALIVE] = 0
    return list_circles(table, numbers, order, origin_y, origin_x, out)
