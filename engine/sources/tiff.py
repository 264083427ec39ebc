"""TIFF: TIFF 6.0, BigTIFF, OME-TIFF and ImageJ stacks.

Rules: a page is an image, unless OME-XML or ImageJ say that pages are channels of one image, or
z and t of a series. Reduced pages, masks and sub-directories (thumbnails, pyramid levels) are not
images; where the first page is tiled, neither are later pages of another size (the levels, label
and overview of a whole slide). Spacing is OME's, else ImageJ's, else that of a resolution in cm or
inch that is not a printer's. How values are read: `tiff_layout`. One page that can't be
read makes the whole file fail, since a file is one source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.geometry import Region
from engine.sources.base import OpenSource, Plane, PlanesSource, check_size, coded
from engine.sources.density import UM_PER_CM, UM_PER_INCH, spacing_from_density
from engine.sources.tiff_decode import decode_region
from engine.sources.tiff_ifd import Ifd, TiffFile, iter_ifds, open_tiff, read_ifd
from engine.sources.tiff_layout import (
    DESCRIPTION,
    NO_COMPRESSION,
    STREAM_SEGMENT_BYTES,
    Layout,
    check_lists,
    read_layout,
)
from engine.sources.tiff_metadata import (
    Group,
    group_imagej,
    group_ome,
    imagej_count,
    imagej_spacing,
    is_imagej,
    is_ome,
    parse_imagej,
    read_density,
)

_SUBFILE, _OLD_SUBFILE, _RESOLUTION_UNIT, _XMP = 254, 255, 296, 700
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType, section 8
_XMP_START_BYTES = 64 * 1024  # Ventana's mark is in the first lines
_NDPI, _STK = 65420, 33629  # private fields of Hamamatsu and MetaMorph


@dataclass(frozen=True, slots=True)
class _Page:
    """A page of the chain; ``shift`` is where ImageJ puts the data of one without a directory."""

    offset: int
    layout: Layout
    image: bool
    shift: int = 0


class TiffSource(PlanesSource):
    """One TIFF file."""

    format = "TIFF"

    def __init__(
        self, tiff: TiffFile, planes: tuple[Plane, ...], images: list[tuple[_Page, ...]], limit: int
    ) -> None:
        super().__init__(planes)
        self._tiff = tiff
        self._images = images
        self._limit = limit

    def _decode(self, index: int) -> NDArray[Any]:
        plane = self.planes[index]
        # A plane that streams may be larger than what may be decoded at once.
        check_size(plane.nbytes, self._limit)
        return self._decode_region(index, Region((0, 0), plane.shape[1:]))

    def _decode_region(self, index: int, region: Region) -> NDArray[Any]:
        pages = self._images[index]
        parts = (
            decode_region(read_ifd(self._tiff, page.offset), page.layout, region, page.shift)
            for page in pages
        )
        if len(pages) == 1:
            return next(parts)
        plane = self.planes[index]
        pixels = np.empty((plane.shape[0], *region.shape), plane.dtype)
        step = plane.shape[0] // len(pages)
        for i, part in enumerate(parts):
            pixels[i * step : (i + 1) * step] = part
        return pixels


class TiffReader:
    """Opens TIFF files."""

    def open(self, file: BinaryIO, *, max_decoded_bytes: int) -> OpenSource:
        """Read the directories and the metadata. Raises nothing but `SourceUnreadable`."""
        with coded("TIFF"):
            tiff = open_tiff(file)
            first = read_ifd(tiff, tiff.first) if tiff.first else None
            description = first.content(DESCRIPTION) if first is not None else b""
            pages = _read_pages(tiff, imagej=is_imagej(description))
            groups = _group(tiff, description, pages)
            planes, images = [], []
            for number, group in enumerate(groups):
                chosen = tuple(pages[i] for i in group.pages)
                fragment = f"#{number}" if len(groups) > 1 else ""
                planes.append(_describe(tiff, group, chosen, fragment, max_decoded_bytes))
                images.append(chosen)
            return TiffSource(tiff, tuple(planes), images, max_decoded_bytes)


reader = TiffReader()


def _read_pages(tiff: TiffFile, *, imagej: bool) -> list[_Page]:
    pages: list[_Page] = []
    known: dict[Layout, Layout] = {}  # pages are mostly alike: hold one layout, not 100,000
    for ifd in iter_ifds(tiff):
        if not pages:
            _refuse_vendors(ifd)
        layout = read_layout(ifd, imagej=imagej)
        layout = known.setdefault(layout, layout)
        check_lists(ifd, layout)
        kind = ifd.number(_SUBFILE, 0)
        image = not kind & (_REDUCED | _MASK) and ifd.number(_OLD_SUBFILE, 1) != 2
        if pages and pages[0].layout.tiled and layout.yx != pages[0].layout.yx:
            image = False
        pages.append(_Page(ifd.offset, layout, image))
        if _NDPI in ifd.fields:
            break  # its other pages are levels, map and overview of the slide
    return pages


def _refuse_vendors(ifd: Ifd) -> None:
    """Refuse formats that look like TIFF, but whose planes are not where TIFF has them."""
    if _STK in ifd.fields and ifd.fields[_STK][1] > 1:
        raise SourceUnreadable("unsupported", "a MetaMorph stack (STK)")
    if b"iScan" in ifd.content(_XMP, _XMP_START_BYTES):
        raise SourceUnreadable("unsupported", "a Ventana whole slide (BIF)")


def _group(tiff: TiffFile, description: bytes, pages: list[_Page]) -> list[Group]:
    first = read_ifd(tiff, pages[0].offset)
    groups: list[Group] | None = None
    spacing = None
    if is_ome(description):
        groups = group_ome(description, len(pages), pages[0].layout.samples)
    elif is_imagej(description):
        fields = parse_imagej(description)
        _add_hidden_pages(tiff, pages, imagej_count(fields))
        groups = group_imagej(fields, len(pages))
        spacing = imagej_spacing(fields, first)
    else:
        unit = {2: UM_PER_INCH, 3: UM_PER_CM}.get(first.number(_RESOLUTION_UNIT, 2))
        density = read_density(first)
        spacing = spacing_from_density(*density, unit) if unit and density else None
    if groups is None:
        shown = [i for i, page in enumerate(pages) if page.image] or [0]
        groups = [Group((i,)) for i in shown]
    return [
        Group(group.pages, group.place, group.series, group.spacing_um or spacing)
        for group in groups
    ]


def _add_hidden_pages(tiff: TiffFile, pages: list[_Page], count: int) -> None:
    """Add the planes that ImageJ stores after the first without directories (stacks over 4 GB)."""
    layout = pages[0].layout
    if len(pages) != 1 or count == 1:
        return
    if layout.compression != NO_COMPRESSION or layout.tiled:
        raise SourceUnreadable("truncated", f"{count} pages are due, one is there")
    nbytes = layout.yx[0] * layout.row_bytes * (layout.samples if layout.planar else 1)
    if count * nbytes > tiff.size:
        raise SourceUnreadable("truncated", f"{count} pages are due, the file is too short")
    offset = pages[0].offset
    pages.extend(_Page(offset, layout, True, i * nbytes) for i in range(1, count))


def _describe(
    tiff: TiffFile, group: Group, pages: tuple[_Page, ...], fragment: str, limit: int
) -> Plane:
    layout = pages[0].layout
    if any(page.layout != layout for page in pages):
        raise SourceUnreadable("corrupt", "the channels of an image differ in size or type")
    shape = layout.channels * len(pages), *layout.yx
    many = layout.segments > 1 and layout.segment_bytes <= STREAM_SEGMENT_BYTES
    streams = layout.split or many
    plane = Plane(
        fragment, shape, layout.result_dtype, group.spacing_um, group.place, group.series, streams
    )
    # A small page in one huge tile decodes the whole tile; a strip that is split is never whole.
    at_once = layout.row_bytes if layout.split else layout.segment_bytes
    check_size(at_once if streams else max(at_once, plane.nbytes), limit)
    if layout.stored_bytes > tiff.size:
        raise SourceUnreadable("truncated", "the page is longer than the file")
    return plane
