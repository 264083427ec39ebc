"""One page of a TIFF: support checks, positions of its strips or tiles, and decoding.

tifffile parses and decodes. Its `TiffPage.asarray` reads whole pages and fills missing parts with
zeros, so this module locates, checks and reads the segments, and decodes them one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.geometry import YX, Region
from engine.sources.base import check_size, read_at
from engine.sources.inks import cmyk_profile, rgb_of_inks
from engine.sources.tiff.checks import JPEG, JPEG2000, check_embedded
from engine.sources.tiff.fax import FAX, decode_fax

NO_COMPRESSION = 1
# None, CCITT, LZW, JPEG, Deflate, PackBits, JPEG 2000, LZMA, Zstandard. tifffile supports more, but
# without a limit for their decoders, so that a tile of a kilobyte could fill the memory. JPEG 2000
# of kind 33003 (Aperio) is YCbCr that it does not convert.
_COMPRESSIONS = (NO_COMPRESSION, *FAX, 5, JPEG, 8, 32946, 32773, *JPEG2000, 34925, 34926, 50000)
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _MASK, _INKS, _YCBCR = 0, 1, 2, 3, 4, 5, 6
_CMYK = 1  # value of InkSet (332)
_ALPHA = (1, 2)  # ExtraSamples: associated and unassociated
_WHOLE_BYTES = (8, 16, 32, 64)  # bits of a value

_MAX_SIDE = 2**31 - 1
_MAX_SAMPLES = 4096  # hyperspectral pages have hundreds
_PIECE_BYTES = 256 * 1024  # block size of reads from large uncompressed pages; fits a core's cache
# Worst cases: LZW 1.5 times, PackBits 1.01 times; a count beyond this is damage, not data.
_MAX_GROWTH, _GROWTH_SPARE_BYTES = 4, 1024**2


@dataclass(frozen=True, slots=True)
class Segments:
    """Strips or tiles of a page: offsets and byte counts, their size (y, x), and grid (y, x).

    Offset and count are 0 for a segment that the file omits.
    """

    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    size: YX
    grid: YX

    @property
    def sparse(self) -> bool:
        """True if some segments are omitted."""
        return bool((self.counts == 0).any())


def dtype_of(page: tifffile.TiffPage) -> np.dtype[Any]:
    """Return the type of a page's values in native order; one bit is bool."""
    if (
        page.dtype is None
        or page.dtype.kind not in "buif"
        or not isinstance(page.bitspersample, int)
    ):
        raise SourceUnreadable(
            "unsupported", f"sample format {page.sampleformat}, {page.bitspersample} bits"
        )
    return page.dtype


def photometric_of(page: tifffile.TiffPage) -> int:
    """Return the photometric interpretation; tifffile's default is inverted, ours is not."""
    return int(page.tags.valueof(262, default=_BLACK_IS_ZERO))


def is_palette(page: tifffile.TiffPage) -> bool:
    """Return True if a page's values are indices of its palette."""
    return photometric_of(page) == _PALETTE


def is_inks(page: tifffile.TiffPage) -> bool:
    """Return True if a page's values are CMYK."""
    return photometric_of(page) == _INKS


def is_inverted(page: tifffile.TiffPage) -> bool:
    """Return True if smaller values of a page are brighter."""
    return photometric_of(page) == _WHITE_IS_ZERO


def profile_of(page: tifffile.TiffPage) -> bytes | None:
    """Return the colour profile of a page's inks."""
    return cmyk_profile(page.tags.valueof(34675))


def has_separate_samples(page: tifffile.TiffPage) -> bool:
    """Return True if the values of a pixel are independent measurements: neither colours nor alpha.

    RGB has three values, and extra samples that ExtraSamples (338) declares as alpha, or leaves
    undeclared.
    """
    own = {_RGB: 3, _YCBCR: 3, _INKS: 4}.get(photometric_of(page), 1)
    extra = page.samplesperpixel - own
    if extra == 0:
        return False
    return extra > 1 or not (own == 3 or _alpha_of(page) in _ALPHA)


