"""PNG reader: ISO/IEC 15948 (PNG, second edition), decoded by libpng through imagecodecs.

The reader checks the file's own checksums and end, and passes only the pixel chunks to the codec.
The codec alone silently drops a damaged transparency chunk, accepts a file without its end, and
would inflate the text and colour profiles of an untrusted file, megabytes for each kilobyte.

Rules: palettes become RGB, and tRNS becomes alpha (RGBA, or grey with alpha). Grey of 1, 2 or 4 bit
is scaled to 0-255 (13.12). 16 bit stays. The size of a pixel on the subject (sCAL of the PNG
extensions, which scanning microscopes write) precedes the density (pHYs). Gamma, ICC profile,
significant bits, background and pCAL are not applied: pixels are as stored; an orientation (eXIf)
is reported. An animated PNG gives its default image.
"""

from __future__ import annotations

import ctypes
import math
import struct
from typing import Any, BinaryIO, NamedTuple

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.geometry import YX
from engine.sources.base import (
    Indexed,
    OpenSource,
    Plane,
    PlanesSource,
    channels_first,
    check_size,
    full_palette,
    measure_file,
    read_at,
)
from engine.sources.failures import decoder_errors
from engine.sources.orientation import UPRIGHT, exif_orientation, findings_of
from engine.sources.pixel_size import UM_PER_M, spacing_from_density

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_HEADER_BYTES = 4096  # holds everything before IDAT of nearly all files: one read
_MAX_CHUNKS_BEFORE_DATA = 10_000  # a longer header is invalid; bounds the time of opening
_MOST_EXIF_BYTES = 64 * 1024  # the limit in JPEG; no camera writes more
_MOST_SCALE_BYTES = 100  # two numbers as text
_MAX_SIDE = 1_000_000  # pixels; libpng's own limit, PNG_USER_WIDTH_MAX
_NO_SPARE_BYTES = 1024**2  # deflate grows data by at most 1 MiB per GiB, plus a little

# Colour type -> (channels, bit depths allowed): ISO/IEC 15948, table 11.1.
_COLOURS = {
    0: (1, (1, 2, 4, 8, 16)),
    2: (3, (8, 16)),
    3: (3, (1, 2, 4, 8)),
    4: (2, (8, 16)),
    6: (4, (8, 16)),
}
# Colour type -> channels for which libspng decodes like libpng: neither tRNS nor grey with alpha.
_COLOURS_OF_SPNG = {0: 1, 2: 3, 3: 3, 6: 4}
_PIXEL_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))


class _Header(NamedTuple):
    shape: tuple[int, int, int]
    dtype: str
    spacing_um: tuple[float, float] | None
    orientation: int


class PngSource(PlanesSource):
    """Open PNG file: one plane."""

    format = "PNG"

    def __init__(self, file: BinaryIO, plane: Plane, size: int) -> None:
        super().__init__((plane,))
        self._file = file
        self._size = size

    def _decode(self, index: int) -> NDArray[Any]:
        content = keep_pixel_chunks(read_at(self._file, 0, self._size))
        return self._pixels(content, self.planes[0].shape[0])

    def _decode_indices(self, index: int) -> Indexed | None:
        content = read_at(self._file, 0, self._size)
        if not has_palette(content):
            return None
        grey, palette = _grey_of_indices(keep_pixel_chunks(content))
        most = 2 ** content[24] - 1
        return self._pixels(grey, 1)[0] // np.uint8(255 // most), palette

    def _pixels(self, content: bytes, channels: int) -> NDArray[Any]:
        depth, colour, interlaced = content[24], content[25], content[28]
        if interlaced and depth <= 8 and channels == _COLOURS_OF_SPNG.get(colour):
            # For interlaced files imagecodecs' libpng writes a line to standard error each time, so
            # libspng decodes those that it decodes to the same pixels.
            return channels_first(imagecodecs.spng_decode(content))
        try:
            return channels_first(imagecodecs.png_decode(content))
        except Exception:
            # If libpng fails within the pixels, imagecodecs 2026.3.6 releases a reference to None
            # that it never took; after some thousand broken files Python 3.11 aborts, and with it
            # the worker. (It also leaks 0.1 MB.) One reference too many does no harm.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(None))
            raise


