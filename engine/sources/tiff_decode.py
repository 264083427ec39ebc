"""Strips and tiles of a TIFF become pixels, one at a time.

The codecs are those of imagecodecs. Each gets the size that it may fill, from the page's fields, so
that a short segment can't inflate; one that fills less raises.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.geometry import Region
from engine.sources.jpeg import parse_frame
from engine.sources.tiff_ifd import Ifd, read_span
from engine.sources.tiff_layout import (
    CCITT,
    COLOUR_MAP,
    JPEG,
    JPEG2000,
    JPEG_TABLES,
    NO_COMPRESSION,
    T4_OPTIONS,
    WHITE_IS_ZERO,
    YCBCR,
    Layout,
    Segments,
    read_segments,
)

_JPEG_RGB, _JPEG_GREY = 2, 1  # colour spaces as imagecodecs numbers them
_BLOCK_BYTES = 1024**2  # pieces that an uncompressed strip is read in

_DECOMPRESS: dict[int, Callable[..., Any]] = {
    5: imagecodecs.lzw_decode,
    8: imagecodecs.zlib_decode,
    32946: imagecodecs.zlib_decode,
    32773: imagecodecs.packbits_decode,
    34925: imagecodecs.lzma_decode,
    34926: imagecodecs.zstd_decode,
    50000: imagecodecs.zstd_decode,
}


def decode_region(ifd: Ifd, layout: Layout, region: Region, shift: int = 0) -> NDArray[Any]:
    """Decode a box of a page, touching only the strips or tiles that it meets.

    Parameters
    ----------
    ifd, layout
        The page.
    region
        Inside the page, pixels.
    shift
        Added to the offsets of the strips, bytes: for pages of ImageJ that have no directory.

    Returns
    -------
    (c, y, x), of `Layout.result_dtype`. Memory beside it is that of one segment.

    Raises
    ------
    SourceUnreadable
        With one of `REASONS`; other exceptions of codecs are left to the caller to name.
    """
    segments = read_segments(ifd, layout, shift)
    pixels = np.empty((layout.samples, *region.shape), layout.dtype)
    read = _SegmentReader(ifd, layout, segments)
    (down, across), (high, wide) = layout.grid, layout.segment
    for sample in range(layout.samples if layout.planar else 1):
        for i in range(region.start[0] // high, -(-region.stop[0] // high)):
            for j in range(region.start[1] // wide, -(-region.stop[1] // wide)):
                index = (sample * down + i) * across + j
                channels = slice(sample, sample + 1) if layout.planar else slice(None)
                _place(read, index, layout.region_of(i, j), region, pixels[channels])
    return _finish(ifd, layout, pixels)


def _place(
    read: _SegmentReader, index: int, covers: Region, region: Region, out: NDArray[Any]
) -> None:
    """Copy the part of one segment that lies in the region into ``out`` (c, y, x)."""
    start = max(covers.start[0], region.start[0]), max(covers.start[1], region.start[1])
    stop = min(covers.stop[0], region.stop[0]), min(covers.stop[1], region.stop[1])
    x = slice(start[1] - covers.start[1], stop[1] - covers.start[1])
    to_x = slice(start[1] - region.start[1], stop[1] - region.start[1])
    for y, rows in read.rows(index, start[0] - covers.start[0], stop[0] - covers.start[0]):
        to_y = y + covers.start[0] - region.start[0]
        out[:, to_y : to_y + len(rows), to_x] = np.moveaxis(rows[:, x], -1, 0)


class _SegmentReader:
    """Reads and decodes the segments of one page."""

    def __init__(self, ifd: Ifd, layout: Layout, segments: Segments) -> None:
        self._ifd = ifd
        self._layout = layout
        self._segments = segments
        self._tables = ifd.content(JPEG_TABLES) if layout.compression == JPEG else b""
        self._stored = np.dtype(layout.dtype).newbyteorder(ifd.tiff.order)

    def rows(self, index: int, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first row, (y, x, c)) that cover rows ``start`` to ``stop`` of a segment."""
        layout = self._layout
        offset = int(self._segments.offsets[index])
        if not layout.split:
            rows = layout.rows_of(index // layout.grid[1] % layout.grid[0])
            content = read_span(self._ifd.tiff, offset, int(self._segments.counts[index]))
            yield start, self._decode(content, rows)[start:stop]
            return
        step = max(1, _BLOCK_BYTES // layout.row_bytes)
        for y in range(start, stop, step):
            count = min(step, stop - y)
            content = read_span(
                self._ifd.tiff, offset + y * layout.row_bytes, count * layout.row_bytes
            )
            yield y, self._decode(content, count)

    def _decode(self, content: bytes, rows: int) -> NDArray[Any]:
        """Return a segment as (y, x, c) in native byte order."""
        layout = self._layout
        shape = rows, layout.segment[1], layout.contiguous
        if layout.compression in (JPEG, *JPEG2000):
            return self._decode_image(content, shape)
        if layout.reversed_bits:
            content = bytes(imagecodecs.bitorder_decode(content))
        if layout.compression in CCITT:
            return self._decode_fax(content, shape)
        if layout.compression != NO_COMPRESSION:
            # The last strip may be stored with all its rows, so that is what may be filled.
            limit = layout.segment[0] * layout.row_bytes
            content = _DECOMPRESS[layout.compression](content, out=limit)
        due = rows * layout.row_bytes
        if len(content) < due:
            raise SourceUnreadable(
                "corrupt", f"a strip or tile holds {len(content)} bytes, {due} are due"
            )
        return self._unpredict(self._unpack(memoryview(content)[:due], shape))

    def _unpack(self, content: memoryview, shape: tuple[int, int, int]) -> NDArray[Any]:
        layout = self._layout
        if layout.bits in (8, 16, 32, 64):
            # Floating-point prediction works on bytes that are not in the file's order yet.
            stored = np.dtype(layout.dtype) if layout.predictor == 3 else self._stored
            return np.frombuffer(content, stored).reshape(shape)
        values: NDArray[Any] = imagecodecs.packints_decode(
            bytes(content),
            np.dtype(layout.dtype).newbyteorder(self._ifd.tiff.order),
            layout.bits,
            runlen=shape[1] * shape[2],
        )
        return values.reshape(shape)

    def _unpredict(self, values: NDArray[Any]) -> NDArray[Any]:
        layout = self._layout
        if layout.predictor == 3:
            restored: NDArray[Any] = imagecodecs.floatpred_decode(values, axis=-2)
            return restored
        values = values.astype(layout.dtype, copy=False)
        if layout.predictor == 2:
            # Differences are of the bit patterns as integers, for floats too (libtiff).
            whole = values.view(f"u{values.itemsize}")
            summed: NDArray[Any] = imagecodecs.delta_decode(whole, axis=-2)
            return summed.view(layout.dtype)
        return values

    def _decode_fax(self, content: bytes, shape: tuple[int, int, int]) -> NDArray[Any]:
        rows, x, _ = shape
        match self._layout.compression:
            case 2:
                values = imagecodecs.ccittrle_decode(content, rows, x)
            case 3:
                options = self._ifd.number(T4_OPTIONS, 0)
                values = imagecodecs.ccittfax3_decode(content, rows, x, t4options=options)
            case _:
                values = imagecodecs.ccittfax4_decode(content, rows, x)
        return values.reshape(shape)

    def _decode_image(self, content: bytes, shape: tuple[int, int, int]) -> NDArray[Any]:
        """Decode a segment that has a header of its own, after checking what it claims."""
        layout = self._layout
        found = parse_frame(content).yx if layout.compression == JPEG else _parse_siz(content)
        full = layout.segment[0], shape[1]
        if found not in ((shape[0], shape[1]), full):
            raise SourceUnreadable(
                "corrupt", f"a strip or tile is an image of {found} pixels, {full} are due"
            )
        if layout.compression == JPEG:
            rgb = layout.contiguous == 3
            # Without a JFIF mark libjpeg takes three components for YCbCr; the page knows better.
            stated = (
                _JPEG_RGB if rgb and layout.photometric != YCBCR and not _is_jfif(content) else None
            )
            values = imagecodecs.jpeg8_decode(
                content,
                tables=self._tables or None,
                colorspace=stated,
                outcolorspace=_JPEG_RGB if rgb else _JPEG_GREY,
            )
        else:
            values = imagecodecs.jpeg2k_decode(content)
        if values.dtype != np.dtype(layout.dtype):
            raise SourceUnreadable("corrupt", "a strip or tile is of another depth than its page")
        return values.reshape(*found, shape[2])[: shape[0]]


def _finish(ifd: Ifd, layout: Layout, pixels: NDArray[Any]) -> NDArray[Any]:
    """Apply bit scaling, inversion and palette."""
    if layout.palette:
        return read_palette(ifd, layout.bits)[:, pixels[0]]
    if layout.bits == 1:
        pixels *= np.uint8(255)
    if layout.photometric == WHITE_IS_ZERO and pixels.dtype.kind == "u":
        largest = 255 if layout.bits == 1 else 2**layout.bits - 1
        np.subtract(pixels.dtype.type(largest), pixels, out=pixels)
    return pixels


def read_palette(ifd: Ifd, bits: int) -> NDArray[np.uint8]:
    """Return a page's colour map: (3, 2**bits), uint8 (section 5).

    Raises
    ------
    SourceUnreadable
        ``corrupt`` if it is missing or too short.
    """
    entries = 3 * 2**bits
    values = ifd.numbers(COLOUR_MAP, entries)
    if values is None or values.size != entries:
        raise SourceUnreadable("corrupt", "the palette is missing or too short")
    # Old writers store 8 bit values in the 16 bit fields; libtiff tells them in the same way.
    wide = values.astype(np.uint32)
    table = wide if int(wide.max()) < 256 else wide >> 8
    return table.astype(np.uint8).reshape(3, 2**bits)


def _is_jfif(content: bytes) -> bool:
    return content[6:11] == b"JFIF\0"


def _parse_siz(content: bytes) -> tuple[int, int]:
    """Return the size (y, x) of a JPEG 2000 codestream: ISO/IEC 15444-1, A.5.1."""
    start = content.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start < 0 or len(content) < start + 24:
        raise SourceUnreadable("corrupt", "a strip or tile is not a JPEG 2000 codestream")
    x, y, x0, y0 = struct.unpack_from(">IIII", content, start + 8)
    return y - y0, x - x0
