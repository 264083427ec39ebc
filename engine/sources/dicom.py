"""DICOM (PS3.3, PS3.5, PS3.10): single and multi-frame, read by pydicom, GDCM and OpenJPEG.

Frames are images; their places in a series are found later, from all of its files. Pixels are those
that pydicom gives: stored values, YBR as RGB, bits of overlays left out. MONOCHROME1 is not
inverted, rescale is not applied (both stand in the header's facts); PALETTE COLOR becomes RGB.
Objects that are no images (reports, contours, directories) are ``no_pixels``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, BinaryIO

from numpy.typing import NDArray
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID

from engine.errors import SourceUnreadable
from engine.sources.base import (
    OpenSource,
    Plane,
    PlanesSource,
    channels_first,
    check_size,
    coded,
    read_at,
)
from engine.sources.dicom_file import (
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
from engine.sources.dicom_header import TAGS, numbers, read_headers, text, whole

MOST_FRAMES = 100_000
"""Frames of one file, at most; each has a row in the catalog."""

NO_IMAGES = (
    "1.2.840.10008.1.3.10",  # Media Storage Directory
    "1.2.840.10008.5.1.4.1.1.9.",  # waveforms
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.66",  # raw data, registrations, surfaces
    "1.2.840.10008.5.1.4.1.1.67",
    "1.2.840.10008.5.1.4.1.1.88.",  # reports
    "1.2.840.10008.5.1.4.1.1.104.",  # documents
    "1.2.840.10008.5.1.4.1.1.481.3",  # structure sets
    "1.2.840.10008.5.1.4.1.1.481.4",
    "1.2.840.10008.5.1.4.1.1.481.5",  # plans
    "1.2.840.10008.5.1.4.1.1.481.8",
    "1.2.840.10008.5.1.4.34.",
)
"""Beginnings of SOP classes that have no pixels. A file of any other one without is truncated."""

_FRAME_SPARE_BYTES = 1024**2
_BITS = {1: "uint8", 8: "int8", 16: "int16", 32: "int32", 64: "int64"}


class DicomSource(PlanesSource):
    """One DICOM file."""

    format = "DICOM"

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._dataset, self._file, self._size = read_dataset(file, limit, TAGS)
        little = bool(self._dataset.original_encoding[1])
        found = find_pixels(self._file, self._size, little=little)
        if found is None:
            raise _without_pixels(self._dataset)
        self._pixels = found
        self._syntax = _transfer_syntax(self._dataset, found)
        count = whole(self._dataset, "NumberOfFrames") or 1
        if not 0 < count <= MOST_FRAMES:
            raise SourceUnreadable("unsupported", f"{count} frames in a file")
        plane = _describe(self._dataset, found)
        check_size(plane.nbytes, limit)
        self._options = _options(self._dataset, found, self._syntax)
        self._frames = self._find_frames(count)
        super().__init__(
            tuple(
                replace(
                    plane,
                    fragment=f"#{n}" if count > 1 else "",
                    spacing_um=spacing,
                    header=replace(header, terms=(*header.terms, ("syntax", str(self._syntax)))),
                )
                for n, (header, spacing) in enumerate(read_headers(self._dataset, count))
            )
        )

    def _find_frames(self, count: int) -> list[list[tuple[int, int]]]:
        if not self._syntax.is_encapsulated:
            self._check_native(count)
            return []
        table = self._dataset.get("ExtendedOffsetTable")
        return find_frames(self._file, self._size, self._pixels.offset, count, table)

    def _decode(self, index: int) -> NDArray[Any]:
        options = dict(self._options)
        if self._syntax.is_encapsulated:
            source: Any = encapsulate([self._read_frame(index)], has_bot=False)
            options["number_of_frames"], index = 1, 0
        else:
            source = self._file
            source.seek(self._pixels.offset)
        decoder = get_decoder(self._syntax)
        try:
            pixels, _ = decoder.as_array(source, index=index, validate=True, **options)
        except (NotImplementedError, RuntimeError) as error:
            raise _undecoded(error) from None
        if options["photometric_interpretation"] == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, self._dataset)
        # Big-endian files give arrays of their own byte order.
        return channels_first(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))

    def _read_frame(self, index: int) -> bytes:
        fragments = self._frames[index]
        # Lossless coders add little to what they can't squeeze; run lengths multiply by up to 64.
        most = 2 * self.planes[index].nbytes + _FRAME_SPARE_BYTES
        if sum(length for _, length in fragments) > most:
            raise SourceUnreadable("corrupt", "a compressed frame is larger than twice its pixels")
        frame = b"".join(read_at(self._file, offset, length) for offset, length in fragments)
        check_codestream(frame, self._options["rows"], self._options["columns"])
        return frame

    def _check_native(self, count: int) -> None:
        """Refuse frames that the file does not hold, before the decoder reads past the end."""
        options = self._options
        samples = options["samples_per_pixel"]
        if options["photometric_interpretation"] == "YBR_FULL_422":
            samples = 2  # two luminances share their colours
        bits = options["rows"] * options["columns"] * samples * options["bits_allocated"]
        due = self._pixels.offset + bytes_due(bits * count)
        if due > self._size:
            raise SourceUnreadable("truncated", f"{due} bytes are due, {self._size} are there")
        length = self._pixels.length
        if length != UNDEFINED and due > self._pixels.offset + length:
            raise SourceUnreadable("corrupt", f"the pixels have {length} bytes, more are due")


class DicomReader:
    """Opens DICOM files."""

    def open(self, file: BinaryIO, *, max_decoded_bytes: int) -> OpenSource:
        """Read the header up to the pixels. Raises nothing but `SourceUnreadable`."""
        with coded("DICOM"):
            return DicomSource(file, max_decoded_bytes)


reader = DicomReader()


def _without_pixels(dataset: Dataset) -> SourceUnreadable:
    meta = getattr(dataset, "file_meta", Dataset())
    kind = text(dataset, "SOPClassUID") or text(meta, "MediaStorageSOPClassUID")
    if kind.startswith(NO_IMAGES):
        name = UID_dictionary[kind][0] if kind in UID_dictionary else "another kind of object"
        return SourceUnreadable("no_pixels", f"a DICOM object without pixels: {name}")
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
        raise SourceUnreadable("unsupported", "a transfer syntax that the standard does not have")
    syntax = UID(found)
    try:
        get_decoder(syntax)
    except NotImplementedError:
        raise SourceUnreadable("unsupported", f"the transfer syntax {found}") from None
    return syntax


def _options(dataset: Dataset, pixels: Pixels, syntax: UID) -> dict[str, Any]:
    options = as_pixel_options(dataset)
    options.pop("extended_offsets", None)  # frames are found here
    options["transfer_syntax_uid"] = syntax
    options["pixel_keyword"] = pixels.keyword
    if pixels.vr is not None:
        options["pixel_vr"] = pixels.vr
    return options


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
    """Name a decoder's failure; its text may quote the file."""
    kind = type(error).__name__
    if isinstance(error, NotImplementedError):
        return SourceUnreadable("unsupported", "no decoder for this variant")
    return SourceUnreadable("corrupt", f"the frame can't be decoded ({kind})")
