"""Random fields and random positions on a plane of any size, computed for any rows alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.phantoms.marrow.options import MarrowOptions, slide_rng

SPLINE_SD = 0.48
"""Standard deviation of a cubic B-spline through independent unit values, over both axes."""

TAPS = 4

BEFORE = 1 << 20
"""Number of rows before the first with random numbers, needed to draw the plane's edge."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Random fields of one slide, by number.

    Every row of random values has its own generator, so a band of rows is the same alone as
    within the whole plane, and memory is that of the band.
    """

    options: MarrowOptions
    number: int

    def noise(self, stream: int, rows: range, cell: float) -> NDArray[np.float32]:
        """Return smooth noise, mean 0 and sd 1, with features about ``cell`` px wide.

        Parameters
        ----------
        stream
            Number of the field; different fields are independent.
        rows
            Rows of the plane.
        cell
            Distance of the lattice's points, pixels.

        Returns
        -------
        (len(rows), width) float32: a cubic B-spline through random values.
        """
        width = self.options.size[1]
        at_y, taps_y = _taps(np.arange(rows.start, rows.stop), cell)
        at_x, taps_x = _taps(np.arange(width), cell)
        first, count = int(at_y[0]), int(at_y[-1] - at_y[0]) + TAPS
        columns = int(at_x[-1]) + TAPS
        lattice = np.stack([self._row(stream, first + k, columns) for k in range(count)])
        down = sum(taps_y[k][:, None] * lattice[at_y - first + k] for k in range(TAPS))
        across = sum(taps_x[k] * np.asarray(down)[:, at_x + k] for k in range(TAPS))
        return np.asarray(across, np.float32) / np.float32(SPLINE_SD)

    def rough(self, stream: int, rows: range, cell: float, octaves: int) -> NDArray[np.float32]:
        """Return noise on several scales, each half as wide and 0.55 as strong as the last."""
        total = self.noise(stream, rows, cell)
        for octave in range(1, octaves):
            finer = self.noise(stream + 1000 * octave, rows, cell / 2**octave)
            total += np.float32(0.55**octave) * finer
        return total / np.float32(np.sqrt(sum(0.55 ** (2 * k) for k in range(octaves))))

    def places(
        self, stream: int, rows: range, pitch: float, numbers: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return random positions, one per cell of a honeycomb, and random numbers for each.

        Parameters
        ----------
        stream
            Number of the set of positions.
        rows
            Rows to cover: includes positions with cells that touch them, and at least one cell
            more.
        pitch
            Distance of neighbours, pixels.
        numbers
            How many numbers, uniform on [0, 1), for each position.

        Returns
        -------
        Centres (n, 2): y, x, pixels, by rows of cells; and (n, numbers).
        """
        width = self.options.size[1]
        step = pitch * np.sqrt(3) / 2
        columns = int(width / pitch) + 4
        centres, values = [], []
        for row in range(int(np.floor(rows.start / step)) - 2, int(rows.stop / step) + 3):
            drawn = slide_rng(self.options, self.number, 2, stream, row + BEFORE).random(
                (columns, 2 + numbers)
            )
            x = (np.arange(columns) - 1.5 + 0.5 * (row % 2) + 0.5 * (drawn[:, 1] - 0.5)) * pitch
            y = (row + 0.5) * step + 0.5 * (drawn[:, 0] - 0.5) * pitch
            centres.append(np.column_stack((y, x)))
            values.append(drawn[:, 2:])
        return np.concatenate(centres), np.concatenate(values)

    def grain(self, stream: int, rows: range, planes: int) -> NDArray[np.float32]:
        """Return independent normal values (planes, len(rows), width)."""
        width = self.options.size[1]
        drawn = [
            slide_rng(self.options, self.number, 3, stream, row + BEFORE).standard_normal(
                (planes, width), np.float32
            )
            for row in rows
        ]
        return np.stack(drawn, axis=1)

    def _row(self, stream: int, row: int, columns: int) -> NDArray[np.float32]:
        rng = slide_rng(self.options, self.number, 1, stream, row + BEFORE)
        return rng.standard_normal(columns, np.float32)


def _taps(at: NDArray[np.int_], cell: float) -> tuple[NDArray[np.int_], list[NDArray[np.float32]]]:
    """Return the first lattice point of each position, and the four weights."""
    position = at / cell
    first = np.floor(position).astype(int)
    t = (position - first).astype(np.float32)
    weights = [
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    ]
    return first, weights
