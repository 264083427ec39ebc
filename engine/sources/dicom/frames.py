"""Frames of a DICOM file, each decoded separately (PS3.3, C.7.6.3; PS3.5, A.4)."""

from __future__ import annotations

import math
import re
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID, JPEGExtended12Bit

from engine.errors import SourceUnreadable
from engine.sources.base import Plane, channels_first, check_size, read_at
from engine.sources.dicom.codecs import add_plugin
from engine.sources.dicom.header import TAGS
from engine.sources.dicom.structure import (
    BIG,
    EXPLICIT,
    IMPLICIT,
    UNDEFINED,
    Pixels,
    bytes_due,
    check_codestream,
    find_frames,
    find_pixels,
    read_dataset,
)
from engine.sources.dicom.values import numbers, text, whole

MOST_FRAMES = 1_000_000
"""Maximum number of frames in one file."""

_IMAGES = re.compile(
    r"Image Storage|(?<!Surface )Segmentation Storage|Volume (Analysis )?Storage|Map Storage"
    r"|Dose Storage|AIT Storage"
)
"""Names of the SOP classes with pixels (PS3.4, B.5); all others are not images."""

_FRAME_SPARE_BYTES = 1024**2
_BITS = {1: "uint8", 8: "int8", 16: "int16", 32: "int32", 64: "int64"}

add_plugin()


class Frames:
    """Header of a file, and its frames.

    Attributes
    ----------
    dataset
        Header elements in the allow-list.
    count
        Number of frames.
    plane
        Shape (c, y, x) and type of each frame.
    syntax
        Transfer syntax of the pixels.
    """

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.dataset, self._file, self._size = read_dataset(file, limit, TAGS)
        little = bool(self.dataset.original_encoding[1])
        found = find_pixels(self._file, self._size, little=little)
        if found is None:
            raise _without_pixels(self.dataset)
        self._pixels = found
        self.syntax = _transfer_syntax(self.dataset, found)
        self.count = whole(self.dataset, "NumberOfFrames") or 1
        if not 0 < self.count <= MOST_FRAMES:
            raise SourceUnreadable("unsupported", f"{self.count} frames in a file")
        self.plane = _describe(self.dataset, found)
        check_size(self.plane.nbytes, limit)
        self._options = _options(self.dataset, found, self.syntax)
        self._shift = _shift(self.dataset, self.syntax)
        if self._shift:
            self._options["bits_stored"] += self._shift
        self._frames: list[list[tuple[int, int]]] | None = None

    def find(self) -> list[list[tuple[int, int]]]:
        """Return the fragments of each frame, none if uncompressed; refuse a truncated file.

        Frames are located once, at the latest for the first decoding.
        """
        if self._frames is None:
            if self.syntax.is_encapsulated:
                table = self.dataset.get("ExtendedOffsetTable")
                self._frames = find_frames(
                    self._file, self._size, self._pixels.offset, self.count, table
                )
            else:
                self._check_native(self.count)
                self._frames = []
        return self._frames

    def decode(self, index: int) -> NDArray[Any]:
        """Return a frame, (c, y, x)."""
        options = dict(self._options)
        self.find()
        if options["bits_allocated"] == 1 and self.syntax in (IMPLICIT, EXPLICIT):
            return self._read_bits(index)
        if self.syntax.is_encapsulated:
            source: Any = encapsulate([self._read_frame(index)], has_bot=False)
            options["number_of_frames"], index = 1, 0
        else:
            source = self._file
            source.seek(self._pixels.offset)
        decoder = get_decoder(self.syntax)
        try:
            pixels, _ = decoder.as_array(source, index=index, validate=True, **options)
        except (NotImplementedError, RuntimeError) as error:
            raise _undecoded(error) from None
        if self._shift:
            pixels = pixels >> self._shift
        if options["photometric_interpretation"] == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, self.dataset)
        # Arrays of big-endian files have their own byte order.
        return channels_first(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))

    def _read_bits(self, index: int) -> NDArray[Any]:
        """Return a frame of single bits, which may begin and end within a byte (PS3.5, 8.1.1)."""
        count = math.prod(self.plane.shape)
        first, offset = divmod(index * count, 8)
        packed = read_at(self._file, self._pixels.offset + first, bytes_due(offset + count))
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
        return bits[offset : offset + count].reshape(self.plane.shape)

    def _read_frame(self, index: int) -> bytes:
        fragments = self.find()[index]
        # Lossless coders add little to incompressible data; run lengths expand by up to 64.
        most = 2 * self.plane.nbytes + _FRAME_SPARE_BYTES
        if sum(length for _, length in fragments) > most:
            raise SourceUnreadable("corrupt", "a compressed frame is larger than twice its pixels")
        frame = b"".join(read_at(self._file, offset, length) for offset, length in fragments)
        check_codestream(frame, self._options["rows"], self._options["columns"])
        return frame

    def _check_native(self, count: int) -> None:
        """Refuse frames beyond the end of the file, before the decoder reads past it."""
        options = self._options
        samples = options["samples_per_pixel"]
        if options["photometric_interpretation"] == "YBR_FULL_422":
            samples = 2  # pairs of luminances share their colours
        bits = options["rows"] * options["columns"] * samples * options["bits_allocated"]
        due = self._pixels.offset + bytes_due(bits * count)
        if due > self._size:
            raise SourceUnreadable("truncated", f"{due} bytes expected, {self._size} found")
        length = self._pixels.length
        if length != UNDEFINED and due > self._pixels.offset + length:
            raise SourceUnreadable("corrupt", f"the pixels have {length} bytes, more are expected")