class PngReader:
    """Reader of PNG files."""

    def open(self, file: BinaryIO, *, max_decoded_bytes: int) -> OpenSource:
        """Read the chunks before the pixels. Raises only `SourceUnreadable`."""
        with decoder_errors("PNG"):
            size = measure_file(file)
            header = _read_header(file, size)
            plane = Plane(
                "",
                header.shape,
                header.dtype,
                header.spacing_um,
                orientation=header.orientation,
                findings=findings_of(header.orientation),
            )
            check_size(plane.nbytes, max_decoded_bytes)
            # Decoding reads the whole file, so the limit also applies to it.
            check_size(size, max_decoded_bytes + _NO_SPARE_BYTES)
            return PngSource(file, plane, size)


reader = PngReader()


def keep_pixel_chunks(content: bytes) -> bytes:
    """Check every checksum of a PNG, and drop the chunks without pixels.

    Parameters
    ----------
    content
        A whole PNG file; bytes after IEND are dropped.

    Returns
    -------
    ``content`` itself if no chunk is dropped.

    Raises
    ------
    SourceUnreadable
        ``truncated`` if a chunk or IEND is missing, ``corrupt`` if a CRC-32 does not match (5.3)
        or a critical chunk is unknown (5.4).
    """
    view = memoryview(content)
    kept, run = [], 0  # pieces to keep, and where the current one starts
    offset = len(SIGNATURE)
    # Slices of bytes, not struct: a file of 512 x 512 has 20 chunks, and this is 3 % of decoding.
    while offset < len(content):
        stop = offset + 12 + int.from_bytes(content[offset : offset + 4], "big")
        if stop > len(content):
            raise SourceUnreadable("truncated", f"the chunk at offset {offset} is cut")
        kind = content[offset + 4 : offset + 8]
        if _crc32(view[offset + 4 : stop - 4]) != int.from_bytes(content[stop - 4 : stop], "big"):
            raise SourceUnreadable("corrupt", "the CRC-32 of a chunk does not match")
        if kind not in _PIXEL_CHUNKS:
            if not kind[0] & 0x20:
                raise SourceUnreadable("corrupt", "a critical chunk is not of this standard")
            kept.append(view[run:offset])
            run = stop
        elif kind == b"IEND":
            return b"".join([*kept, view[run:stop]]) if kept else content
        offset = stop
    raise SourceUnreadable("truncated", "the end chunk (IEND) is missing")


def has_palette(content: bytes) -> bool:
    """Return True if a file is a PNG of indices and a palette (colour type 3)."""
    return content.startswith(SIGNATURE) and content[25:26] == b"\3"


