"""DICOM whole slides (PS3.3, A.32.8): the tiles of one instance form one image, read by regions.

Levels of a pyramid are separate instances; `engine.ingest.series.slide_levels` selects one when all
of a series are known. Labels, overviews and thumbnails are not images of the slide, and are ignored
like other objects. Optical paths of one sample are channels. Areas without a tile are white in
colour images and 0 in measurements, as in other slides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from engine.errors import SourceUnreadable
from engine.geometry import YX, Region
from engine.header import LEVEL_UM
from engine.sources.base import PlanesSource, check_size
from engine.sources.dicom.frames import Frames
from engine.sources.dicom.header import read_headers
from engine.sources.dicom.optical_paths import path_names
from engine.sources.dicom.values import first_item, items, number, text, texts, whole
from engine.sources.scaling import SAME, read_scaled

BESIDE = ("LABEL", "OVERVIEW", "THUMBNAIL", "LOCALIZER")
"""Values of ImageType for images other than the slide's plane (PS3.3, C.8.12.4.1.1)."""

PATHS = "optical_paths"
"""Term of a header: number of optical paths in the image."""


def is_slide(dataset: Dataset) -> bool:
    """Return True if a file's frames are tiles of one matrix."""
    tiled = (whole(dataset, "TotalPixelMatrixColumns") or 0) > 0
    return tiled or text(dataset, "SOPClassUID") == "1.2.840.10008.5.1.4.1.1.77.1.6"


@dataclass(frozen=True, slots=True)
class Tiles:
    """Position of each frame: its first pixel (y, x) in the matrix, and its optical path.

    ``identifiers`` are those of the paths, as far as the file has them.
    """

    start: NDArray[np.int64]
    path: NDArray[np.int64]
    paths: int
    identifiers: tuple[str, ...] = ()


class DicomSlideSource(PlanesSource):
    """Open instance of a slide, as a plane of some resolution."""

    format = "DICOM"

    def __init__(self, frames: Frames, spacing_um: float | None, limit: int) -> None:
        dataset = frames.dataset
        _check_kind(dataset)
        self._frames, self._limit = frames, limit
        samples, height, width = frames.plane.shape
        self._tile: YX = (height, width)
        rows, columns = (whole(dataset, f"TotalPixelMatrix{n}") or 0 for n in ("Rows", "Columns"))
        if min(rows, columns) <= 0 and frames.count == 1:
            rows, columns = self._tile
        if min(rows, columns) <= 0:
            raise SourceUnreadable("unsupported", "a slide that does not say how large it is")
        self._level: YX = (rows, columns)
        self._tiles = find_tiles(dataset, frames.count, self._level, self._tile)
        if samples > 1 and self._tiles.paths > 1:
            raise SourceUnreadable("unsupported", "several optical paths in colours")
        header, own = next(read_headers(dataset, 1))
        if spacing_um is not None and own is None:
            raise SourceUnreadable("unsupported", "no pixel size, so no resolution can be chosen")
        wanted = 1.0 if spacing_um is None else spacing_um / math.sqrt(math.prod(own or ()))
        self._scale = wanted if wanted > 1 + SAME else 1.0
        shape = (max(1, int(rows / self._scale)), max(1, int(columns / self._scale)))
        paths = self._tiles.paths
        terms = [("syntax", str(frames.syntax)), (PATHS, str(paths))]
        if own is not None:
            terms.append((LEVEL_UM, f"{math.sqrt(math.prod(own)):g}"))
        plane = replace(
            frames.plane,
            shape=(max(samples, paths), *shape),
            spacing_um=None if own is None else (own[0] * self._scale, own[1] * self._scale),
            streams=True,
            separate=paths > 1,
            channel_names=path_names(dataset, self._tiles.identifiers) if paths > 1 else (),
            downsample=(self._scale, self._scale),
            header=replace(header, terms=(*header.terms, *terms)),
        )
        self._blank = np.iinfo(plane.dtype).max if samples > 1 and plane.dtype[0] == "u" else 0
        super().__init__((plane,))

    def _decode(self, index: int) -> NDArray[Any]:
        plane = self.planes[index]
        check_size(plane.nbytes, self._limit)
        return self._decode_region(index, Region((0, 0), (plane.shape[1], plane.shape[2])))

    def _decode_region(self, index: int, region: Region) -> NDArray[Any]:
        return read_scaled(region, self._scale, self._level, self._read)

    def _read(self, region: Region) -> NDArray[Any]:
        """Return a region of the matrix, assembled from the tiles that touch it."""
        plane = self.planes[0]
        pixels = np.full((plane.shape[0], *region.shape), self._blank, plane.dtype)
        begin = self._tiles.start
        touches = (begin < region.stop) & (begin + self._tile > region.start)
        for n in np.flatnonzero(touches.all(axis=1)):
            tile = self._frames.decode(int(n))
            start = begin[n]
            low = np.maximum(start, region.start)
            high = np.minimum(start + self._tile, region.stop)
            inner, place = (
                [slice(a - s, b - s) for a, b, s in zip(low, high, corner, strict=True)]
                for corner in (start, region.start)
            )
            path = int(self._tiles.path[n])
            channels = slice(path, path + 1) if self._tiles.paths > 1 else slice(None)
            pixels[channels, *place] = tile[:, *inner]
        return pixels


