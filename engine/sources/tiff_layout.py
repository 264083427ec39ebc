"""What one page of a TIFF holds and where its strips or tiles lie: TIFF 6.0, sections 3 to 22.

Rules. 1 bit gives uint8 0 and 255; other depths keep the stored values (2-8 bit uint8, 9-16 bit
uint16). Unsigned integers stored with white as zero (PhotometricInterpretation 0) are inverted, so
that brighter is larger in every plane. Palettes of up to 8 bit become RGB (uint8), except in files
of ImageJ, where the palette is a display table and the indices are the measurement. YCbCr is read
where JPEG converts it. CMYK, CIELab, raw mosaics, complex numbers, mixed depths and volumes in one
page are ``unsupported``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.geometry import YX, Region
from engine.sources.tiff_ifd import Ifd

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
DESCRIPTION, STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS = 270, 273, 277, 278, 279
PLANAR, T4_OPTIONS, PREDICTOR, COLOUR_MAP = 284, 292, 317, 320
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
SAMPLE_FORMAT, JPEG_TABLES, DEPTH = 339, 347, 32997

NO_COMPRESSION, JPEG = 1, 7
CCITT = (2, 3, 4)
JPEG2000 = (33003, 33005, 34712)
COMPRESSIONS = frozenset(
    (NO_COMPRESSION, *CCITT, 5, JPEG, 8, 32946, 32773, *JPEG2000, 34925, 34926, 50000)
)
"""Compressions decoded: none, CCITT, LZW, JPEG, Deflate, PackBits, JPEG 2000, LZMA, Zstandard."""

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, YCBCR = 0, 1, 2, 3, 4, 6

STREAM_SEGMENT_BYTES = 128 * 1024**2
"""Largest strip or tile, bytes decoded, of a plane that streams; one is held at a time."""

_SPLIT_BYTES = 1024**2  # uncompressed strips are cut into pieces of rows of about this size
_MAX_SIDE = 2**31 - 1
_MAX_SAMPLES = 4096  # hyperspectral pages have hundreds
# Worst cases: LZW 1.5 times, PackBits 1.01 times; a count beyond this is damage, not data.
_MAX_GROWTH, _GROWTH_SPARE_BYTES = 4, 1024**2

_FLOATS = {16: "float16", 32: "float32", 64: "float64"}


@dataclass(frozen=True, slots=True)
class Layout:
    """A page, known from its fields.

    Attributes
    ----------
    yx
        Size, pixels.
    samples, planar
        Values a pixel, and whether each lies in segments of its own (PlanarConfiguration 2).
    bits, dtype
        Stored depth of a value, bits, and the numpy type that holds it.
    segment
        Size of a strip or tile (y, x), pixels; edge tiles are stored whole, the last strip is not.
    split
        Whether an uncompressed strip is addressed in pieces of rows.
    """

    yx: YX
    samples: int
    planar: bool
    bits: int
    dtype: str
    compression: int
    photometric: int
    predictor: int
    reversed_bits: bool
    tiled: bool
    segment: YX
    split: bool
    palette: bool

    @property
    def grid(self) -> YX:
        """Number of segments (down, across) of one separate sample, or of the page."""
        return -(-self.yx[0] // self.segment[0]), -(-self.yx[1] // self.segment[1])

    @property
    def segments(self) -> int:
        """Number of segments of the page."""
        return math.prod(self.grid) * (self.samples if self.planar else 1)

    @property
    def contiguous(self) -> int:
        """Values of a pixel that lie beside each other in a segment."""
        return 1 if self.planar else self.samples

    @property
    def channels(self) -> int:
        """Channels of the image that the page gives."""
        return 3 if self.palette else self.samples

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a segment, as stored; rows begin at whole bytes."""
        return (self.segment[1] * self.contiguous * self.bits + 7) // 8

    @property
    def segment_bytes(self) -> int:
        """Bytes of one decoded segment, as numpy holds it."""
        return math.prod(self.segment) * self.contiguous * np.dtype(self.dtype).itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes that the page takes in the file, at least, where it is not compressed."""
        if self.compression != NO_COMPRESSION:
            return 0
        rows = self.grid[0] * self.segment[0] * self.grid[1] if self.tiled else self.yx[0]
        return rows * self.row_bytes * (self.samples if self.planar else 1)

    @property
    def result_dtype(self) -> str:
        """Name of the numpy type of the plane's values."""
        return "uint8" if self.palette else self.dtype

    def rows_of(self, down: int) -> int:
        """Rows of the ``down``-th segment: strips end with the page, tiles do not."""
        if self.tiled:
            return self.segment[0]
        return min(self.segment[0], self.yx[0] - down * self.segment[0])

    def region_of(self, down: int, across: int) -> Region:
        """Part of the page that a segment fills."""
        y, x = down * self.segment[0], across * self.segment[1]
        return Region(
            (y, x), (min(y + self.segment[0], self.yx[0]), min(x + self.segment[1], self.yx[1]))
        )