def _alpha_of(page: tifffile.TiffPage) -> int:
    value = page.tags.valueof(338, default=0)
    first = value[0] if isinstance(value, tuple) and value else value
    return int(first) if isinstance(first, int) else 0


def check_page(page: tifffile.TiffPage) -> None:
    """Refuse pages that are not images, or with values other than a plane can hold.

    Raises
    ------
    SourceUnreadable
        ``corrupt`` or ``unsupported``.
    """
    yx, samples, bits = (
        (page.imagelength, page.imagewidth),
        page.samplesperpixel,
        page.bitspersample,
    )
    if not (0 < min(yx) <= max(yx) <= _MAX_SIDE and 0 < samples <= _MAX_SAMPLES):
        raise SourceUnreadable("corrupt", f"a page of {yx} pixels with {samples} samples")
    if page.planarconfig not in (1, 2):
        raise SourceUnreadable("corrupt", f"planar configuration {page.planarconfig}")
    compression, photometric = page.compression, photometric_of(page)
    if compression not in _COMPRESSIONS or page.imagedepth != 1:
        raise SourceUnreadable(
            "unsupported", f"compression {compression}, or a volume (ImageDepth)"
        )
    kind = dtype_of(page).kind
    embedded = compression in (JPEG, *JPEG2000)
    colour = (
        photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _MASK)
        or (photometric == _RGB and samples >= 3)
        or (photometric == _PALETTE and samples == 1 and bits <= 8)
        or (photometric == _INKS and samples == 4 and bits in (8, 16) and kind == "u")
        or (photometric == _YCBCR and samples == 3 and compression == JPEG)
    )
    # Only JPEG decoders reassemble subsampled colour.
    if photometric == _INKS and page.tags.valueof(332, default=_CMYK) != _CMYK:
        raise SourceUnreadable("unsupported", "inks other than CMYK")
    if not colour or (page.is_subsampled and compression != JPEG):
        raise SourceUnreadable("unsupported", f"photometric {photometric}, {samples} samples")
    if (compression in FAX and (samples, bits) != (1, 1)) or (
        embedded and not (page.shaped[4] in (1, 3, 4) and 8 <= bits <= 16 and kind == "u")
    ):
        raise SourceUnreadable("unsupported", f"compression {compression} with {bits} bits")
    if page.predictor != 1 and not embedded and compression not in FAX:
        float_ = page.predictor == 3 and kind == "f"
        if bits not in _WHOLE_BYTES or not (page.predictor == 2 or float_):
            raise SourceUnreadable("unsupported", f"predictor {page.predictor} with {bits} bits")


