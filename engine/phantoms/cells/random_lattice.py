"""Random numbers at the points of an unbounded lattice, computed for any window alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.geometry import Region

BLOCK = 128
"""Points of the lattice on each side of a block, which has a generator of its own."""

ORIGIN = 1 << 32
"""Number of the block at the origin: blocks before it are needed to draw the plane's edge."""

SPLINE_SD = 0.48
"""Standard deviation of a cubic B-spline through independent unit values, over both axes."""

TAPS = 4

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class RandomLattice:
    """Random numbers of one field, from a counter-based generator (Philox 4x64).

    The counter is the block's place and the stream's number, so a window has the same values
    whatever else is drawn. Regions may have negative coordinates.
    """

    seed: int
    number: int

    def normals(self, stream: int, window: Region, count: int = 1) -> NDArray[np.float32]:
        """Return independent normal values (count, y, x), mean 0 and sd 1."""
        return self._gather(stream, window, count, _draw_normals)

    def uniforms(self, stream: int, window: Region, count: int = 1) -> NDArray[np.float32]:
        """Return independent values (count, y, x), uniform on [0, 1)."""
        return self._gather(stream, window, count, _draw_uniforms)

    def smooth_noise(self, stream: int, window: Region, cell: float) -> NDArray[np.float32]:
        """Return smooth noise (y, x), mean 0 and sd 1, with features about ``cell`` px wide."""
        spline = _spline(window, cell, lambda points: self.normals(stream, points)[0])
        return spline / np.float32(SPLINE_SD)

    def spots(self, stream: int, window: Region, cell: float, share: float) -> NDArray[np.float32]:
        """Return soft spots (y, x), not negative, mean about 1, ``cell`` px wide.

        A point of the lattice has a spot with the probability ``share``.
        """

        def heights(points: Region) -> NDArray[np.float32]:
            drawn = self.uniforms(stream, points)[0] / np.float32(share)
            # What is left of a uniform number below the share is uniform, too.
            return np.where(drawn < 1, -np.log1p(-np.minimum(drawn, np.float32(0.92))), 0)

        return _spline(window, cell, heights) / np.float32(share)

    def _gather(self, stream: int, window: Region, count: int, draw: Draw) -> NDArray[np.float32]:
        (top, left), (bottom, right) = window.start, window.stop
        out = np.empty((count, bottom - top, right - left), np.float32)
        for row in range(top // BLOCK, -(-bottom // BLOCK)):
            for column in range(left // BLOCK, -(-right // BLOCK)):
                counter = (0, stream, row + ORIGIN, column + ORIGIN)
                key = np.array((self.seed, self.number), np.uint64)
                rng = np.random.Generator(np.random.Philox(counter=counter, key=key))
                block = draw(rng, (count, BLOCK, BLOCK))
                y, x = row * BLOCK, column * BLOCK
                inner = (
                    slice(max(top - y, 0), min(bottom - y, BLOCK)),
                    slice(max(left - x, 0), min(right - x, BLOCK)),
                )
                outer = (
                    slice(y + inner[0].start - top, y + inner[0].stop - top),
                    slice(x + inner[1].start - left, x + inner[1].stop - left),
                )
                out[:, *outer] = block[:, *inner]
        return out


def _draw_normals(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.standard_normal(shape, np.float32)


def _draw_uniforms(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.random(shape, np.float32)


def _spline(
    window: Region, cell: float, values_of: Callable[[Region], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return a cubic B-spline with the given coefficients, ``cell`` px apart."""
    at_y, taps_y = _taps(np.arange(window.start[0], window.stop[0]), cell)
    at_x, taps_x = _taps(np.arange(window.start[1], window.stop[1]), cell)
    first_y, first_x = int(at_y[0]), int(at_x[0])
    points = Region((first_y, first_x), (int(at_y[-1]) + TAPS, int(at_x[-1]) + TAPS))
    values = values_of(points)
    across = taps_x[0] * values[:, at_x - first_x]
    for k in range(1, TAPS):
        across += taps_x[k] * values[:, at_x - first_x + k]
    down = taps_y[0][:, None] * across[at_y - first_y]
    for k in range(1, TAPS):
        down += taps_y[k][:, None] * across[at_y - first_y + k]
    return down


def _taps(at: NDArray[np.int_], cell: float) -> tuple[NDArray[np.int_], list[NDArray[np.float32]]]:
    """Return the first lattice point of each position, and the four weights."""
    position = at / cell
    first = np.floor(position).astype(int)
    t = (position - first).astype(np.float32)
    return first, [
        (1 - t) ** 3 / 6,
        (3 * t**3 - 6 * t**2 + 4) / 6,
        (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
        t**3 / 6,
    ]
