"""Votes of edge points for the centres of circles.

Every edge point votes along its gradient for all centres at an allowed radius: D. H. Ballard,
"Generalizing the Hough transform to detect arbitrary shapes", Pattern Recognition 13 (1981), with
gradient directions as in C. Kimme, D. Ballard, J. Sklansky, "Finding circles by an array of
accumulators", CACM 18 (1975). One accumulator per band of radii, with cells in proportion to the
radius, since an error of direction moves a vote in proportion to it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine.kernels._jit import Floats, Whole, Whole32, compiled
from engine.kernels.circles.edges import Edges

_BAND_RATIO = 1.5
"""Largest over smallest radius of a band: one cell size suits both, and a circle within another
one falls into a band of its own."""

_CELLS_PER_RADIUS = 6.0
"""Cells per radius: a window of 3 x 3 cells then spans half a radius and holds three quarters of
the votes at the largest direction error supported (0.2 rad)."""

_SMALLEST_CELL_LOG2 = 1
_LARGEST_CELL_LOG2 = 5

_VOTES_A_POINT = 2.5
_VOTE_SHARE = 1.25
_LEAST_VOTES = 4
"""Votes required of a peak. A point casts about 2.5 votes into a window of 3 x 3 cells; three
quarters of the votes implied by the least support must arrive, as directions are uncertain."""

LEAST_SUPPORT_OUTSIDE = 0.5
"""Least support, of the visible circumference, of a circle with its centre outside the plane. A
short arc of any curved edge fits some circle."""

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


class Frame(NamedTuple):
    """Size of a plane, and position of its first pixel in the image, pixels."""

    height: int
    width: int
    origin_y: int
    origin_x: int


class Bands(NamedTuple):
    """Bands of radii, and the votes that each requires: one element a band."""

    low: Floats
    """Smallest radius, pixels."""
    high: Floats
    """Largest radius, pixels."""
    cell_log2: Whole
    """Cell size, log2 of pixels."""
    steps: Whole
    """Votes a point."""
    least: Floats
    """Votes required of a window if the whole circle lies in the plane."""
    least_outside: Floats
    """The same if the centre lies outside the plane, before scaling by the visible share."""


class Grid(NamedTuple):
    """One band's accumulator for one polarity."""

    sign: int
    """+1: centres lie up the gradient (bright circles); -1: down."""
    low: float
    """Smallest radius of the band, pixels."""
    high: float
    """Largest radius of the band, pixels."""
    cell_log2: int
    """Cell size, log2 of pixels."""
    steps: int
    """Votes a point, one cell apart."""
    least: float
    """See `Bands`."""
    least_outside: float
    """See `Bands`."""
    phase_y: int
    """Position of the plane's first pixel from the accumulator's first cell within its margin,
    pixels: some cells outside the plane, plus the pixel's position within its cell of the image's
    grid."""
    phase_x: int
    """The same along x."""


def tabulate_bands(bands: tuple[Band, ...], min_support: float) -> Bands:
    """Return the table of bands, with the number of votes that each requires.

    Parameters
    ----------
    bands
        See `make_bands`.
    min_support
        Least share of a circumference that must show an edge.
    """
    low = np.array([band.low_px for band in bands])
    high = np.array([band.high_px for band in bands])
    cell = np.array([band.cell_px for band in bands])
    promised = min_support * 2.0 * np.pi * low * _VOTES_A_POINT
    least = np.maximum(_LEAST_VOTES, np.floor(_VOTE_SHARE * promised))
    return Bands(
        low=low,
        high=high,
        cell_log2=np.array([band.cell_log2 for band in bands], np.int64),
        steps=np.ceil((high - low) / cell).astype(np.int64) + 2,
        least=least,
        least_outside=least * max(1.0, LEAST_SUPPORT_OUTSIDE / min_support),
    )


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
def make_grid(bands: Bands, band: int, sign: int, frame: Frame) -> Grid:
    """Return the grid of a band and a polarity over a plane."""
    cell_log2 = bands.cell_log2[band]
    high = bands.high[band]
    cell = 1 << cell_log2
    around = outside_cells(high, cell_log2) * cell
    return Grid(
        sign,
        bands.low[band],
        high,
        cell_log2,
        bands.steps[band],
        bands.least[band],
        bands.least_outside[band],
        frame.origin_y % cell + around,
        frame.origin_x % cell + around,
    )


@compiled
def cast_votes(edges: Edges, grid: Grid, out: Whole32) -> None:
    """Add the votes of all edge points along their gradients to one band's accumulator.

    ``out`` (rows, columns) int32 is zeroed and written.
    """
    pixel, value = edges.pixel, edges.value
    phase_y, phase_x, steps = grid.phase_y, grid.phase_x, grid.steps
    rows, columns = out.shape
    out[:, :] = 0
    one = np.float32(65536.0)
    shift = 16 + grid.cell_log2
    # Half a pixel, since pixel centres lie at integers and cells begin at pixel edges.
    half = 32768
    cell = 1 << grid.cell_log2
    stride = np.float32(grid.sign) * np.float32(cell) * one
    # One more vote on each side: a circle at the band's end keeps all of its votes.
    start = np.float32(grid.sign) * np.float32(grid.low - 0.5 * cell) * one
    end_y = np.int64(rows - 2 * MARGIN_CELLS) << shift
    end_x = np.int64(columns - 2 * MARGIN_CELLS) << shift
    for i in range(pixel.shape[0]):
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