def read_layout(ifd: Ifd, *, imagej: bool = False) -> Layout:
    """Read what a page holds.

    Parameters
    ----------
    ifd
        The page's directory.
    imagej
        Whether ImageJ wrote the file: its palettes are display tables.

    Raises
    ------
    SourceUnreadable
        ``corrupt``, ``truncated`` or ``unsupported``.
    """
    yx = ifd.number(LENGTH), ifd.number(WIDTH)
    samples = ifd.number(SAMPLES, 1)
    planar = ifd.number(PLANAR, 1)
    if not (0 < min(yx) <= max(yx) <= _MAX_SIDE and 0 < samples <= _MAX_SAMPLES):
        raise SourceUnreadable("corrupt", f"a page of {yx} pixels with {samples} samples")
    if planar not in (1, 2):
        raise SourceUnreadable("corrupt", f"planar configuration {planar}")
    if ifd.number(DEPTH, 1) != 1:
        raise SourceUnreadable("unsupported", "a page that is a volume (ImageDepth)")
    bits = _one_of_all(ifd, BITS, samples, 1)
    dtype = _name_dtype(_one_of_all(ifd, SAMPLE_FORMAT, samples, 1), bits)
    compression = ifd.number(COMPRESSION, NO_COMPRESSION)
    if compression not in COMPRESSIONS:
        raise SourceUnreadable("unsupported", f"compression {compression}")
    photometric = ifd.number(PHOTOMETRIC, BLACK_IS_ZERO)
    _check_colour(photometric, compression, samples, bits)
    _check_coding(compression, samples, bits, dtype)
    tiled = TILE_WIDTH in ifd.fields
    split = False
    if tiled:
        segment = ifd.number(TILE_LENGTH), ifd.number(TILE_WIDTH)
    else:
        segment = min(ifd.number(ROWS_PER_STRIP, yx[0]), yx[0]), yx[1]
        row_bytes = yx[1] * (1 if planar == 2 else samples) * bits // 8
        split = compression == NO_COMPRESSION and segment[0] * row_bytes > 2 * _SPLIT_BYTES
    if not 0 < min(segment) <= max(segment) <= _MAX_SIDE:
        raise SourceUnreadable("corrupt", f"strips or tiles of {segment} pixels")
    predictor = ifd.number(PREDICTOR, 1)
    _check_predictor(predictor, compression, bits, dtype)
    return Layout(
        yx=yx,
        samples=samples,
        planar=planar == 2 and samples > 1,
        bits=bits,
        dtype=dtype,
        compression=compression,
        photometric=photometric,
        predictor=1 if compression in (JPEG, *CCITT, *JPEG2000) else predictor,
        reversed_bits=ifd.number(FILL_ORDER, 1) == 2,
        tiled=tiled,
        segment=segment,
        split=split,
        palette=photometric == PALETTE and not imagej,
    )


def check_lists(ifd: Ifd, layout: Layout) -> None:
    """Refuse a page that claims more strips or tiles than it lists, without reading the lists.

    Raises
    ------
    SourceUnreadable
        ``corrupt``. So a few bytes can't claim a plane of tera-pixels that then streams for ever.
    """
    listed = [ifd.fields[tag][1] for tag in (TILE_OFFSETS, STRIP_OFFSETS) if tag in ifd.fields]
    if not listed or listed[0] < layout.segments:
        raise SourceUnreadable("corrupt", f"{layout.segments} strips or tiles are not listed")


@dataclass(frozen=True, slots=True)
class Segments:
    """Offsets and byte counts of a page's strips or tiles, in the file's order."""

    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]


