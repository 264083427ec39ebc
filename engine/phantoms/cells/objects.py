"""Numbers and sums of the nuclei of a field, band by band in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.phantoms.cells.field import FieldPart

SUMS = 6
"""Pixels, y, x, both channels, and pixels of positive cells."""


@dataclass(frozen=True, slots=True, eq=False)
class NucleusSums:
    """Sums over nuclei, of some part of a field: ``ids`` (n,) grow, ``sums`` is (n, 6) float64."""

    ids: NDArray[np.uint32]
    sums: NDArray[np.float64]

    @classmethod
    def empty(cls) -> NucleusSums:
        """Return the sums of nothing."""
        return cls(np.zeros(0, np.uint32), np.zeros((0, SUMS)))

    def merge(self, other: NucleusSums) -> NucleusSums:
        """Return the sums of both parts."""
        ids, place = np.unique(np.concatenate((self.ids, other.ids)), return_inverse=True)
        sums = np.zeros((len(ids), SUMS))
        np.add.at(sums, place, np.concatenate((self.sums, other.sums)))
        return NucleusSums(ids, sums)


def sum_part(part: FieldPart) -> NucleusSums:
    """Return the sums of one part."""
    y, x = np.nonzero(part.ids)
    ids, place = np.unique(part.ids[y, x], return_inverse=True)
    positive = part.cells.positive[np.searchsorted(part.cells.id, ids)][place]
    top, left = part.region.start
    values = (None, y + top, x + left, *part.expected[:, y, x], positive)
    sums = [np.bincount(place, value, minlength=len(ids)) for value in values]
    return NucleusSums(ids, np.stack(sums, axis=1).astype(float))


class NucleusNumbers:
    """Numbers of nuclei by their first pixel, row-major, from 1; bands come from the top."""

    def __init__(self) -> None:
        self._open: dict[int, int] = {}
        self._pending = NucleusSums.empty()
        self.count = 0

    def number(self, ids: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return the numbers of the pixels of the next band, which is as wide as the field."""
        painted = ids > 0
        cells = ids[painted]
        lowest = int(cells.min(initial=0xFFFFFFFF))
        cells -= np.uint32(lowest)
        first = np.full(int(cells.max(initial=0)) + 1, -1)
        first[cells[::-1]] = np.arange(len(cells))[::-1]  # of equal indices the last one counts
        present = np.flatnonzero(first >= 0)
        numbers = np.zeros(len(first), np.uint32)
        for cell in present[np.argsort(first[present])].tolist():
            if lowest + cell not in self._open:
                self.count += 1
                self._open[lowest + cell] = self.count
            numbers[cell] = self._open[lowest + cell]
        out = np.zeros(ids.shape, np.uint32)
        out[painted] = numbers[cells]
        return out

    def finish(self, sums: NucleusSums, last_row: NDArray[np.uint32]) -> list[NucleusRow]:
        """Add a numbered band's sums; return complete nuclei, in the order of their numbers.

        A nucleus is one piece, so one that is not in the band's last row has ended. It waits for
        those with lower numbers. The field's last band has no ``last_row``: all have ended.
        """
        self._pending = self._pending.merge(sums)
        continued = [self._open[cell] for cell in np.unique(last_row).tolist() if cell]
        limit = min(continued, default=self.count + 1)
        numbers = np.array([self._open[cell] for cell in self._pending.ids.tolist()], np.int64)
        done = numbers < limit
        rows = [
            NucleusRow(number, cell, *row)
            for number, cell, row in zip(
                numbers[done].tolist(),
                self._pending.ids[done].tolist(),
                self._pending.sums[done].tolist(),
                strict=True,
            )
        ]
        for row in rows:
            del self._open[row.id]
        self._pending = NucleusSums(self._pending.ids[~done], self._pending.sums[~done])
        return sorted(rows, key=lambda row: row.number)


@dataclass(frozen=True, slots=True)
class NucleusRow:
    """Sums over all pixels of one nucleus: positions in pixels, channels in grey levels."""

    number: int
    id: int
    area_px: float
    y: float
    x: float
    first_channel: float
    second_channel: float
    positive_px: float
