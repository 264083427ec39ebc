"""Peaks among the votes for the centres of circles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.kernels._jit import Floats, Whole, Whole32, compiled
from engine.kernels.circles.votes import MARGIN_CELLS, OUTSIDE_SHARE, Frame, Grid

LOBE_RATIO = 1.3
"""A peak two cells from another one with 1.3 times its votes is a side lobe of it."""

SEGMENT = 32
"""Cells that are tested together for any window with enough votes."""


class Peaks(NamedTuple):
    """Buffers for the peaks of one band."""

    anchors: Whole
    """(n, 3) int64: y, x of a pixel of the cell, votes."""
    shifts: Floats
    """(n, 2) float64: from that pixel to the window's centroid, pixels. Separate from the anchor,
    so that a crop's position can't change their rounding."""


@compiled
def visible_share(
    cells: int, cell: int, phase: int, size: int, reach: float, outside: float
) -> float:
    """Return the least visible share of a circle beside a straight border, for a row or column.

    Roughly: linear in the distance. Two cells more than the centre's, since the peak's centroid
    decides in the end.
    """
    middle = (cells - MARGIN_CELLS) * cell + 0.5 * cell - phase
    inside = max(-outside, min(middle, size - middle) - 2.0 * cell)
    return min(1.0, max(0.0, 0.5 + 0.5 * inside / reach))


@compiled
def has_peak(line: Whole32, needed: Whole32, begin: int) -> bool:
    """Return whether any window of the segment from ``begin`` holds the votes required of it."""
    strong = np.int32(0)
    for column in range(SEGMENT):
        at = np.uint64(begin + column)
        strong |= np.int32(line[at] >= needed[at])
    return strong != 0


@compiled
def is_maximum(above: Whole32, line: Whole32, below: Whole32, column: int) -> bool:
    """Return whether a window holds more votes than its neighbours; the first of equals wins."""
    # Unsigned indices: for signed ones numba tests wrap-around.
    middle = np.uint64(column)
    left = middle - np.uint64(1)
    right = middle + np.uint64(1)
    here = line[middle]
    return not (
        (line[left] >= here)
        | (line[right] > here)
        | (above[left] >= here)
        | (above[middle] >= here)
        | (above[right] >= here)
        | (below[left] > here)
        | (below[middle] > here)
        | (below[right] > here)
    )


@compiled
def is_side_lobe(sums: Whole32, row: int, column: int) -> bool:
    """Return whether a window up to two cells away holds far more votes.

    A window with slightly more does not count: two discs may overlap so far.
    """
    rows, columns = sums.shape
    lobe = LOBE_RATIO * sums[row, column]
    for j in range(max(-2, -row), min(3, rows - row)):
        for i in range(max(-2, -column), min(3, columns - column)):
            if sums[row + j, column + i] > lobe:
                return True
    return False


@compiled
def locate_centroid(votes: Whole32, row: int, column: int, cell: int) -> tuple[float, float]:
    """Return the centroid (y, x) of a window's votes from its middle cell's anchor, pixels."""
    total = 0
    moment_y = 0
    moment_x = 0
    for j in range(-1, 2):
        for i in range(-1, 2):
            weight = votes[row + j, column + i]
            total += weight
            moment_y += j * weight
            moment_x += i * weight
    # Pixel centres lie at integers, a cell's middle between two.
    return cell * moment_y / total - 0.5, cell * moment_x / total - 0.5


@compiled
def has_votes(here: int, y: float, x: float, frame: Frame, grid: Grid) -> bool:
    """Return whether a peak's votes suffice at its place, which may be outside the plane."""
    inside_y = min(y, frame.height - 1 - y)
    inside_x = min(x, frame.width - 1 - x)
    nearest = min(inside_y, inside_x)
    if nearest < -reach_outside(grid):
        return False
    share_y = min(1.0, 0.5 + 0.5 * inside_y / grid.high)
    share_x = min(1.0, 0.5 + 0.5 * inside_x / grid.high)
    promised = grid.least if nearest >= -0.5 else max(grid.least, grid.least_outside)
    return here >= promised * share_y * share_x


@compiled
def reach_outside(grid: Grid) -> float:
    """Return the largest distance of a peak outside the plane, pixels."""
    return OUTSIDE_SHARE * grid.high + (1 << grid.cell_log2)


@compiled
def find_peaks(votes: Whole32, sums: Whole32, frame: Frame, grid: Grid, peaks: Peaks) -> int:
    """List cells whose window holds more votes than its neighbours, in raster order.

    Parameters
    ----------
    votes, sums
        (rows, columns) int32: the accumulator and its 3 x 3 sums.
    frame
        The plane.
    grid
        The accumulator.
    peaks
        Written.

    Returns
    -------
    The number of peaks; if it exceeds the buffers' room, the rest was dropped.
    """
    anchors, shifts = peaks
    rows, columns = sums.shape
    count = 0
    cell = 1 << grid.cell_log2
    outside = reach_outside(grid)
    # Votes required per column if the whole circle is visible vertically, and in the current
    # row; stored per column, since one number for a segment near the border would pass most of
    # its cells.
    across = np.empty(columns)
    for column in range(columns):
        share = visible_share(column, cell, grid.phase_x, frame.width, grid.high, outside)
        across[column] = grid.least * share
    needed = np.empty(columns, np.int32)
    share = -1.0  # not a share, so that the first row sets what is needed
    for row in range(1, rows - 1):
        line = sums[row]
        above = sums[row - 1]
        below = sums[row + 1]
        before = share
        share = visible_share(row, cell, grid.phase_y, frame.height, grid.high, outside)
        if share != before:
            for column in range(columns):
                needed[column] = np.int32(np.ceil(across[column] * share))
        for first in range(1, columns - 1, SEGMENT):
            last = min(columns - 1, first + SEGMENT)
            # The last segment is shorter: extend it backwards.
            if last - SEGMENT >= 1 and not has_peak(line, needed, last - SEGMENT):
                continue
            for column in range(first, last):
                here = line[np.uint64(column)]
                if here < needed[np.uint64(column)] or not is_maximum(above, line, below, column):
                    continue
                if is_side_lobe(sums, row, column):
                    continue
                shift_y, shift_x = locate_centroid(votes, row, column, cell)
                anchor_y = (row - MARGIN_CELLS) * cell + cell // 2 - grid.phase_y
                anchor_x = (column - MARGIN_CELLS) * cell + cell // 2 - grid.phase_x
                if not has_votes(here, anchor_y + shift_y, anchor_x + shift_x, frame, grid):
                    continue
                if count < anchors.shape[0]:
                    anchors[count, 0] = anchor_y
                    anchors[count, 1] = anchor_x
                    anchors[count, 2] = here
                    shifts[count, 0] = shift_y
                    shifts[count, 1] = shift_x
                count += 1
    return count
