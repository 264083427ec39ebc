"""Any rows of a synthetic marrow slide, with their truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.geometry import YX, Region
from engine.kernels.segmentation.tissue import class_areas
from engine.phantoms.marrow.options import SUBJECTS, MarrowOptions, slide_traits
from engine.phantoms.marrow.random_fields import Fields
from engine.phantoms.marrow.stain import blur_reach, look
from engine.phantoms.marrow.tissue import lay_out

BAND_PX = 1 << 20
"""Pixels drawn at once: about 200 MB of fields."""


@dataclass(frozen=True, slots=True, eq=False)
class MarrowBand:
    """Whole rows of a slide: ``pixels`` (3, y, x) and ``labels`` (y, x), both uint8."""

    region: Region
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class MarrowSlide:
    """One slide of a set, drawn on request.

    Examples
    --------
    >>> slide = MarrowSlide(MarrowOptions(size=(128, 160)), 0)
    >>> band = slide.draw(range(100, 104))
    >>> band.pixels.shape, band.labels.shape
    ((3, 4, 160), (4, 160))
    """

    options: MarrowOptions
    number: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.options.images:
            raise ParameterError("number", self.number, f"in [0, {self.options.images})")

    @property
    def shape(self) -> YX:
        """Height and width, pixels."""
        return self.options.size

    @property
    def name(self) -> str:
        """Subject and name of the slide, with a forward slash."""
        return f"s{self.number % SUBJECTS + 1}/slide-{self.number // SUBJECTS + 1:03d}"

    def draw(self, rows: range) -> MarrowBand:
        """Draw some rows, independently of all others."""
        if not (rows.step == 1 and 0 <= rows.start < rows.stop <= self.shape[0]):
            raise ParameterError("rows", rows, f"some of {self.shape[0]} rows")
        traits = slide_traits(self.options, self.number)
        fields = Fields(self.options, self.number)
        reach = blur_reach(traits) + int(10 * self.options.scale)
        around = range(rows.start - reach, rows.stop + reach)
        anatomy = lay_out(self.options, traits, fields, around)
        pixels = look(self.options, traits, fields, around, anatomy)
        core = slice(reach, reach + len(rows))
        region = Region((rows.start, 0), (rows.stop, self.shape[1]))
        return MarrowBand(
            region, np.ascontiguousarray(pixels[:, core]), anatomy.labels[core].copy()
        )

    def bands(self) -> Iterator[MarrowBand]:
        """Yield the slide from the top, in bands that need bounded memory."""
        height, width = self.shape
        step = max(32, BAND_PX // width)
        for first in range(0, height, step):
            yield self.draw(range(first, min(first + step, height)))

    def whole(self) -> MarrowBand:
        """Return the whole slide at once."""
        bands = list(self.bands())
        return MarrowBand(
            Region((0, 0), self.shape),
            np.concatenate([band.pixels for band in bands], axis=1),
            np.concatenate([band.labels for band in bands]),
        )


__all__ = ["MarrowBand", "MarrowOptions", "MarrowSlide", "class_areas"]
