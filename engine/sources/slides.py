"""Whole slides through OpenSlide: SVS, NDPI, SCN, BIF and pyramidal TIFF, at a chosen resolution.

Files: TIFF (by its first bytes) with a slide's suffix, and, if a resolution is requested, every
TIFF that OpenSlide recognises as a slide with a pixel size. Vendors' formats that are folders of
files (MIRAX, VMS) are unsupported: a source is one file.

Pixels are RGB, uint8; areas that the scanner left out are white. A resolution is computed from the
next finer level by area means, so a pixel's value does not depend on the tiling; slides are never
enlarged.
"""

from __future__ import annotations

import math
import os
from io import UnsupportedOperation
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from engine.errors import SourceUnreadable
from engine.geometry import Region
from engine.sources.base import OpenSource, Plane, PlanesSource, check_size
from engine.sources.failures import decoder_errors, require_readable
from engine.sources.scaling import SAME, read_scaled


class SlideSource(PlanesSource):
    """Open slide, as a plane of some resolution."""

    format = "slide"

    def __init__(self, file: BinaryIO, path: str, spacing_um: float | None, limit: int) -> None:
        self._file = file
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideUnsupportedFormatError:
            raise SourceUnreadable("unsupported", "OpenSlide does not know this slide") from None
        except openslide.OpenSlideError as error:
            raise SourceUnreadable(
                "corrupt", f"OpenSlide can't open it ({type(error).__name__})"
            ) from None
        pixel = self._pixel_um()
        if spacing_um is not None and pixel is None:
            raise SourceUnreadable("unsupported", "no pixel size, so no resolution can be chosen")
        wanted = (
            1.0 if spacing_um is None or pixel is None else spacing_um / math.sqrt(math.prod(pixel))
        )
        wanted = max(1.0, wanted)
        self._level = self._slide.get_best_level_for_downsample(wanted * (1 + SAME))
        self._check_tiles(limit)
        width, height = self._slide.level_dimensions[self._level]
        full_width, full_height = self._slide.dimensions
        # Pixels of the level per pixel of the plane, along y and x; and of the whole slide per
        # pixel of the level.
        self._down = full_height / height, full_width / width
        rest = wanted / math.sqrt(math.prod(self._down))
        self._rest = 1.0 if abs(rest - 1) <= SAME else rest
        shape = (max(1, int(height / self._rest)), max(1, int(width / self._rest)))
        spacing = None
        if pixel is not None:
            y, x = (p * d * self._rest for p, d in zip(pixel, self._down, strict=True))
            spacing = (y, x)
        down = self._down[0] * self._rest, self._down[1] * self._rest
        plane = Plane("", (3, *shape), "uint8", spacing, streams=True, downsample=down)
        super().__init__((plane,))
        self._limit = limit

    def close(self) -> None:
        """Close the slide. May be called twice."""
        self._slide.close()

    def _pixel_um(self) -> tuple[float, float] | None:
        found = []
        for name in (openslide.PROPERTY_NAME_MPP_Y, openslide.PROPERTY_NAME_MPP_X):
            try:
                value = float(self._slide.properties.get(name, ""))
            except ValueError:
                return None
            if not (math.isfinite(value) and value > 0):
                return None
            found.append(value)
        return found[0], found[1]

    def _check_tiles(self, limit: int) -> None:
        """Refuse a level with tiles above the memory limit."""
        sides = [
            int(self._slide.properties.get(f"openslide.level[{self._level}].tile-{side}", "0"))
            for side in ("width", "height")
        ]
        check_size(4 * math.prod(sides), limit)

    def _decode(self, index: int) -> NDArray[Any]:
        plane = self.planes[index]
        check_size(plane.nbytes, self._limit)
        return self._decode_region(index, Region((0, 0), (plane.shape[1], plane.shape[2])))

    def _decode_region(self, index: int, region: Region) -> NDArray[Any]:
        width, height = self._slide.level_dimensions[self._level]
        return read_scaled(region, self._rest, (height, width), self._read)

    def _read(self, region: Region) -> NDArray[np.uint8]:
        """Return a region of the level, (3, y, x)."""
        top, left = region.start
        location = round(left * self._down[1]), round(top * self._down[0])
        try:
            found = self._slide.read_region(location, self._level, region.shape[::-1])
        except openslide.OpenSlideError as error:
            require_readable(self._file)
            raise SourceUnreadable(
                "corrupt", f"OpenSlide can't decode it ({type(error).__name__})"
            ) from None
        flat = Image.new("RGB", found.size, "white")
        flat.paste(found, mask=found.getchannel("A"))
        return np.moveaxis(np.asarray(flat), 2, 0)


class SlideReader:
    """Reader of slides at a resolution."""

    def open(
        self, file: BinaryIO, *, max_decoded_bytes: int, spacing_um: float | None = None
    ) -> OpenSource | None:
        """Read the header of a slide, or return None if the file is not a slide.

        Parameters
        ----------
        file
            File of the operating system: OpenSlide reads it by itself.
        spacing_um
            Pixel size to read it at, micrometres; None means the scanner's own. With a value, a
            plain TIFF without a pixel size does not count as a slide.

        Raises
        ------
        SourceUnreadable
        """
        try:
            return self._open(file, max_decoded_bytes, spacing_um)
        except SourceUnreadable:
            require_readable(file)
            raise

    def _open(self, file: BinaryIO, max_decoded_bytes: int, spacing_um: float | None) -> Any:
        path = _path_of(file)
        with decoder_errors("slide"):
            vendor = None if path is None else openslide.OpenSlide.detect_format(path)
            if path is None or vendor is None:
                return None
            source = SlideSource(file, path, None, max_decoded_bytes)
            known = source.planes[0].spacing_um is not None
            if spacing_um is None or (not known and vendor == "generic-tiff"):
                if vendor != "generic-tiff":
                    return source
                source.close()
                return None
            source.close()
            return SlideSource(file, path, spacing_um, max_decoded_bytes)


def _path_of(file: BinaryIO) -> str | None:
    """Return a path to this open file that does not depend on its name, or None."""
    try:
        number = file.fileno()
    except (UnsupportedOperation, AttributeError):
        return None
    folder = "/proc/self/fd" if Path("/proc/self/fd").is_dir() else "/dev/fd"
    return os.path.join(folder, str(number))  # noqa: PTH118 - no normalisation wanted


reader = SlideReader()