def _without_pixels(dataset: Dataset) -> SourceUnreadable:
    """Return the error of a file without pixels: another kind of object, truncated, or remote."""
    meta = getattr(dataset, "file_meta", Dataset())
    kind = text(dataset, "SOPClassUID") or text(meta, "MediaStorageSOPClassUID")
    if kind in UID_dictionary:
        name = UID_dictionary[kind][0]
        of_pixels = not name or _IMAGES.search(name) is not None  # some retired ones have no name
    else:
        name, of_pixels = "another kind of object", not kind or "Rows" in dataset
    if not of_pixels:
        return SourceUnreadable("no_pixels", f"a DICOM object without pixels: {name}")
    if "PixelDataProviderURL" in dataset:
        return SourceUnreadable("unsupported", "the pixels are on a server (JPIP), not in the file")
    return SourceUnreadable("truncated", "the file ends before its pixels")


def _transfer_syntax(dataset: Dataset, pixels: Pixels) -> UID:
    found = text(getattr(dataset, "file_meta", Dataset()), "TransferSyntaxUID")
    implicit, little = dataset.original_encoding
    native = IMPLICIT if implicit else EXPLICIT if little else BIG
    if not found:
        if pixels.length == UNDEFINED:
            raise SourceUnreadable("corrupt", "compressed, but the transfer syntax is missing")
        return UID(native)
    if found not in UID_dictionary:
        raise SourceUnreadable("unsupported", "a transfer syntax that is not known here")
    syntax = UID(found)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise SourceUnreadable(
            "unsupported", f"the transfer syntax {found}, {syntax.name}"
        ) from None
    if not decoder.is_available:
        raise SourceUnreadable("not_installed", f"no decoder for {found}, {syntax.name}")
    samples, bits = whole(dataset, "SamplesPerPixel") or 1, whole(dataset, "BitsStored") or 8
    if syntax == JPEGExtended12Bit and samples > 1 and bits > 8:  # not in PS3.5, 8.2.1
        raise SourceUnreadable("unsupported", "JPEG in colours of more than 8 bits")
    return syntax


def _options(dataset: Dataset, pixels: Pixels, syntax: UID) -> dict[str, Any]:
    options = as_pixel_options(dataset)
    options.pop("extended_offsets", None)  # the engine finds frames itself
    options["transfer_syntax_uid"] = syntax
    options["pixel_keyword"] = pixels.keyword
    if pixels.vr is not None:
        options["pixel_vr"] = pixels.vr
    return options


def _shift(dataset: Dataset, syntax: UID) -> int:
    """Return the number of bits below those of a value, by HighBit (PS3.5, 8.1.1).

    Codestreams have no such bits, even if the header states them.
    """
    allocated, stored, high = (
        whole(dataset, name) or 0 for name in ("BitsAllocated", "BitsStored", "HighBit")
    )
    if syntax.is_encapsulated or not 0 < stored <= high < allocated:
        return 0
    return high + 1 - stored


def _describe(dataset: Dataset, pixels: Pixels) -> Plane:
    sides = whole(dataset, "Rows"), whole(dataset, "Columns")
    rows, columns = (side or 0 for side in sides)
    samples = whole(dataset, "SamplesPerPixel") or 0
    bits = whole(dataset, "BitsAllocated") or 0
    if min(rows, columns, samples, bits) <= 0:
        raise SourceUnreadable("truncated", "Rows, Columns, samples or bits are not given")
    if samples not in (1, 3):
        raise SourceUnreadable("unsupported", f"{samples} samples a pixel")
    if text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        described = numbers(dataset, "RedPaletteColorLookupTableDescriptor")
        if described is None or len(described) != 3:
            raise SourceUnreadable("corrupt", "the palette is not described")
        return Plane("", (3, rows, columns), "uint8" if described[2] <= 8 else "uint16")
    if pixels.keyword != "PixelData":
        return Plane("", (samples, rows, columns), f"float{bits}")
    if bits not in _BITS:
        raise SourceUnreadable("unsupported", f"{bits} bits allocated")
    signed = bits > 1 and (whole(dataset, "PixelRepresentation") or 0) == 1
    dtype = _BITS[bits] if signed or bits == 1 else f"u{_BITS[bits]}"
    return Plane("", (samples, rows, columns), dtype)


def _undecoded(error: Exception) -> SourceUnreadable:
    """Return the error for a decoder's failure, without its text, which may quote the file."""
    kind = type(error).__name__
    if isinstance(error, NotImplementedError):
        return SourceUnreadable("unsupported", "no decoder for this variant")
    return SourceUnreadable("corrupt", f"the frame can't be decoded ({kind})")
