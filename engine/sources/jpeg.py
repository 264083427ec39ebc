"""JPEG reader: ITU-T T.81 (ISO/IEC 10918-1), decoded by libjpeg-turbo through imagecodecs.

libjpeg fills missing data with grey without a warning, so the reader follows the markers itself: a
file without an end marker (EOI) is truncated. JPEG has no checksum; flipped bits within a scan
can't be distinguished from pixels.

Rules: one or three components, 8 bit (uint8) or 12 bit (uint16, 0-4095). YCbCr becomes RGB, as JFIF
and Adobe's marker say. Four components are inks, of 8 bit; they become RGB by the file's profile or
by rule (`engine.sources.inks`). With Adobe's marker they are stored inverted, as Adobe's programs
do it; YCCK is first converted to CMYK. Lossless and hierarchical files are ``unsupported``. EXIF
orientation is reported, but not applied; pixels are as stored. Densities are for printing, so the
spacing is unknown.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import imagecodecs
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.geometry import YX
from engine.sources.base import (
    OpenSource,
    Plane,
    PlanesSource,
    channels_first,
    check_size,
    measure_file,
    read_at,
)
from engine.sources.failures import decoder_errors
from engine.sources.inks import cmyk_profile, finding_of, rgb_of_inks
from engine.sources.orientation import UPRIGHT, exif_orientation, findings_of

_HEADER_BYTES = 64 * 1024  # one read finds the frame header of nearly all files
_MAX_SEGMENTS = 10_000  # before the frame header; bounds the time of opening
_MAX_SCANS = 500  # each scan decodes the whole image again: libjpeg-turbo's fuzzers stop here too
_SPARE_BYTES = 64 * 1024**2  # profiles, thumbnails and EXIF besides the pixels
# Decoding a progressive file also holds its coefficients as int16 (T.81, G.1).
_PROGRESSIVE_FACTOR = 3

_SOF_DECODED = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))  # T.81, table B.1
_SOF_OTHER = frozenset((0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF))
_PROGRESSIVE = frozenset((0xC2, 0xCA))
_ALONE = frozenset((0x01, 0xD8, *range(0xD0, 0xD8)))  # markers without a length
_EOI, _SOS = 0xD9, 0xDA
# Segments without pixels: application data (APPn) and comments. Bytes between one with a wrong
# length and the next marker are skipped, as in libjpeg.
_BESIDE = frozenset((*range(0xE0, 0xF0), 0xFE))
_NEXT_MARKER = re.compile(rb"\xff[\xc0-\xfe]")
_EXIF, _ICC, _ADOBE = (0xE1, b"Exif\0\0"), (0xE2, b"ICC_PROFILE\0"), (0xEE, b"Adobe")
_INKS = 4  # components
# Within a scan 0xFF is followed by 0 (stuffing), a restart marker or more 0xFF (fill): B.1.1.2.
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)


class Frame(NamedTuple):
    """Frame header (SOF) of a JPEG."""

    yx: YX
    components: int
    bits: int
    progressive: bool


class JpegSource(PlanesSource):
    """Open JPEG file: one plane."""

    format = "JPEG"

    def __init__(self, file: BinaryIO, plane: Plane, size: int, inks: bool) -> None:
        super().__init__((plane,))
        self._file = file
        self._size = size
        self._inks = inks

    def _decode(self, index: int) -> NDArray[Any]:
        content = read_at(self._file, 0, self._size)
        check_scans(content)
        if self._inks:
            inks = channels_first(imagecodecs.jpeg8_decode(content, outcolorspace="CMYK"))
            inverted = any(True for _ in _payloads(content, _ADOBE))
            return rgb_of_inks(255 - inks if inverted else inks, _profile_of(content))
        return channels_first(imagecodecs.jpeg8_decode(content))


class JpegReader:
    """Reader of JPEG files."""

    def open(self, file: BinaryIO, *, max_decoded_bytes: int) -> OpenSource:
        """Read the frame header. Raises only `SourceUnreadable`."""
        with decoder_errors("JPEG"):
            size = measure_file(file)
            # Decoding reads the whole file, so the limit also applies to it.
            check_size(size, max_decoded_bytes + _SPARE_BYTES)
            head, frame = _read_frame(file, size)
            inks = frame.components == _INKS
            orientation = next(map(exif_orientation, _payloads(head, _EXIF)), UPRIGHT)
            findings = findings_of(orientation)
            if inks:  # its profile may come after the frame header
                findings += (finding_of(_profile_of(read_at(file, 0, size))),)
            plane = Plane(
                "",
                (3 if inks else frame.components, *frame.yx),
                "uint8" if frame.bits == 8 else "uint16",
                orientation=orientation,
                findings=findings,
            )
            nbytes = plane.nbytes // plane.shape[0] * frame.components
            check_size(
                nbytes * (_PROGRESSIVE_FACTOR if frame.progressive else 1), max_decoded_bytes
            )
            return JpegSource(file, plane, size, inks)


reader = JpegReader()


def parse_frame(content: bytes) -> Frame:
    """Return the frame header of a JPEG in memory, such as a strip or tile of a TIFF.

    Raises
    ------
    SourceUnreadable
        ``truncated``, ``corrupt`` or ``unsupported``.
    """
    offset, code = 2 if content[:2] == b"\xff\xd8" else 0, 0
    for _ in range(_MAX_SEGMENTS):
        code, offset, length = _next_segment(content, offset, code)
        if code in _SOF_DECODED:
            return _parse_sof(code, content[offset : offset + length - 2])
        _refuse(code)
        offset += length - 2
    raise SourceUnreadable("corrupt", "too many segments before the frame header")


def check_scans(content: bytes) -> None:
    """Follow the markers of a whole JPEG up to its end marker; later bytes are ignored.

    Raises
    ------
    SourceUnreadable
        ``truncated`` if the end marker is missing, ``corrupt`` if the markers are invalid.
    """
    offset, scans, code = 2, 0, 0
    while True:
        code, offset, length = _next_segment(content, offset, code)
        if code == _EOI:
            if scans == 0:
                raise SourceUnreadable("corrupt", "the end marker comes before any scan")
            return
        offset += max(length - 2, 0)
        if code == _SOS:
            scans += 1
            if scans > _MAX_SCANS:
                raise SourceUnreadable("unsupported", f"more than {_MAX_SCANS} scans")
            found = _MARKER_IN_SCAN.search(content, offset)
            if found is None:
                raise SourceUnreadable("truncated", "the end marker (EOI) is missing")
            offset = found.start()


def _next_segment(content: bytes, offset: int, before: int) -> tuple[int, int, int]:
    """Return (marker code, offset after its length field, length or 0 without one).

    ``before`` is the code of the segment that ends at ``offset``, or 0.
    """
    if before in _BESIDE:
        found = _NEXT_MARKER.search(content, offset)
        offset = len(content) if found is None else found.start()
    start = offset
    while offset < len(content) and content[offset] == 0xFF:
        offset += 1  # fill bytes may precede a marker
    if offset >= len(content):
        raise SourceUnreadable("truncated", "the file ends where a marker is expected")
    code = content[offset]
    if offset == start or code < 0xC0:
        if code == 0x01 and offset > start:
            return code, offset + 1, 0
        raise SourceUnreadable("corrupt", f"no marker at offset {start}")
    offset += 1
    if code == _EOI or code in _ALONE:
        return code, offset, 0
    if offset + 2 > len(content):
        raise SourceUnreadable("truncated", f"the segment at offset {start} is cut")
    (length,) = struct.unpack_from(">H", content, offset)
    if length < 2:
        raise SourceUnreadable("corrupt", f"the segment at offset {start} has no length")
    if offset + length > len(content):
        raise SourceUnreadable("truncated", f"the segment at offset {start} is cut")
    return code, offset + 2, length


def _payloads(content: bytes, segment: tuple[int, bytes]) -> Iterator[bytes]:
    """Yield the data after the mark of each segment of a kind, up to the pixels or the end."""
    wanted, mark = segment
    offset, code = 2, 0
    while True:
        try:
            code, offset, length = _next_segment(content, offset, code)
        except SourceUnreadable:
            return
        if code in (_SOS, _EOI):
            return
        payload = content[offset : offset + max(length - 2, 0)]
        if code == wanted and payload.startswith(mark):
            yield payload[len(mark) :]
        offset += max(length - 2, 0)


def _profile_of(content: bytes) -> bytes | None:
    """Return the colour profile of inks; its parts are numbered (ICC.1:2022, B.4)."""
    return cmyk_profile(b"".join(part[2:] for part in sorted(_payloads(content, _ICC))))


def _read_frame(file: BinaryIO, size: int) -> tuple[bytes, Frame]:
    """Return the beginning of the file, at least up to its frame header, and the frame header."""
    most = _HEADER_BYTES
    while True:
        head = read_at(file, 0, min(size, most))
        if not head.startswith(b"\xff\xd8\xff"):
            raise SourceUnreadable("not_an_image", "the JPEG start marker is missing")
        try:
            return head, parse_frame(head)
        except SourceUnreadable as error:
            # Metadata may take megabytes.
            if error.reason != "truncated" or most >= size:
                raise
        most *= 16


def _refuse(code: int) -> None:
    if code in _SOF_OTHER:
        raise SourceUnreadable("unsupported", "a lossless or hierarchical JPEG")
    if code in (_EOI, _SOS):
        raise SourceUnreadable("corrupt", "no frame header comes before the pixels")


def _parse_sof(code: int, data: bytes) -> Frame:
    if len(data) < 6:
        raise SourceUnreadable("truncated", "the frame header is cut")
    bits, y, x, components = struct.unpack_from(">BHHB", data)
    if x == 0 or y == 0:
        raise SourceUnreadable("unsupported", "the frame header leaves a side open (DNL)")
    if components not in (1, 3, _INKS):
        raise SourceUnreadable("unsupported", f"{components} components")
    if bits not in (8, 12) or (bits != 8 and components == _INKS):
        raise SourceUnreadable("unsupported", f"{bits} bits a sample")
    return Frame((y, x), components, bits, code in _PROGRESSIVE)
