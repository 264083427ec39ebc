"""An image as operations get it, in a run and where one is tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError, ParameterError
from engine.geometry import YX, Region
from engine.kernels.colour import has_luminance
from engine.operations import array_metadata as carried
from engine.store.catalog.annotations import Contour


class ImageFailed(EngineError, ValueError):
    """An operation can't answer for this image: (reason code,). Quarantines it, and only it."""

    def __str__(self) -> str:
        return f"The image failed: {self.args[0]}."


@dataclass(frozen=True, slots=True)
class Image:
    """What an operation gets: the pixels of an image, or of one block of a giant one.

    Attributes
    ----------
    pixels
        (c, y, x), as stored.
    noise_sd
        Standard deviation of the noise of the whole image, one per channel, grey levels; where
        channels are colours (RGB, RGBA, grey with alpha) one more, that of the luminance. Empty
        where it is not known.
    spacing_um
        Pixel spacing (y, x), micrometres, or None.
    rescale
        (slope, intercept) from stored values to modality units, or None where they are the same.
    origin
        Position (y, x) of the first pixel within the whole image, pixels.
    write
        The region, in the whole image, whose objects are asked for; None for all of it.
    source
        Name of the source in the catalog. Of images that are equal in all ``inputs``, and computed
        once, it is that of one of them, unless "fields" is among the ``inputs``.
    annotations
        What people drew on the image, for operations with "annotation" among their ``inputs``; in
        coordinates of the whole image, and all of it for each block.
    whole
        Size (y, x) of the whole image, pixels, where that is told; else it is that of ``pixels``.
    fields
        image_id, date, subject, experiment and name, for operations with "fields" among their
        ``inputs``.
    """

    pixels: NDArray[Any]
    noise_sd: tuple[float, ...] = ()
    spacing_um: tuple[float, float] | None = None
    origin: YX = (0, 0)
    write: Region | None = None
    source: str = ""
    rescale: tuple[float, float] | None = None
    annotations: tuple[Contour, ...] = ()
    whole: YX | None = None
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_block(self) -> bool:
        """Whether this is one of the blocks of a giant image, and not an image."""
        _, height, width = self.pixels.shape
        return self.whole not in (None, (height, width))

    def owns(self, y: float, x: float) -> bool:
        """Tell whether an object at a place in the whole image is asked for here.

        One whose centre lies outside of the image belongs where the nearest pixel does.
        """
        if self.write is None:
            return True
        read = (self.origin[0] + self.pixels.shape[1], self.origin[1] + self.pixels.shape[2])
        height, width = self.whole or read
        return self.write.holds(min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0))

    @property
    def has_luminance(self) -> bool:
        """Whether the channels are grey or colours, with or without alpha, and not stains, say."""
        return has_luminance(self.pixels.shape[0], len(self.noise_sd))

    @classmethod
    def of(cls, array: NDArray[Any]) -> Image:
        """Wrap an array (y, x), (c, y, x) or (y, x, c) with 3 or 4 colours last.

        An `xarray.DataArray`, as `engine.Cohort.images` gives them, says more: the spacing, by its
        coordinates in micrometres (so that slices keep it, and every second pixel has twice it),
        the source, the fields, and slope and intercept; values in modality units are put back to
        stored ones. So it is what a run gives. A plain array has none of these.

        Raises
        ------
        ParameterError
            If it has another shape.
        UsageError
            If values in modality units were changed.
        """
        dims = tuple(getattr(array, "dims", ()))
        if set(dims) == {"c", "y", "x"}:
            array = cast(Any, array).transpose("c", "y", "x")
        pixels = carried.stored_values(array)
        if pixels.ndim == 2:
            pixels = pixels[None]
        elif pixels.ndim != 3:
            raise ParameterError("array", pixels.shape, "of shape (y, x), (c, y, x) or (y, x, 3)")
        elif not dims and pixels.shape[2] in (3, 4) and pixels.shape[0] not in (3, 4):
            pixels = np.ascontiguousarray(np.moveaxis(pixels, 2, 0))
        return cls(
            pixels,
            carried.noise_of(array, pixels),
            carried.spacing_of(array),
            source=str(getattr(array, "attrs", {}).get("source", "")),
            rescale=carried.rescale_of(array),
            fields=carried.names_of(array),
        )