def _check_kind(dataset: Dataset) -> None:
    """Refuse objects that are not slide images, and unsupported slides, with a reason."""
    values = texts(dataset, "ImageType")
    beside = next((value for value in BESIDE if value in values), None)
    if beside is not None:
        raise SourceUnreadable("no_pixels", f"the {beside.lower()} of a slide, not the slide")
    if text(dataset, "SOPClassUID").startswith("1.2.840.10008.5.1.4.1.1.66."):
        raise SourceUnreadable("unsupported", "a segmentation of a slide is not an image")
    if text(dataset, "ConcatenationUID"):
        raise SourceUnreadable("unsupported", "a slide in parts of a concatenation")
    if (whole(dataset, "TotalPixelMatrixFocalPlanes") or 1) > 1:
        raise SourceUnreadable("unsupported", "a slide with several focal planes")


def find_tiles(dataset: Dataset, count: int, level: YX, tile: YX) -> Tiles:
    """Return the positions of frames in the matrix (PS3.3, C.7.6.17.3 and C.8.12.6.1).

    Raises
    ------
    SourceUnreadable
        ``unsupported`` if tiles overlap exactly, as in several focal planes, or positions are
        missing; ``corrupt`` if frames are missing.
    """
    known = [text(item, "OpticalPathIdentifier") for item in items(dataset, "OpticalPathSequence")]
    if text(dataset, "DimensionOrganizationType") == "TILED_FULL" or (count == 1 and level <= tile):
        paths = whole(dataset, "NumberOfOpticalPaths") or len(known) or 1
        tiles = _full(count, level, tile, paths)
        return replace(tiles, identifiers=tuple(known)) if len(known) == paths else tiles
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    frames = items(dataset, "PerFrameFunctionalGroupsSequence")
    if len(frames) < count:
        raise SourceUnreadable("unsupported", "a slide whose tiles have no places")
    start = np.empty((count, 2), np.int64)
    names: list[str] = []
    for n, frame in enumerate(frames[:count]):
        place = first_item(frame, "PlanePositionSlideSequence")
        for axis, name in enumerate(("Row", "Column")):
            found = number(place, f"{name}PositionInTotalImagePixelMatrix")
            if found is None:
                raise SourceUnreadable("unsupported", "a slide whose tiles have no places")
            start[n, axis] = int(found) - 1
        group = "OpticalPathIdentificationSequence"
        own = first_item(frame, group) or first_item(shared, group)
        names.append(text(own, "OpticalPathIdentifier"))
    order = [name for name in known if name in names]
    order += sorted({*names} - {*order})
    path = np.array([order.index(name) for name in names], np.int64)
    if len({*zip(path.tolist(), *start.T.tolist(), strict=True)}) < count:
        raise SourceUnreadable("unsupported", "a slide whose tiles lie on each other")
    return Tiles(start, path, len(order), tuple(order))


def _full(count: int, level: YX, tile: YX, paths: int) -> Tiles:
    across = [-(-whole_side // side) for whole_side, side in zip(level, tile, strict=True)]
    due = paths * math.prod(across)
    if count != due:
        raise SourceUnreadable("corrupt", f"the slide has {count} tiles, {due} expected")
    number_of = np.arange(count)
    row, column = np.divmod(number_of % math.prod(across), across[1])
    start = np.stack([row * tile[0], column * tile[1]], axis=1)
    return Tiles(start.astype(np.int64), number_of // math.prod(across), paths)
