"""Image as passed to operations, in a run and interactively."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.deprecations import warn_deprecated
from engine.errors import EngineError, ParameterError
from engine.geometry import YX, Region
from engine.kernels.colour import has_luminance
from engine.operations import array_metadata as carried
from engine.operations.channels import find_channel
from engine.store.catalog.annotations import Contour


class ImageFailed(EngineError, ValueError):
    """An operation can't measure this image: (reason code,). Only this image fails."""

    def __str__(self) -> str:
        return f"The image failed: {self.args[0]}."


@dataclass(frozen=True, slots=True)
class Image:
    """Input of an operation: the pixels and metadata of an image, or of one block of a giant image.

    Attributes
    ----------
    pixels
        (c, y, x), as stored.
    noise_sd
        Standard deviation of the noise of the whole image, one per channel, grey levels; for colour
        channels (RGB, RGBA, grey with alpha) one more, that of the luminance. Empty if unknown.
    spacing_um
        Pixel spacing (y, x), micrometres, or None.
    rescale
        (slope, intercept) from stored values to modality units, or None if they are the same.
    origin
        Position (y, x) of the first pixel within the whole image, pixels.
    core_region
        The core region, in whole-image coordinates, whose objects to return; None for all of it.
    source
        Name of the source in the catalog. Images with equal ``inputs`` are computed once, under the
        source of one of them, unless "fields" is among the ``inputs``.
    annotations
        Annotations on the image, for operations with "annotation" among their ``inputs``; in
        coordinates of the whole image, and complete for each block.
    full_shape
        Size (y, x) of the whole image, pixels; None if it equals that of ``pixels``.
    labels
        Label images (y, x) of the read region by operation, for an operation that reads the results
        of others: object numbers, or classes.
    objects
        Objects of the whole image by operation, as their table lists them, with their numbers.
    fields
        image_id, date, subject, experiment and name, for operations with "fields" among their
        ``inputs``.
    channel_names
        Names of the channels, "" for one without; empty if unknown. In a run, for operations that
        name a channel (see `engine.operations.channels`) or have "channels" among their ``inputs``.
    """

    pixels: NDArray[Any]
    noise_sd: tuple[float, ...] = ()
    spacing_um: tuple[float, float] | None = None
    origin: YX = (0, 0)
    core_region: Region | None = None
    source: str = ""
    rescale: tuple[float, float] | None = None
    annotations: tuple[Contour, ...] = ()
    full_shape: YX | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    objects: Mapping[str, pa.Table] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()

    def channel(self, wanted: int | str) -> int:
        """Return the number of a channel, given its number from 0 or its name.

        Raises
        ------
        ImageFailed
            ``no_such_channel``.
        """
        found = find_channel(wanted, self.channel_names, self.pixels.shape[0])
        if found is None:
            raise ImageFailed("no_such_channel")
        return found

    @property
    def write(self) -> Region | None:
        """Return `core_region` under its name in an earlier version."""
        warn_deprecated("Image.write is called Image.core_region now.")
        return self.core_region

    @property
    def whole(self) -> YX | None:
        """Return `full_shape` under its name in an earlier version."""
        warn_deprecated("Image.whole is called Image.full_shape now.")
        return self.full_shape

    @property
    def is_block(self) -> bool:
        """True for a block of a giant image."""
        _, height, width = self.pixels.shape
        return self.full_shape not in (None, (height, width))

    def owns(self, y: float, x: float) -> bool:
        """Return whether an object at a position in the whole image belongs to this region.

        An object with its centre outside of the image belongs to the region of the nearest pixel.
        """
        if self.core_region is None:
            return True
        read = (self.origin[0] + self.pixels.shape[1], self.origin[1] + self.pixels.shape[2])
        height, width = self.full_shape or read
        return self.core_region.holds(min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0))

    @property
    def has_luminance(self) -> bool:
        """True if the channels are grey or colours, with or without alpha, and not e.g. stains."""
        return has_luminance(self.pixels.shape[0], len(self.noise_sd))

    @classmethod
    def of(cls, array: NDArray[Any]) -> Image:
        """Wrap an array (y, x), (c, y, x) or (y, x, c) with 3 or 4 colours last.

        An `xarray.DataArray` from `engine.Cohort.images` carries more: the spacing, by its
        coordinates in micrometres (so slices keep it, and every second pixel has twice it), the
        names of channels, the source, the fields, and slope and intercept; values in modality units
        are converted back to stored ones. So the image equals that of a run. A plain array has no
        such metadata.

        Raises
        ------
        ParameterError
            If it has another shape.
        UsageError
            If values in modality units were modified.
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
            channel_names=carried.channel_names_of(array),
        )