def find_segments(page: tifffile.TiffPage, size: int, limit: int, shift: int = 0) -> Segments:
    """Locate the strips or tiles of a page; check that each is in the file and large enough.

    Parameters
    ----------
    page
        Page that passed `check_page`. A large uncompressed page is cut into small strips here.
    size
        Size of the file, bytes.
    limit
        Limit of one decoded strip or tile, bytes.
    shift
        Offset added to all positions, bytes: for pages of ImageJ that have no directory.

    Raises
    ------
    SourceUnreadable
        ``truncated`` if one is beyond the end or too short, or if none was written; ``corrupt`` if
        one has no offset, but bytes, or the lists are too short; ``too_large``.
    """
    y, x, tiled = page.imagelength, page.imagewidth, page.is_tiled
    high, wide = (page.tilelength, page.tilewidth) if tiled else (page.rowsperstrip, x)
    if not 0 < min(high, wide) <= max(high, wide) <= _MAX_SIDE:
        raise SourceUnreadable("corrupt", f"strips or tiles of {(high, wide)} pixels")
    planes, contiguous, bits = page.shaped[0], page.shaped[4], page.bitspersample
    itemsize = dtype_of(page).itemsize
    row = (wide * contiguous * bits + 7) // 8  # bytes; rows begin at whole bytes
    bare = page.compression == NO_COMPRESSION
    cut = bare and not tiled and bits in _WHOLE_BYTES and high * row > 8 * _PIECE_BYTES
    check_size((1 if cut else high) * wide * contiguous * itemsize, limit)
    grid = -(-y // high), -(-x // wide)
    due = planes * grid[0] * grid[1]
    if len(page.dataoffsets) < due:
        raise SourceUnreadable("corrupt", f"{due} strips or tiles are not listed")
    # An offset of more than 2**63 raises, and becomes corrupt.
    offsets = np.array(page.dataoffsets[:due], np.int64)
    counts = _counts_of(page, offsets, size)
    left_out = (offsets == 0) & (counts == 0)
    if left_out.all():
        # A killed writer leaves a page like this if it wrote none of its segments.
        raise SourceUnreadable("truncated", "none of the strips or tiles was written")
    if bare:
        counts[(counts == 0) & ~left_out] = np.iinfo(
            np.int64
        ).max  # replaced by the known size below
    if (left_out != (offsets <= 0)).any() or (left_out != (counts <= 0)).any():
        raise SourceUnreadable("corrupt", "a strip or tile is missing")
    if bare and planes * y * row > size:
        raise SourceUnreadable("truncated", "the page is longer than the file")
    if bare:
        # The stored size is known, and some writers state that of the whole file.
        rows = np.full(grid[0], high)
        rows[-1] = high if tiled else y - (grid[0] - 1) * high
        known = np.resize(np.repeat(rows * row, grid[1]), due)
        if (counts < known)[~left_out].any():
            raise SourceUnreadable("truncated", "a strip or tile is shorter than its pixels")
        counts = np.where(left_out, 0, known)
    if int(offsets.max()) + shift > size or int((offsets + counts).max()) + shift > size:
        raise SourceUnreadable("truncated", "a strip or tile is beyond the end of the file")
    if int(counts.max()) > _MAX_GROWTH * high * row + _GROWTH_SPARE_BYTES:
        raise SourceUnreadable("corrupt", "a strip or tile is longer than any coding makes it")
    offsets = np.where(left_out, 0, offsets + shift)
    if cut and not left_out.any() and (offsets[:-1] + counts[:-1] == offsets[1:]).all():
        high = max(1, _PIECE_BYTES // row)
        grid = -(-y // high), 1
        tops = np.arange(0, y, high)
        counts = np.tile(np.minimum(high, y - tops) * row, planes)
        offsets = offsets[0] + ((np.arange(planes) * y)[:, np.newaxis] + tops).ravel() * row
        page.rowsperstrip = high
    else:
        check_size(high * wide * contiguous * itemsize, limit)
    # tifffile shares decoders between pages of equal hash, but ignores fields that two of them
    # need.
    page.hash = hash((page.hash, page.is_jfif, page.tags.valueof(292)))
    if page.compression == JPEG and contiguous == 4:
        page.extrasamples = page.extrasamples or (0,)  # else tifffile expects three colours
    return Segments(offsets, counts, (high, wide), grid)


def _counts_of(page: tifffile.TiffPage, offsets: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the byte counts of a page's segments; without any, estimate them as libtiff does."""
    if 279 in page.tags or 325 in page.tags or page.jpegheader is not None:
        if len(page.databytecounts) < len(offsets):
            raise SourceUnreadable("corrupt", f"{len(offsets)} strips or tiles are not listed")
        counts = np.array(page.databytecounts[: len(offsets)], np.int64)
        if len(counts) > 1 or counts[0] != 0 or offsets[0] == 0:
            return counts
    if page.compression == NO_COMPRESSION:
        return np.zeros(len(offsets), np.int64)
    if int(offsets.max()) >= size:
        raise SourceUnreadable("truncated", "a strip or tile is beyond the end of the file")
    # Each segment ends where the next one begins, the last one with the file.
    ends = np.append(np.unique(offsets), size)
    return np.asarray(ends[np.searchsorted(ends, offsets) + 1] - offsets)


def decode_region(
    page: tifffile.TiffPage, segments: Segments, file: BinaryIO, region: Region
) -> NDArray[Any]:
    """Decode a box of a page, reading only the strips or tiles that overlap it.

    Returns
    -------
    (c, y, x), of the page's dtype. Additional memory is that of one segment.

    Raises
    ------
    SourceUnreadable
        With one of `REASONS`; the caller translates other exceptions of codecs.
    """
    planes, _, y, x, contiguous = page.shaped
    (high, wide), (down, across) = segments.size, segments.grid
    (y_start, x_start), (y_stop, x_stop) = region.start, region.stop
    pixels = np.empty((planes, contiguous, *region.shape), dtype_of(page))
    for plane in range(planes):
        for i in range(y_start // high, -(-y_stop // high)):
            for j in range(x_start // wide, -(-x_stop // wide)):
                top, left = i * high, j * wide
                index = (plane * down + i) * across + j
                if segments.counts[index]:
                    rows = high if page.is_tiled else min(high, y - top)
                    values = _decode(page, segments, file, index, rows)
                else:
                    values = np.full((high, wide, contiguous), page.nodata, pixels.dtype)
                if values.shape[0] < min(high, y - top) or values.shape[1] < min(wide, x - left):
                    raise SourceUnreadable("corrupt", "a strip or tile has too few pixels")
                y0, x0 = max(top, y_start), max(left, x_start)
                y1, x1 = min(top + high, y_stop), min(left + wide, x_stop)
                part = values[y0 - top : y1 - top, x0 - left : x1 - left]
                to_y, to_x = slice(y0 - y_start, y1 - y_start), slice(x0 - x_start, x1 - x_start)
                pixels[plane, :, to_y, to_x] = np.moveaxis(part, -1, 0)
    return pixels.reshape(-1, *region.shape)


def _decode(
    page: tifffile.TiffPage, segments: Segments, file: BinaryIO, index: int, rows: int
) -> NDArray[Any]:
    """Return a strip or tile as (y, x, c); at the page's edge it may be larger than its part.

    ``rows`` is the expected number, which fax does not state.
    """
    content = read_at(file, int(segments.offsets[index]), int(segments.counts[index]))
    if page.compression in FAX:
        options = page.tags.valueof(292, default=0)
        backwards = page.fillorder == 2
        shape = rows, segments.size[1]
        bits = decode_fax(content, shape, page.compression, options, reversed_bits=backwards)
        return bits.view(bool)[..., np.newaxis]
    if page.jpegheader is None:  # NDPI has one for all its tiles, checked by tifffile
        check_embedded(page.compression, content, segments.size, page.shaped[4])
    values: Any = page.decode(
        content, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader
    )[0]
    if values.dtype != page.dtype:
        raise SourceUnreadable("corrupt", "a strip or tile is of another depth than its page")
    decoded: NDArray[Any] = values[0]
    return decoded


def finish_values(page: tifffile.TiffPage, pixels: NDArray[Any], *, palette: bool) -> NDArray[Any]:
    """Apply palette or profile, scale one bit to 0 and 255, and invert white as zero."""
    if palette:
        return read_palette(page)[:, pixels[0].view(np.uint8)]
    if is_inks(page):
        return rgb_of_inks(pixels, profile_of(page))
    bits = page.bitspersample
    if bits == 1:
        pixels = pixels.view(np.uint8) * np.uint8(255)
    if is_inverted(page) and pixels.dtype.kind == "u":
        largest = 255 if bits == 1 else 2**bits - 1
        # Alpha is a pixel's coverage, independent of the value of white.
        values = pixels[:1] if len(pixels) > 1 and _alpha_of(page) in _ALPHA else pixels
        np.subtract(pixels.dtype.type(largest), values, out=values)
    return pixels


def read_palette(page: tifffile.TiffPage) -> NDArray[np.uint8]:
    """Return a page's colour map: (3, 2**bits), uint8 (section 5)."""
    table = np.asarray(page.tags.valueof(320))
    entries = 2**page.bitspersample
    if table.dtype.kind != "u" or table.ndim != 2 or table.shape[1] < entries:
        raise SourceUnreadable("corrupt", "the palette is missing or too short")
    # Old writers store 8 bit values in the 16 bit fields; libtiff detects them in the same way.
    wide = table[:, :entries].astype(np.uint32)
    return (wide if int(wide.max()) < 256 else wide >> 8).astype(np.uint8)
