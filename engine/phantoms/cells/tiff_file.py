"""Tiled OME-TIFF files of which all channels are drawn at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from xml.etree import ElementTree

import numpy as np
from numpy.typing import DTypeLike, NDArray

from engine.geometry import YX
from engine.phantoms.folders import replace_if_new

TILE_PX = 512

LARGEST_CLASSIC_BYTES = 1 << 30
"""Files with more bytes of pixels are BigTIFF. Classic TIFF ends at 4 GiB."""

COLOURS = (0x0000FFFF, 0x00FF00FF)
"""Of the channels, RGBA as OME writes it: blue and green."""

SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


class TiledTiff:
    """A file that appears whole when the context ends without an error, and else not at all.

    TIFF has one channel after the other. Tiles wait compressed in unnamed files, so memory does
    not depend on the size. A file with the same bytes keeps its times.
    """

    def __init__(
        self,
        path: Path,
        shape: YX,
        spacing_um: float,
        channels: Sequence[str],
        dtype: DTypeLike,
    ) -> None:
        self._path, self._shape, self._dtype = path, shape, np.dtype(dtype)
        self._spacing_um, self._channels = spacing_um, channels
        self._spools: list[_Spool] = []

    def write(self, channels: Iterable[NDArray[Any]]) -> None:
        """Append the next tile, in row-major order, of each channel; those at edges are smaller."""
        for spool, pixels in zip(self._spools, channels, strict=True):
            tile = np.zeros((TILE_PX, TILE_PX), self._dtype)
            tile[: pixels.shape[0], : pixels.shape[1]] = pixels
            spool.append(_compress(tile))

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._spools = [_Spool(self._path.parent) for _ in self._channels]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._assemble()
        finally:
            for spool in self._spools:
                spool.close()

    def _assemble(self) -> None:
        import tifffile

        part = self._path.with_name(f".{self._path.name}.part")
        size = len(self._spools) * self._shape[0] * self._shape[1] * self._dtype.itemsize
        per_cm = 10_000 / self._spacing_um
        described = self._describe().encode()
        try:
            with tifffile.TiffWriter(
                part, bigtiff=size > LARGEST_CLASSIC_BYTES, byteorder="<"
            ) as tiff:
                for number, spool in enumerate(self._spools):
                    tiff.write(
                        iter(spool),
                        shape=self._shape,
                        dtype=self._dtype,
                        tile=(TILE_PX, TILE_PX),
                        photometric="minisblack",
                        compression="adobe_deflate",
                        predictor=True,
                        resolution=(per_cm, per_cm),
                        resolutionunit="CENTIMETER",
                        description=None if number else described,
                        metadata=None,
                        software=False,
                    )
            replace_if_new(part, self._path)
        finally:
            part.unlink(missing_ok=True)

    def _describe(self) -> str:
        """Return OME-XML."""
        height, width = self._shape
        count, size = str(len(self._channels)), f"{self._spacing_um:g}"
        image = {"ID": "Image:0", "Name": self._path.name.partition(".")[0]}
        sides = {"SizeX": str(width), "SizeY": str(height), "SizeZ": "1", "SizeC": count}
        spacing = {f"PhysicalSize{axis}": size for axis in "XY"}
        units = {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
        kind = {"DimensionOrder": "XYCZT", "Type": str(self._dtype), "BigEndian": "false"}
        root = ElementTree.Element("OME", {"xmlns": SCHEMA})
        pixels = ElementTree.SubElement(
            ElementTree.SubElement(root, "Image", image),
            "Pixels",
            {"ID": "Pixels:0", **kind, **sides, "SizeT": "1", **spacing, **units},
        )
        for number, channel in enumerate(self._channels):
            named = {"ID": f"Channel:0:{number}", "Name": channel, "SamplesPerPixel": "1"}
            ElementTree.SubElement(pixels, "Channel", {**named, "Color": str(COLOURS[number])})
        ElementTree.SubElement(pixels, "TiffData", {"IFD": "0", "PlaneCount": count})
        return '<?xml version="1.0" encoding="UTF-8"?>' + ElementTree.tostring(root, "unicode")


class _Spool:
    """Pieces of bytes in an unnamed file, written once and read once in the same order."""

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - see close
        self._sizes: list[int] = []

    def append(self, piece: bytes) -> None:
        self._file.write(piece)
        self._sizes.append(len(piece))

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(0)
        for size in self._sizes:
            yield self._file.read(size)

    def close(self) -> None:
        self._file.close()


def _compress(tile: NDArray[Any]) -> bytes:
    """Return a tile as TIFF stores it with predictor 2 (differences along rows) and Deflate."""
    import imagecodecs

    differences = imagecodecs.delta_encode(tile, axis=1)
    return bytes(imagecodecs.zlib_encode(differences.tobytes(), level=1))
