"""All bands of radii, one after the other, in one compiled call.

Calls from Python into eight kernels a band cost more than some of the kernels themselves.
"""

from __future__ import annotations

from engine.kernels._jit import Floats, Floats32, Whole, Whole32, compiled
from engine.kernels.candidates import fit_peaks
from engine.kernels.votes import (
    B_CELL_LOG2,
    B_HIGH,
    B_LEAST,
    B_LOW,
    B_STEPS,
    MARGIN_CELLS,
    cast_votes,
    find_peaks,
    sum_windows,
)


@compiled
def search_bands(
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
    """Let edge points vote in every band and polarity, and fit circles at all peaks.

    Parameters
    ----------
    pixel, value, count, starts
        Edge points, see `gradient.find_edges`.
    height, width, origin_y, origin_x
        Size of the plane, and place of its first pixel in the image, pixels.
    signs
        Polarities: +1 bright, -1 dark.
    bands
        (n, 5) float64, see `votes.tabulate_bands`.
    accumulator, windows, line
        Buffers of int32 for the largest band's cells (flat), their windows and one row.
    anchors, shifts
        Buffers for the largest band's peaks, see `votes.find_peaks`.
    spread, limits, cosines, points, index, histogram, sums
        See `candidates.fit_peaks`.
    table, numbers, members, member_bins, filled
        The candidates, written: see there.

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
        phase_y = origin_y % cell
        phase_x = origin_x % cell
        rows = (phase_y + height + cell - 1) // cell + 2 * MARGIN_CELLS
        columns = (phase_x + width + cell - 1) // cell + 2 * MARGIN_CELLS
        votes = accumulator[: rows * columns].reshape((rows, columns))
        summed = windows[: rows * columns].reshape((rows, columns))
        for s in range(signs.size):
            sign = signs[s]
            # One vote more on each side: a circle at the band's end has all of its votes in it.
            cast_votes(
                pixel, value, count, sign, low - 0.5 * cell, log2, steps, phase_y, phase_x, votes
            )
            sum_windows(votes, line[:columns], summed)
            peaks = find_peaks(
                votes,
                summed,
                bands[b, B_LEAST],
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
            fit_peaks(
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