def read_segments(ifd: Ifd, layout: Layout, shift: int = 0) -> Segments:
    """Read where the segments lie, ``shift`` bytes on, and that each one is in the file.

    Raises
    ------
    SourceUnreadable
        ``truncated`` if one lies behind the end; ``corrupt`` if one is missing (offset or count of
        zero) or the lists are too short.
    """
    due = layout.segments
    offsets = _read_list(ifd, (TILE_OFFSETS, STRIP_OFFSETS), due)
    if offsets is None:
        raise SourceUnreadable("corrupt", "the page has no list of strips or tiles")
    counts = _read_list(ifd, (TILE_COUNTS, STRIP_COUNTS), due)
    stored = layout.segment[0] * layout.row_bytes
    if layout.compression == NO_COMPRESSION:
        # The stored size is known, and some writers give none, or that of the whole file.
        rows = np.full(layout.grid[0], layout.segment[0], np.int64)
        rows[-1] = layout.rows_of(layout.grid[0] - 1)
        known = np.resize(np.repeat(rows * layout.row_bytes, layout.grid[1]), due)
        if counts is not None and (counts < known).any():
            raise SourceUnreadable("truncated", "a strip or tile is shorter than its pixels")
        counts = known
    if counts is None:
        raise SourceUnreadable("corrupt", "the page has no list of byte counts")
    if (offsets <= 0).any() or (counts <= 0).any():
        raise SourceUnreadable("corrupt", "a strip or tile is missing")
    offsets = offsets + shift
    if int((offsets + counts).max()) > ifd.tiff.size:
        raise SourceUnreadable("truncated", "a strip or tile lies behind the end of the file")
    if int(counts.max()) > _MAX_GROWTH * stored + _GROWTH_SPARE_BYTES:
        raise SourceUnreadable("corrupt", "a strip or tile is longer than any coding makes it")
    return Segments(offsets, counts)


def _read_list(ifd: Ifd, tags: tuple[int, ...], due: int) -> NDArray[np.int64] | None:
    for tag in tags:
        if tag not in ifd.fields:
            continue
        values = ifd.numbers(tag, due)
        if values is None or values.ndim != 1 or values.dtype.kind != "u" or len(values) < due:
            raise SourceUnreadable("corrupt", f"a list of {due} strips or tiles is too short")
        # Values past 2**63 wrap to negative ones, which are refused as missing.
        return values.astype(np.int64)
    return None


def _one_of_all(ifd: Ifd, tag: int, samples: int, default: int) -> int:
    values = ifd.numbers(tag, samples)
    if values is None:
        return default
    if values.ndim != 1 or values.dtype.kind != "u":
        raise SourceUnreadable("corrupt", f"TIFF field {tag} is not a whole number")
    if (values != values[0]).any():
        raise SourceUnreadable("unsupported", "samples of different depth or format")
    return int(values[0])


def _name_dtype(form: int, bits: int) -> str:
    """Section 19 (SampleFormat): 1 unsigned, 2 signed, 3 float, 4 undefined (as unsigned)."""
    if form in (1, 4) and (0 < bits <= 16 or bits in (32, 64)):
        return "uint8" if bits <= 8 else f"uint{1 << (bits - 1).bit_length()}"
    if form == 2 and bits in (8, 16, 32, 64):
        return f"int{bits}"
    if form == 3 and bits in _FLOATS:
        return _FLOATS[bits]
    raise SourceUnreadable("unsupported", f"sample format {form} with {bits} bits")


def _check_colour(photometric: int, compression: int, samples: int, bits: int) -> None:
    if photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, MASK):
        return
    if photometric == RGB and samples >= 3:
        return
    if photometric == PALETTE and samples == 1 and bits <= 8:
        return
    if photometric == YCBCR and samples == 3 and compression in (JPEG, *JPEG2000):
        return
    raise SourceUnreadable(
        "unsupported", f"photometric interpretation {photometric} with {samples} samples"
    )


def _check_coding(compression: int, samples: int, bits: int, dtype: str) -> None:
    possible = True
    if compression in CCITT:
        possible = (samples, bits) == (1, 1)
    elif compression == JPEG:
        possible = bits in (8, 12) and dtype in ("uint8", "uint16") and samples in (1, 3)
    elif compression in JPEG2000:
        possible = 8 <= bits <= 16 and dtype in ("uint8", "uint16") and samples in (1, 3)
    if not possible:
        raise SourceUnreadable(
            "unsupported", f"compression {compression} of {samples} samples with {bits} bits"
        )


def _check_predictor(predictor: int, compression: int, bits: int, dtype: str) -> None:
    if predictor == 1 or compression in (JPEG, *CCITT, *JPEG2000):
        return
    whole = bits in (8, 16, 32, 64)
    if (predictor == 2 and whole) or (predictor == 3 and dtype.startswith("float")):
        return
    raise SourceUnreadable("unsupported", f"predictor {predictor} of {dtype} with {bits} bits")
