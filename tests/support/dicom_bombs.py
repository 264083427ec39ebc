"""Small DICOM files that declare, or inflate to, large sizes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from tests.support.dicom import make

MIB = 1024**2


def _written(**tags: object) -> bytes:
    out = io.BytesIO()
    made = make(np.zeros((64, 64), np.uint8), **tags)
    made.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _deflated(before: bytes, count: int, after: bytes) -> bytes:
    """Return a file with a deflated data set that has many zeros in the middle."""
    plain = _written(syntax=ExplicitVRLittleEndian)
    syntax = b"1.2.840.10008.1.2.1.99"
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(syntax)) + syntax
    meta = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta)) + meta
    start = plain.index(b"\x08\0\x16\0")
    squeeze = zlib.compressobj(9, wbits=-15)
    parts = [squeeze.compress(plain[start:-4108] + before), squeeze.flush(zlib.Z_FULL_FLUSH)]
    # After a full flush each MiB of zeros is deflated to the same bytes.
    parts += [squeeze.compress(bytes(MIB)) + squeeze.flush(zlib.Z_FULL_FLUSH)] * (count // MIB)
    return (
        bytes(128) + b"DICM" + meta + b"".join([*parts, squeeze.compress(after), squeeze.flush()])
    )


def _deflated_pixels() -> bytes:
    return _deflated(struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 2000 * MIB), 2000 * MIB, b"")


def _deflated_header() -> bytes:
    note = struct.pack("<HH2sHL", 0x29, 0x1010, b"OB", 0, 2000 * MIB)
    return _deflated(note, 2000 * MIB, b"")


def _huge_codestream(kind: str) -> bytes:
    """Return 64 x 64 by the header, with a codestream that declares 60,000 x 60,000."""
    import imagecodecs

    if kind == "jpeg":
        content = bytearray(imagecodecs.jpeg8_encode(np.zeros((64, 64), np.uint8)))
        struct.pack_into(">HH", content, content.index(b"\xff\xc0") + 5, 60_000, 60_000)
        syntax = JPEGBaseline8Bit
    else:
        plane = np.zeros((64, 64), np.uint8)
        content = bytearray(imagecodecs.jpeg2k_encode(plane, codecformat="j2k"))
        struct.pack_into(">II", content, content.index(b"\xff\x51") + 6, 60_000, 60_000)
        syntax = JPEG2000Lossless
    return _written(syntax=syntax, PixelData=encapsulate([bytes(content)]))


def _run_lengths() -> bytes:
    """Return a frame of 64 x 64 with run lengths that unpack to 640 MiB."""
    head = struct.pack("<16L", 1, 64, *[0] * 14)
    frame = head + b"\x81\0" * (5 * MIB)
    return _written(syntax=RLELossless, PixelData=encapsulate([frame]))


def _nested() -> bytes:
    """Return a header of sequences within sequences, 20,000 deep."""
    start = struct.pack("<HH2sHL", 0x5200, 0x9229, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    plain = _written()
    at = plain.index(struct.pack("<HH", 0x7FE0, 0x10))
    return plain[:at] + (start + item) * 20_000 + plain[at:]


def _long_value() -> bytes:
    """Return a PatientID of 65 MiB, sparse on disk."""
    head = bytearray(_written()[:132])
    return bytes(head) + struct.pack("<HH2sHL", 0x10, 0x20, b"UT", 0, 65 * MIB) + bytes(65 * MIB)


DICOM_BOMBS: dict[str, tuple[Callable[[], bytes], set[str], int]] = {
    "dicom deflated pixels of 2 GB": (_deflated_pixels, {"too_large"}, 20),
    "dicom deflated header of 2 GB": (_deflated_header, {"too_large"}, 20),
    "dicom 65535 x 65535": (
        lambda: _written(Rows=65535, Columns=65535),
        {"too_large"},
        20,
    ),
    "dicom 2 billion frames": (lambda: _written(NumberOfFrames=2**31 - 1), {"unsupported"}, 20),
    "dicom 90000 frames": (
        lambda: _written(NumberOfFrames=90_000),
        {"truncated", "corrupt"},
        20,
    ),
    "dicom holds a huge jpeg": (lambda: _huge_codestream("jpeg"), {"corrupt"}, 20),
    "dicom holds a huge jpeg 2000": (lambda: _huge_codestream("j2k"), {"corrupt"}, 20),
    "dicom run lengths": (_run_lengths, {"corrupt"}, 20),
    "dicom nested sequences": (_nested, {"corrupt"}, 60),
    "dicom value of 65 MiB": (_long_value, {"too_large"}, 20),
}
"""Name to (file, allowed outcomes, growth allowed in MiB)."""
