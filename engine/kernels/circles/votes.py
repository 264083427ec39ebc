"""Votes of edge points for the centres of circles, and the peaks among them.

Every edge point votes along its gradient for all centres at an allowed radius: D. H. Ballard,
"Generalizing the Hough transform to detect arbitrary shapes", Pattern Recognition 13 (1981), with
gradient directions as in C. Kimme, D. Ballard, J. Sklansky, "Finding circles by an array of
accumulators", CACM 18 (1975). One accumulator per band of radii, with cells in proportion to the
radius, since an error of direction moves a vote in proportion to it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from engine.kernels._jit import Floats, Floats32, Whole, Whole32, compiled

_BAND_RATIO = 1.5
"""Largest over smallest radius of a band: one cell size suits both, and a circle within another
one falls into a band of its own."""

_CELLS_PER_RADIUS = 6.0
"""Cells per radius: a window of 3 x 3 cells then spans half a radius and holds three quarters of
the votes at the largest direction error supported (0.2 rad)."""

_SMALLEST_CELL_LOG2 = 1
_LARGEST_CELL_LOG2 = 5

B_LOW, B_HIGH, B_CELL_LOG2, B_STEPS, B_LEAST, B_LEAST_OUTSIDE = range(6)
"""Columns of the table of bands."""

_VOTES_A_POINT = 2.5
_VOTE_SHARE = 1.25
_LEAST_VOTES = 4
"""Votes required of a peak. A point casts about 2.5 votes into a window of 3 x 3 cells; three
quarters of the votes implied by the least support must arrive, as directions are uncertain."""

LOBE_RATIO = 1.3
"""A peak two cells from another one with 1.3 times its votes is a side lobe of it."""

LEAST_SUPPORT_OUTSIDE = 0.5
"""Least support, of the visible circumference, of a circle with its centre outside the plane. A
short arc of any curved edge fits some circle."""

SEGMENT = 32
"""Cells that are tested together for any window with enough votes."""

MARGIN_CELLS = 2
"""Empty cells around an accumulator, so that windows need no bounds checks."""

OUTSIDE_SHARE = 0.55
"""Largest distance of a centre outside the plane, in radii. At 0.5 a third of the circumference is
visible; the rest, and a cell, allow for errors of the votes and of the fit."""


@dataclass(frozen=True, slots=True)
class Band:
    """Radii from ``low_px`` to ``high_px`` that share an accumulator with cells of 2**cell_log2."""

    low_px: float
    high_px: float
    cell_log2: int

    @property
    def cell_px(self) -> int:
        """Side of a cell, pixels."""
        return 1 << self.cell_log2


@functools.lru_cache(maxsize=64)
def make_bands(low_px: float, high_px: float) -> tuple[Band, ...]:
    """Cut a range of radii into bands of equal ratio, each with its cell size.

    Examples
    --------
    >>> [(round(band.low_px, 1), band.cell_px) for band in make_bands(8, 43)]
    [(8.0, 2), (12.2, 2), (18.5, 4), (28.2, 8)]
    """
    ratio = high_px / low_px
    count = max(1, int(np.ceil(np.log(ratio) / np.log(_BAND_RATIO) - 0.25)))
    bands = []
    for index in range(count):
        low = low_px * ratio ** (index / count)
        high = low_px * ratio ** ((index + 1) / count)
        middle = float(np.sqrt(low * high))
        log2 = round(float(np.log2(middle / _CELLS_PER_RADIUS)))
        bands.append(Band(low, high, min(max(log2, _SMALLEST_CELL_LOG2), _LARGEST_CELL_LOG2)))
    return tuple(bands)


def tabulate_bands(bands: tuple[Band, ...], min_support: float) -> Floats:
    """Return the table of bands, with the number of votes that each requires.

    Parameters
    ----------
    bands
        See `make_bands`.
    min_support
        Least share of a circumference that must show an edge.

    Returns
    -------
    Array (n, 6) float64: smallest and largest radius, pixels; cell size, log2 of pixels; votes a
    point; votes required of a window, and of one with its centre outside the plane.
    """
    table = np.empty((len(bands), 6))
    for row, band in zip(table, bands, strict=True):
        row[B_LOW], row[B_HIGH], row[B_CELL_LOG2] = band.low_px, band.high_px, band.cell_log2
        row[B_STEPS] = np.ceil((band.high_px - band.low_px) / band.cell_px) + 2
        promised = min_support * 2.0 * np.pi * band.low_px * _VOTES_A_POINT
        row[B_LEAST] = max(_LEAST_VOTES, np.floor(_VOTE_SHARE * promised))
        row[B_LEAST_OUTSIDE] = row[B_LEAST] * max(1.0, LEAST_SUPPORT_OUTSIDE / min_support)
    return table


def most_cells(shape: tuple[int, int], bands: tuple[Band, ...]) -> tuple[int, int]:
    """Return the most rows and columns of any accumulator, for every origin of the plane."""
    return max(_cells(shape[0], band) for band in bands), max(
        _cells(shape[1], band) for band in bands
    )


def _cells(size: int, band: Band) -> int:
    around = outside_cells(band.high_px, band.cell_log2) + MARGIN_CELLS
    return -(-size // band.cell_px) + 1 + 2 * around


@compiled
def outside_cells(high: float, cell_log2: int) -> int:
    """Return the number of cells outside the plane that a band votes for, on each side.

    One more than peaks need, so that the neighbours of peaks have all of their votes.
    """
    return int(np.ceil(OUTSIDE_SHARE * high / (1 << cell_log2))) + 2


@compiled
def cast_votes(
    pixel: Whole32,
    value: Floats32,
    count: int,
    sign: int,
    first: float,
    cell_log2: int,
    steps: int,
    phase_y: int,
    phase_x: int,
    out: Whole32,
) -> None:
    """Add the votes of all edge points along their gradients to one band's accumulator.

    Parameters
    ----------
    pixel, value, count
        Edge points, see `edges.find_edges`.
    sign
        +1: centres lie up the gradient (bright circles); -1: down.
    first
        Radius of the first vote, pixels; the others follow at steps of one cell.
    cell_log2, steps
        Cell size (log2 of pixels) and number of votes a point.
    phase_y, phase_x
        Position of the plane's first pixel from the accumulator's first cell within its margin,
        pixels: some cells outside the plane, plus the pixel's position within its cell of the
        image's grid.
    out
        (rows, columns) int32, zeroed and written.
    """
    rows, columns = out.shape
    out[:, :] = 0
    one = np.float32(65536.0)
    shift = 16 + cell_log2
    # Half a pixel, since pixel centres lie at integers and cells begin at pixel edges.
    half = 32768
    stride = np.float32(sign) * np.float32(1 << cell_log2) * one
    start = np.float32(sign) * np.float32(first) * one
    end_y = np.int64(rows - 2 * MARGIN_CELLS) << shift
    end_x = np.int64(columns - 2 * MARGIN_CELLS) << shift
    for i in range(count):
        step_y = np.int64(stride * value[i, 2])
        step_x = np.int64(stride * value[i, 3])
        # Rounded separately from the pixel, so that the pixel's position can't change it.
        y = ((np.int64(pixel[i, 0]) + phase_y) << 16) + half
        x = ((np.int64(pixel[i, 1]) + phase_x) << 16) + half
        y += np.int64(value[i, 0] * one) + np.int64(start * value[i, 2])
        x += np.int64(value[i, 1] * one) + np.int64(start * value[i, 3])
        last_y = y + (steps - 1) * step_y
        last_x = x + (steps - 1) * step_x
        if (
            min(y, last_y) >= 0
            and min(x, last_x) >= 0
            and max(y, last_y) < end_y
            and max(x, last_x) < end_x
        ):
            # The whole line lies in the accumulator, as nearly all lines do.
            for _ in range(steps):
                out[np.uint64((y >> shift) + 2), np.uint64((x >> shift) + 2)] += 1
                y += step_y
                x += step_x
            continue
        for _ in range(steps):
            if 0 <= y < end_y and 0 <= x < end_x:
                out[(y >> shift) + 2, (x >> shift) + 2] += 1
            y += step_y
            x += step_x


@compiled
def sum_windows(votes: Whole32, rows_summed: Whole32, out: Whole32) -> None:
    """Write the sum over 3 x 3 cells; ``rows_summed`` is a buffer of one row."""
    rows, columns = votes.shape
    out[0] = 0
    out[rows - 1] = 0
    for row in range(1, rows - 1):
        above = votes[row - 1]
        here = votes[row]
        below = votes[row + 1]
        for column in range(columns):
            rows_summed[column] = above[column] + here[column] + below[column]
        target = out[row]
        target[0] = 0
        target[columns - 1] = 0
        left = rows_summed[: columns - 2]
        middle = rows_summed[1 : columns - 1]
        right = rows_summed[2:]
        inner = target[1 : columns - 1]
        for column in range(columns - 2):
            inner[column] = left[column] + middle[column] + right[column]


@compiled
def _visible_share(
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
def find_peaks(
    votes: Whole32,
    sums: Whole32,
    least: float,
    least_outside: float,
    cell_log2: int,
    phase_y: int,
    phase_x: int,
    height: int,
    width: int,
    reach: float,
    anchors: Whole,
    shifts: Floats,
) -> int:
    """List cells whose window holds more votes than its neighbours, in raster order.

    Parameters
    ----------
    votes, sums
        (rows, columns) int32: the accumulator and its 3 x 3 sums.
    least, least_outside
        Votes required of a window if the whole circle lies in the plane; the same if the centre
        lies outside it, before scaling by the visible share of the circle.
    cell_log2, phase_y, phase_x
        As in `cast_votes`.
    height, width
        Size of the plane, pixels.
    reach
        Radius in pixels, for estimating the visible share of a circle near the border.
    anchors
        (n, 3) int64, written: y, x of a pixel of the cell, votes.
    shifts
        (n, 2) float64, written: from that pixel to the window's centroid, pixels. Separate from
        the anchor, so that a crop's position can't change their rounding.

    Returns
    -------
    The number of peaks; if it exceeds the buffers' room, the rest was dropped.
    """
    rows, columns = sums.shape
    room = anchors.shape[0]
    count = 0
    cell = 1 << cell_log2
    outside = OUTSIDE_SHARE * reach + cell
    # Votes required per column if the whole circle is visible vertically, and in the current
    # row; stored per column, since one number for a segment near the border would pass most of
    # its cells.
    across = np.empty(columns)
    for column in range(columns):
        across[column] = least * _visible_share(column, cell, phase_x, width, reach, outside)
    needed = np.empty(columns, np.int32)
    share = -1.0  # not a share, so that the first row sets what is needed
    for row in range(1, rows - 1):
        line = sums[row]
        above = sums[row - 1]
        below = sums[row + 1]
        before = share
        share = _visible_share(row, cell, phase_y, height, reach, outside)
        if share != before:
            for column in range(columns):
                needed[column] = np.int32(np.ceil(across[column] * share))
        for first in range(1, columns - 1, SEGMENT):
            last = min(columns - 1, first + SEGMENT)
            # The last segment is shorter: extend it backwards.
            begin = last - SEGMENT
            if begin >= 1:
                strong = np.int32(0)
                for column in range(SEGMENT):
                    at = np.uint64(begin + column)
                    strong |= np.int32(line[at] >= needed[at])
                if strong == 0:
                    continue
            for column in range(first, last):
                middle_x = np.uint64(column)
                here = line[middle_x]
                if here < needed[middle_x]:
                    continue
                left = middle_x - np.uint64(1)
                right = middle_x + np.uint64(1)
                if (
                    (line[left] >= here)
                    | (line[right] > here)
                    | (above[left] >= here)
                    | (above[middle_x] >= here)
                    | (above[right] >= here)
                    | (below[left] > here)
                    | (below[middle_x] > here)
                    | (below[right] > here)
                ):
                    continue
                # Two cells away only a clearly stronger peak suppresses: two discs may overlap so
                # far.
                lobe = LOBE_RATIO * here
                beaten = False
                for j in range(max(-2, -row), min(3, rows - row)):
                    for i in range(max(-2, -column), min(3, columns - column)):
                        if sums[row + j, column + i] > lobe:
                            beaten = True
                if beaten:
                    continue
                total = 0
                moment_y = 0
                moment_x = 0
                for j in range(-1, 2):
                    for i in range(-1, 2):
                        weight = votes[row + j, column + i]
                        total += weight
                        moment_y += j * weight
                        moment_x += i * weight
                anchor_y = (row - 2) * cell + cell // 2 - phase_y
                anchor_x = (column - 2) * cell + cell // 2 - phase_x
                # Pixel centres lie at integers, a cell's middle between two.
                shift_y = cell * moment_y / total - 0.5
                shift_x = cell * moment_x / total - 0.5
                y = anchor_y + shift_y
                x = anchor_x + shift_x
                inside_y = min(y, height - 1 - y)
                inside_x = min(x, width - 1 - x)
                nearest = min(inside_y, inside_x)
                if nearest < -outside:
                    continue
                share_y = min(1.0, 0.5 + 0.5 * inside_y / reach)
                share_x = min(1.0, 0.5 + 0.5 * inside_x / reach)
                promised = least if nearest >= -0.5 else max(least, least_outside)
                if here < promised * share_y * share_x:
                    continue
                if count < room:
                    anchors[count, 0] = anchor_y
                    anchors[count, 1] = anchor_x
                    anchors[count, 2] = here
                    shifts[count, 0] = shift_y
                    shifts[count, 1] = shift_x
                count += 1
    return count