def _grey_of_indices(content: bytes) -> tuple[bytes, NDArray[np.uint8]]:
    """Turn a PNG with a palette into a grey PNG of its indices; also return the palette.

    Codecs return colours; the pixel stream is the same for both (11.2.2).
    """
    view = memoryview(content)
    header = content[12:25] + b"\0" + content[26:29]
    parts: list[bytes | memoryview] = [view[:12], header, struct.pack(">I", _crc32(header))]
    palette = full_palette(np.zeros((0, 3), np.uint8))
    offset = len(SIGNATURE) + 25
    while offset < len(content):
        length, kind = struct.unpack_from(">I4s", content, offset)
        data = np.frombuffer(content, np.uint8, length, offset + 8)
        if kind == b"PLTE":
            palette[: length // 3, :3] = data[: 3 * (length // 3)].reshape(-1, 3)
        elif kind == b"tRNS":
            palette[:length, 3] = data
        else:
            parts.append(view[offset : offset + 12 + length])
        offset += 12 + length
    return b"".join(parts), palette


def _crc32(content: memoryview | bytes) -> int:
    # libdeflate's CRC-32 is ten times faster than zlib's: 0.3 % of decoding instead of 4 %. It
    # takes any buffer; its type stub is narrower.
    return imagecodecs.deflate_crc32(content)  # type: ignore[arg-type]


def _read_header(file: BinaryIO, size: int) -> _Header:
    """Read the chunks before the first IDAT; skip long ones without reading them."""
    head = read_at(file, 0, min(size, _HEADER_BYTES))
    if head[: len(SIGNATURE)] != SIGNATURE:
        raise SourceUnreadable("not_an_image", "the PNG signature is missing")
    channels, dtype, yx = _parse_ihdr(head)
    transparent, density, scale, orientation = False, None, None, UPRIGHT
    offset = len(SIGNATURE) + 25
    for _ in range(_MAX_CHUNKS_BEFORE_DATA):
        if offset + 17 > len(head):
            # Beyond the first read: only this chunk's length and type, and pHYs' nine bytes.
            window = read_at(file, offset, min(size - offset, 17) if size > offset else 8)
        else:
            window = head[offset : offset + 17]
        if len(window) < 8:
            raise SourceUnreadable("truncated", "the file ends before its pixels")
        length, kind = struct.unpack_from(">I4s", window)
        if kind == b"IDAT":
            alpha = transparent and channels in (1, 3)
            return _Header((channels + alpha, *yx), dtype, scale or density, orientation)
        if kind == b"tRNS":
            transparent = True
        elif kind == b"pHYs" and length == 9 and len(window) == 17:
            density = _parse_phys(read_at(file, offset + 8, 9))
        elif kind == b"sCAL" and offset + 8 + length <= size and length <= _MOST_SCALE_BYTES:
            scale = _parse_scale(read_at(file, offset + 8, length))
        elif kind == b"eXIf" and offset + 8 + length <= size and length <= _MOST_EXIF_BYTES:
            orientation = exif_orientation(read_at(file, offset + 8, length))
        elif kind == b"IEND":
            break
        offset += 12 + length
    raise SourceUnreadable("corrupt", "no pixels (IDAT) follow the header")


def _parse_ihdr(head: bytes) -> tuple[int, str, YX]:
    if len(head) < len(SIGNATURE) + 25:
        raise SourceUnreadable("truncated", "the file ends within its header")
    length, kind, x, y, depth, colour, deflate, adaptive, interlace, crc = struct.unpack_from(
        ">I4sIIBBBBBI", head, len(SIGNATURE)
    )
    if kind != b"IHDR" or length != 13:
        raise SourceUnreadable("corrupt", "the first chunk is not IHDR")
    if _crc32(memoryview(head)[12:29]) != crc:
        raise SourceUnreadable("corrupt", "the CRC-32 of the header does not match")
    channels, depths = _COLOURS.get(colour, (0, ()))
    known = depth in depths and (deflate, adaptive) == (0, 0) and interlace in (0, 1)
    if not known or x == 0 or y == 0 or max(x, y) >= 2**31:
        raise SourceUnreadable("corrupt", "IHDR holds values that the standard does not allow")
    if max(x, y) > _MAX_SIDE:
        raise SourceUnreadable("too_large", f"({y}, {x}) pixels; a side may have {_MAX_SIDE}")
    return channels, "uint16" if depth == 16 else "uint8", (y, x)


def _parse_phys(data: bytes) -> tuple[float, float] | None:
    """Return the spacing from pixels per metre (11.3.5.3); unit 0 is an aspect ratio."""
    x, y, unit = struct.unpack(">IIB", data)
    return spacing_from_density(y, x, UM_PER_M) if unit == 1 else None


def _parse_scale(data: bytes) -> tuple[float, float] | None:
    """Return the spacing of sCAL: a unit, and width and height of a pixel as text; 1 is metres."""
    try:
        x, y = (UM_PER_M * float(number) for number in data[1:].decode("ascii").split("\0"))
    except ValueError:  # also of bytes that are not ASCII
        return None
    known = data[:1] == b"\1" and all(math.isfinite(step) and step > 0 for step in (y, x))
    return (y, x) if known else None
