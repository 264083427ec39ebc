"""TIFF: TIFF 6.0, BigTIFF, OME-TIFF and ImageJ stacks, read by tifffile and imagecodecs.

Pages: a page is an image, unless OME-XML, ImageJ or the axes that tifffile writes declare pages as
channels of one image, or z and t of a series, in the order that they state. Reduced pages, masks
and sub-directories (thumbnails, pyramid levels) are not images; if the first page is tiled, neither
are later pages of another size (the levels, label and overview of a whole slide). One unreadable
page fails the whole file, since a file is one source. Channels in other files of an OME set are not
merged; the channels of each file form an image of their own, with a finding. Spacing is OME's, else
ImageJ's, else that of a resolution in cm or inch that is not a printer's.

Values: as tifffile returns them (2-8 bit in uint8, 9-16 bit in uint16), but 1 bit gives uint8 0 and
255. Unsigned integers stored with white as zero are inverted, so that brighter is larger in every
plane; other numbers have no white to subtract from, and are as stored, with a finding. Palettes of
up to 8 bit become RGB (uint8), except in files of ImageJ, where the palette is a display table and
the indices are the measurement; ImageJ's calibration of values is reported, not applied. CMYK
becomes RGB by the file's profile or by rule (`engine.sources.inks`). YCbCr is read only where JPEG
converts it. CIELab, raw mosaics, complex numbers, mixed depths and volumes in one page are
``unsupported``. Orientation (274) is reported, not applied. Omitted strips or tiles (offset and
byte count 0) are the NoData value, or 0, with a finding. Missing byte counts are estimated, and
broken private fields ignored, as in libtiff.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BufferedReader
from typing import Any, BinaryIO, cast

import numpy as np
import tifffile
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.geometry import Region
from engine.sources.base import (
    Indexed,
    OpenSource,
    Plane,
    PlanesSource,
    check_size,
    full_palette,
    tidy_name,
)
from engine.sources.failures import decoder_errors
from engine.sources.inks import finding_of
from engine.sources.orientation import TAG, findings_of, orientation_of
from engine.sources.pixel_size import UM_PER_CM, UM_PER_INCH, spacing_from_density
from engine.sources.tiff.checks import StrictFile, capture_warnings, check_directories
from engine.sources.tiff.fax import FAX
from engine.sources.tiff.imagej_values import read_calibration
from engine.sources.tiff.metadata import (
    Group,
    group_imagej,
    group_ome,
    group_shaped,
    imagej_count,
    imagej_spacing,
    is_ome,
)
from engine.sources.tiff.pages import (
    NO_COMPRESSION,
    Segments,
    check_page,
    decode_region,
    dtype_of,
    find_segments,
    finish_values,
    has_separate_samples,
    is_inks,
    is_inverted,
    is_palette,
    profile_of,
    read_palette,
)

STREAM_SEGMENT_BYTES = 128 * 1024**2
"""Largest strip or tile, bytes decoded, of a plane that streams; one is held at a time."""

_XMP_START_BYTES = 64 * 1024  # Ventana's mark is in the first lines
_XMP, _LSM, _NDPI = 700, 34412, 65420
# cache size: a slide's page holds its list of a million tiles; channels are read in turn
_HELD_PAGES = 4
# tifffile's own repairs for these reload all pages; the plain pages hold all that is needed.
_PLAIN: dict[str, Any] = dict.fromkeys(("is_lsm", "is_scanimage", "is_ndpi"), False)


@dataclass(frozen=True, slots=True)
class _Page:
    """Page of the chain; ``shift`` is the position of ImageJ's data for a page without a directory.

    ``at_once`` is the size of its smallest separately decodable part, bytes.
    """

    plane: Plane
    index: int
    at_once: int
    image: bool
    shift: int = 0


class TiffSource(PlanesSource):
    """Open TIFF file."""

    format = "TIFF"

    def __init__(self, file: BinaryIO, limit: int, name: str) -> None:
        self._raw = file
        self._name = name
        self._file = StrictFile(file)
        self._limit = limit
        self._page = lru_cache(_HELD_PAGES)(self._load_page)
        count = check_directories(file, self._file.size)
        with capture_warnings(self._file):
            # Buffered, since tifffile reads the fields one by one.
            self._tiff = tifffile.TiffFile(
                BufferedReader(self._file), mode="r", name="source.tif", _multifile=False, **_PLAIN
            )
            self._imagej = bool(self._tiff.is_imagej)
            pages = self._read_pages(count)
            groups = self._group(pages)
        self._images = [[pages[i] for i in group.pages] for group in groups]
        super().__init__(
            tuple(
                _describe(group, image, f"#{i}" if len(groups) > 1 else "", limit)
                for i, (group, image) in enumerate(zip(groups, self._images, strict=True))
            )
        )

    def close(self) -> None:
        """Release the pages. May be called twice."""
        self._page.cache_clear()
        self._tiff.close()

    def _decode(self, index: int) -> NDArray[Any]:
        plane = self.planes[index]
        # A plane that streams may be larger than the limit of one decoding.
        check_size(plane.nbytes, self._limit)
        return self._decode_region(index, Region((0, 0), plane.shape[1:]))

    def _decode_region(self, index: int, region: Region) -> NDArray[Any]:
        plane, pages = self.planes[index], self._images[index]
        pixels = np.empty((plane.shape[0], *region.shape), plane.dtype)
        step = plane.shape[0] // len(pages)
        with capture_warnings(self._file):
            for i, known in enumerate(pages):
                page, segments = self._page(known.index, known.shift)
                part = decode_region(page, segments, self._raw, region)
                part = finish_values(page, part, palette=is_palette(page) and not self._imagej)
                if len(pages) == 1:
                    return part
                pixels[i * step : (i + 1) * step] = part
        return pixels

    def _decode_indices(self, index: int) -> Indexed | None:
        plane, pages = self.planes[index], self._images[index]
        if len(pages) > 1 or self._imagej:
            return None
        with capture_warnings(self._file):
            page, segments = self._page(pages[0].index, pages[0].shift)
            if not is_palette(page):
                return None
            check_size(plane.nbytes, self._limit)
            whole = Region((0, 0), plane.shape[1:])
            indices = decode_region(page, segments, self._raw, whole)[0].view(np.uint8)
            return indices, full_palette(read_palette(page).T)

    def _parse_page(self, index: int) -> tifffile.TiffPage:
        # A copy, since tifffile keeps the first page, and `find_segments` may divide it again.
        return copy(cast(tifffile.TiffPage, self._tiff.pages[index]))

    def _load_page(self, index: int, shift: int) -> tuple[tifffile.TiffPage, Segments]:
        page = self._parse_page(index)
        return page, find_segments(page, self._file.size, self._limit, shift)

    def _read_pages(self, count: int) -> list[_Page]:
        pages: list[_Page] = []
        for index in range(count):
            page = self._parse_page(index)
            check_page(page)
            if index == 0:
                self._refuse_vendors(page)
            pages.append(self._describe_page(index, page))
            if _NDPI in page.tags:
                break  # its other pages are levels, map and overview of the slide
        if self._tiff.pages.first.is_tiled:
            yx = pages[0].plane.shape[1:]
            return [replace(p, image=p.image and p.plane.shape[1:] == yx) for p in pages]
        return pages

    def _describe_page(self, index: int, page: tifffile.TiffPage) -> _Page:
        segments = find_segments(page, self._file.size, self._limit)
        at_once = math.prod(segments.size) * page.shaped[4] * dtype_of(page).itemsize
        palette = is_palette(page) and not self._imagej
        orientation = orientation_of(page.tags.valueof(TAG))
        findings = findings_of(orientation)
        if is_inks(page):
            findings += (finding_of(profile_of(page)),)
        if is_inverted(page) and dtype_of(page).kind in "if":
            findings += ("white_is_zero",)
        if segments.sparse:
            findings += ("sparse",)
        plane = Plane(
            "",
            (
                3 if palette or is_inks(page) else page.samplesperpixel,
                page.imagelength,
                page.imagewidth,
            ),
            "uint8" if palette or page.bitspersample == 1 else dtype_of(page).name,
            streams=len(segments.offsets) > 1 and at_once <= STREAM_SEGMENT_BYTES,
            separate=not palette and has_separate_samples(page),
            orientation=orientation,
            findings=findings,
            marks_bright=_marks_bright(page),
        )
        return _Page(plane, index, at_once, not (page.is_reduced or page.is_mask))

    def _refuse_vendors(self, page: tifffile.TiffPage) -> None:
        """Refuse formats that look like TIFF, but store their planes in other places."""
        if b"iScan" in (page.tags.valueof(_XMP) or b"")[:_XMP_START_BYTES]:
            raise SourceUnreadable("unsupported", "a Ventana whole slide (BIF)")
        if self._file.size >= 2**32 and (_LSM in page.tags or _NDPI in page.tags):
            raise SourceUnreadable("unsupported", "LSM or NDPI with offsets beyond 32 bits")

    def _group(self, pages: list[_Page]) -> list[Group]:
        first = self._tiff.pages.first
        text = first.tags.valueof(270, default="")
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        density = _read_density(first)
        shown = [i for i, page in enumerate(pages) if page.image] or [0]
        groups: list[Group] | None = None
        if is_ome(text):
            held = [self._parse_page(i).samplesperpixel for i in range(len(pages))]
            groups = group_ome(text, held, self._name)
            if groups is None:
                groups = [Group((i,), findings=("metadata_elsewhere",)) for i in shown]
            spacing = None
        elif self._imagej:
            fields = self._tiff.imagej_metadata or {}
            self._add_hidden_pages(pages, imagej_count(fields, "images"))
            groups = group_imagej(fields, len(pages), first.samplesperpixel, shown)
            groups = self._calibrate(groups, fields, first)
            spacing = imagej_spacing(str(fields.get("unit", "")), density)
        else:
            unit = {2: UM_PER_INCH, 3: UM_PER_CM}.get(first.tags.valueof(296, default=2))
            spacing = spacing_from_density(*density, unit) if unit and density else None
            groups = group_shaped(text, len(pages)) if len(shown) == len(pages) else None
        if groups is None:
            groups = [Group((i,)) for i in shown]
        return [replace(group, spacing_um=group.spacing_um or spacing) for group in groups]

    def _calibrate(
        self, groups: list[Group], fields: Mapping[str, Any], page: tifffile.TiffPage
    ) -> list[Group]:
        as_stored = page.samplesperpixel == 1 and not (is_inverted(page) or is_inks(page))
        dtype = "uint8" if page.bitspersample == 1 else dtype_of(page).name
        rescale, odd = read_calibration(fields, dtype, as_stored=as_stored)
        return [replace(g, rescale=rescale, findings=(*g.findings, *odd)) for g in groups]

    def _add_hidden_pages(self, pages: list[_Page], count: int) -> None:
        """Add the pages that ImageJ stores without directories (stacks over 4 GB)."""
        page = self._tiff.pages.first
        if len(pages) != 1 or count == 1:
            return
        if page.compression != NO_COMPRESSION or page.is_tiled:
            raise SourceUnreadable("truncated", f"{count} pages expected, one found")
        if count * page.nbytes > self._file.size:
            raise SourceUnreadable("truncated", f"{count} pages expected, the file is too short")
        pages.extend(replace(pages[0], shift=i * page.nbytes) for i in range(1, count))


class TiffReader:
    """Reader of TIFF files."""

    def open(self, file: BinaryIO, *, max_decoded_bytes: int, name: str = "") -> OpenSource:
        """Read the directories and the metadata. Raises only `SourceUnreadable`.

        ``name`` is the file's, by which the metadata of a set may refer to it.
        """
        with decoder_errors("TIFF"):
            return TiffSource(file, max_decoded_bytes, name)


reader = TiffReader()


def _describe(group: Group, pages: list[_Page], fragment: str, limit: int) -> Plane:
    first = pages[0].plane
    if any((p.plane.shape, p.plane.dtype) != (first.shape, first.dtype) for p in pages):
        raise SourceUnreadable("unsupported", "the channels of an image differ in size or type")
    if any(p.plane.orientation != first.orientation for p in pages):
        raise SourceUnreadable("unsupported", "the channels of an image are turned differently")
    count = first.shape[0] * len(pages)
    names = tuple(map(tidy_name, group.channel_names)) if len(group.channel_names) == count else ()
    colours = group.channel_colours if len(group.channel_colours) == count else ()
    plane = replace(
        first,
        fragment=fragment,
        shape=(count, *first.shape[1:]),
        spacing_um=group.spacing_um,
        place=group.place,
        series=group.series,
        streams=all(page.plane.streams for page in pages),
        separate=first.separate or len(pages) > 1,
        step_um=group.step_um,
        step_ms=group.step_ms,
        rescale=group.rescale,
        companions=group.companions,
        channel_names=names if any(names) else (),
        channel_colours=colours if any(colours) else (),
        findings=tuple(sorted({*group.findings, *(f for p in pages for f in p.plane.findings)})),
    )
    # A small page in one huge tile decodes the whole tile; a strip that is cut is never decoded
    # whole.
    at_once = max(page.at_once for page in pages)
    check_size(at_once if plane.streams else max(at_once, plane.nbytes), limit)
    return plane


def _marks_bright(page: tifffile.TiffPage) -> bool | None:
    """Return True if a mask marks the brighter pixels of a page; None if programs differ.

    tifffile, and programs that write with it, store numpy's bool unchanged and declare it as
    WhiteIsZero, so that true pixels are shown black. Fax is written by programs that follow the
    standard. With more than one bit, ImageJ's inverting tables mark black pixels, and scanners
    white ones.
    """
    if not is_inverted(page):
        return True
    if page.bitspersample != 1:
        return None
    if page.compression in FAX:
        return True
    if page.software.startswith("tifffile"):
        return False
    return True if page.software else None


def _read_density(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Return YResolution and XResolution, pixels per unit, or None; tifffile's default is 1."""
    found = []
    for tag in (283, 282):
        value = page.tags.valueof(tag)
        if not (isinstance(value, tuple) and len(value) == 2 and min(value) > 0):
            return None
        found.append(value[0] / value[1])
    return found[0], found[1]
