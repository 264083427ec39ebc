"""Siemens mosaics: split the slices of a volume from one frame, with their positions.

Number and direction of slices are in private elements, the "CSA header" in version 2 (SV10). Two
numbers are read from it, by name; its texts are not. Geometry as in M. Brett et al., nibabel,
"Siemens format DICOM with CSA header" (``nicom``): a mosaic's position is that of its own first
pixel if it had been measured as one large slice around the same centre.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from engine.errors import SourceUnreadable
from engine.header import Header
from engine.sources.base import PlanesSource
from engine.sources.dicom.frames import Frames
from engine.sources.dicom.header import read_headers
from engine.sources.dicom.values import texts

COUNT, NORMAL = "NumberOfImagesInMosaic", "SliceNormalVector"

_MR_HEADER = (0x0019, 0x100A)
_CSA = tuple((0x0029, 0x1010 + 0x100 * n) for n in range(3))

_MOST_TAGS, _MOST_ITEMS = 1000, 100
_PARALLEL = 0.999


def is_mosaic(dataset: Dataset) -> bool:
    """Return True if a frame holds the slices of a volume."""
    return "MOSAIC" in texts(dataset, "ImageType")


class DicomMosaicSource(PlanesSource):
    """Open mosaic; each slice is an image."""

    format = "DICOM"

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        if frames.count > 1:
            raise SourceUnreadable("unsupported", "several Siemens mosaics in a file")
        frames.find()
        facts = _facts(frames.dataset)
        count, normal = int(facts.get(COUNT, (0,))[0]), facts.get(NORMAL, ())
        header, spacing = next(read_headers(frames.dataset, 1))
        channels, rows, columns = frames.plane.shape
        self._side = math.isqrt(max(count - 1, 0)) + 1
        if count < 1:
            raise SourceUnreadable("unsupported", "a Siemens mosaic of an unknown number of slices")
        if rows % self._side or columns % self._side:
            raise SourceUnreadable("unsupported", "a Siemens mosaic that its slices do not fill")
        shape = (channels, rows // self._side, columns // self._side)
        header = replace(header, terms=(*header.terms, ("syntax", str(frames.syntax))))
        places = _places(header, normal, spacing, frames.plane.shape, shape, count)
        super().__init__(
            tuple(
                replace(
                    frames.plane,
                    shape=shape,
                    fragment=f"#{n}",
                    spacing_um=spacing,
                    header=replace(header, frame=n, position_mm=(x, y, z)),
                )
                for n, (x, y, z) in enumerate(places.tolist())
            )
        )
        self._pixels: NDArray[Any] | None = None

    def _decode(self, index: int) -> NDArray[Any]:
        if self._pixels is None:
            self._pixels = self._frames.decode(0)
        _, height, width = self.planes[index].shape
        row, column = divmod(index, self._side)
        top, left = row * height, column * width
        return self._pixels[:, top : top + height, left : left + width]


def _places(
    header: Header,
    normal: tuple[float, ...],
    spacing_um: tuple[float, float] | None,
    whole: tuple[int, ...],
    shape: tuple[int, ...],
    count: int,
) -> NDArray[np.float64]:
    """Return the centre of each slice's first pixel, mm (x, y, z)."""
    known = (header.position_mm, header.orientation, spacing_um, header.distance_mm)
    if None in known or len(normal) != 3:
        raise SourceUnreadable("unsupported", "a Siemens mosaic whose slices have no places")
    row, column = np.reshape(np.asarray(header.orientation, float), (2, 3))
    across = np.asarray(normal, float)
    if abs(float(across @ np.cross(row, column))) < _PARALLEL:
        raise SourceUnreadable("unsupported", "a Siemens mosaic whose slices are not parallel")
    y_mm, x_mm = np.asarray(spacing_um, float) / 1000.0
    first = np.asarray(header.position_mm, float)
    first = first + row * x_mm * (whole[2] - shape[2]) / 2
    first = first + column * y_mm * (whole[1] - shape[1]) / 2
    steps = np.arange(count)[:, None] * float(header.distance_mm or 0.0)
    return np.asarray(first + steps * across)


def _facts(dataset: Dataset) -> dict[str, tuple[float, ...]]:
    facts: dict[str, tuple[float, ...]] = {}
    for place in _CSA:
        found = _bytes(dataset, place)
        if found[:4] == b"SV10":
            facts.update(read_csa(found, (COUNT, NORMAL)))
    count = _bytes(dataset, _MR_HEADER)
    if COUNT not in facts and len(count) >= 2:
        facts[COUNT] = (float(int.from_bytes(count[:2], "little")),)
    return facts


def _bytes(dataset: Dataset, place: tuple[int, int]) -> bytes:
    try:
        value = dataset.get_item(place).value
    except (KeyError, AttributeError):
        return b""
    if isinstance(value, int):  # already converted to a number
        return value.to_bytes(2, "little") if 0 <= value < 2**16 else b""
    return value if isinstance(value, bytes) else b""


def read_csa(data: bytes, names: tuple[str, ...]) -> dict[str, tuple[float, ...]]:
    """Return the numbers of some tags of a CSA header, version 2, up to the first defect.

    Parameters
    ----------
    data
        Value of the element, starting with ``SV10``.
    names
        Names of the tags to read.
    """
    found: dict[str, tuple[float, ...]] = {}
    try:
        (tags,) = struct.unpack_from("<I", data, 8)
        at = 16
        for _ in range(min(tags, _MOST_TAGS)):
            name = data[at : at + 64].split(b"\0")[0].decode("ascii", "replace")
            _, _, _, items = struct.unpack_from("<i4sii", data, at + 64)
            at += 84
            values = []
            for _ in range(min(items, _MOST_ITEMS)):
                _, length, _, _ = struct.unpack_from("<4i", data, at)
                value = data[at + 16 : at + 16 + max(length, 0)].split(b"\0")[0].strip()
                at += 16 + -(-max(length, 0) // 4) * 4
                if value and name in names:
                    values.append(float(value))
            if values and all(math.isfinite(v) for v in values):
                found[name] = tuple(values)
    except (struct.error, ValueError):
        pass
    return found
