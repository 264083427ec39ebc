"""Structure of a DICOM file (PS3.5, PS3.10): locate header, pixels and frames, within limits.

pydicom reads the header. The surrounding structure is parsed here, since files are untrusted: a
deflated file is inflated up to a limit before pydicom sees it, the header is read up to a limit,
and compressed frames are found by walking the items, with lengths checked against the file.
"""

from __future__ import annotations

import contextlib
import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

import pydicom
from pydicom import config
from pydicom.dataset import FileDataset

from engine.errors import SourceUnreadable
from engine.sources.base import check_size, measure_file, read_at, read_head

# pydicom quotes unparsable values, in warnings and in its log; files hold patient data.
config.settings.reading_validation_mode = config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
with contextlib.suppress(ImportError):  # GDCM writes directly to standard error
    import gdcm

    for _trace in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff, gdcm.Trace.DebugOff):
        _trace()
for _module in ("pydicom", r"engine\.sources\.dicom"):
    warnings.filterwarnings("ignore", module=_module)

HEADER_BYTES = 64 * 1024**2
"""Maximum size of everything before the pixels, bytes."""

INFLATED_BYTES = 128 * 1024**2
"""Maximum inflated size of a deflated file (PS3.5, A.5), which must be inflated as a whole,
bytes."""

DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"

UNDEFINED = 0xFFFFFFFF
"""Length of an element that ends with a delimiter: the pixels are encapsulated."""

_META_BYTES = 64 * 1024
_MOST_ITEMS = 1_000_000
_LONG = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN", b"SQ", b"UT", b"UC", b"UR", b"SV", b"UV")
_PIXELS = {0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData", 0x0010: "PixelData"}
_ITEM, _END = 0xE000, 0xE0DD


@dataclass(frozen=True, slots=True)
class Pixels:
    """Position of the pixels: the element, and its value in the file."""

    keyword: str
    vr: str | None
    offset: int
    length: int


class _Bounded:
    """File with a limited readable prefix; reading more is ``too_large``."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        """Read the available bytes, up to ``count``."""
        left = max(self._size - self._file.tell(), 0)
        wanted = left if count < 0 else min(count, left)
        check_size(wanted, HEADER_BYTES)
        return self._file.read(wanted)


def transfer_syntax_of(head: bytes) -> tuple[str, int]:
    """Return the transfer syntax from a file's meta information, and the end of the latter.

    Parameters
    ----------
    head
        First bytes of a file, with all of its group 2.

    Returns
    -------
    "" if the file has no meta information, or it names no transfer syntax.
    """
    if head[128:132] != b"DICM":
        return "", 0
    found, at = "", 132
    while at + 12 <= len(head):
        group, element, vr, length = struct.unpack_from("<HH2sH", head, at)
        if group != 2:
            break
        at += 8
        if vr in _LONG:
            (length,) = struct.unpack_from("<L", head, at)
            at += 4
        if element == 0x0010:
            found = head[at : at + length].rstrip(b"\0 ").decode("ascii", "replace")
        at += length
    return found, at


def inflate(file: BinaryIO, start: int, limit: int) -> BinaryIO:
    """Return a deflated file's data set as an inflated file, explicit little endian.

    A first pass only counts the size, so data that are too large take no memory.

    Raises
    ------
    SourceUnreadable
        ``too_large`` beyond ``limit`` or `INFLATED_BYTES`, ``truncated``, ``corrupt``.
    """
    most = min(limit, INFLATED_BYTES)
    uid = EXPLICIT.encode() + b"\0" * (len(EXPLICIT) % 2)
    meta = struct.pack("<HH2sH", 2, 0x10, b"UI", len(uid)) + uid
    meta = struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(meta)) + meta
    head = bytes(128) + b"DICM" + meta
    size = len(head)
    for piece in _inflated(file, start):
        size += len(piece)
        check_size(size, most)
    found = BytesIO()
    found.write(head)
    for piece in _inflated(file, start):
        found.write(piece)
    return found


def _inflated(file: BinaryIO, start: int) -> Iterator[bytes]:
    """Yield the inflated data from ``start`` on, in pieces of at most 1 MiB."""
    file.seek(start)
    squeezed = zlib.decompressobj(-zlib.MAX_WBITS)
    while not squeezed.eof:
        data = squeezed.unconsumed_tail or file.read(65_536)
        if not data:
            raise SourceUnreadable("truncated", "the deflated data end early")
        yield squeezed.decompress(data, 1024**2)


def read_dataset(file: BinaryIO, limit: int, tags: list[Any]) -> tuple[FileDataset, BinaryIO, int]:
    """Read the given elements of the header, but no pixels.

    Returns
    -------
    The data set; the file that holds the pixels (this one, or an inflated copy), positioned at the
    element of the pixels; and that file's size, bytes.
    """
    size = measure_file(file)
    syntax, start = transfer_syntax_of(read_head(file, _META_BYTES))
    if syntax == DEFLATED:
        file = inflate(file, start, limit)
        size = measure_file(file)
    file.seek(0)
    bounded: Any = _Bounded(file, size)
    try:
        dataset = pydicom.dcmread(bounded, stop_before_pixels=True, force=True, specific_tags=tags)
    except OSError as error:
        if error.errno is not None:
            raise
        # pydicom's own error for a broken structure; disk errors have an errno.
        raise SourceUnreadable("corrupt", "the header can't be followed") from None
    return dataset, file, size


def find_pixels(file: BinaryIO, size: int, *, little: bool) -> Pixels | None:
    """Return the position of the pixels, from a file at their element; None at its end."""
    start = file.tell()
    if start + 8 > size:
        return None
    head = read_at(file, start, min(12, size - start))
    order = "<" if little else ">"
    group, element = struct.unpack_from(f"{order}HH", head)
    if group != 0x7FE0 or element not in _PIXELS:
        return None
    vr = head[4:6]
    # The element itself decides, since some files change their encoding half-way.
    if vr not in _LONG:
        (length,) = struct.unpack_from(f"{order}L", head, 4)
        return Pixels(_PIXELS[element], None, start + 8, length)
    if len(head) < 12:
        return None
    (length,) = struct.unpack_from(f"{order}L", head, 8)
    return Pixels(_PIXELS[element], vr.decode("ascii", "replace"), start + 12, length)


def find_frames(
    file: BinaryIO, size: int, start: int, count: int, table: bytes | None
) -> list[list[tuple[int, int]]]:
    """Return the fragments, as (offset, length), of each frame of encapsulated pixels (PS3.5, A.4).

    Parameters
    ----------
    start
        Offset of the first item, the offset table.
    count
        Number of frames in the header.
    table
        Value of the Extended Offset Table, or None.

    Raises
    ------
    SourceUnreadable
        ``truncated``, or ``corrupt`` if fragments can't be assigned to frames.
    """
    items = _list_items(file, size, start)
    if not items:
        raise SourceUnreadable("truncated", "the file ends before its frames")
    (table_at, table_length), *fragments = items
    if count == 1:
        return [fragments]
    first = fragments[0][0] - 8 if fragments else 0
    offsets: list[int] = []
    if table is not None and len(table) == 8 * count:
        offsets = list(struct.unpack(f"<{count}Q", table))
    elif table_length == 4 * count:
        offsets = list(struct.unpack(f"<{count}L", read_at(file, table_at, table_length)))
    if offsets:
        starts = {first + offset: n for n, offset in enumerate(offsets)}
        frames: list[list[tuple[int, int]]] = [[] for _ in range(count)]
        if len(starts) < count:
            raise SourceUnreadable("corrupt", "the offset table has frames at one place")
        at = -1
        for offset, length in fragments:
            at = starts.get(offset - 8, at)
            if at < 0:
                raise SourceUnreadable("corrupt", "the offset table does not fit the frames")
            frames[at].append((offset, length))
        if not all(frames):
            raise SourceUnreadable("truncated", "the offset table has frames that are not there")
        return frames
    if len(fragments) < count:
        raise SourceUnreadable("truncated", f"{len(fragments)} frames found, {count} expected")
    if len(fragments) == count:
        return [[one] for one in fragments]
    frames = []
    for offset, length in fragments:
        begins = read_at(file, offset, min(2, length)) in (b"\xff\xd8", b"\xff\x4f", b"\0\0")
        if begins or not frames:
            frames.append([])
        frames[-1].append((offset, length))
    if len(frames) != count:
        raise SourceUnreadable("corrupt", f"{len(frames)} frames found, {count} expected")
    return frames


def _list_items(file: BinaryIO, size: int, start: int) -> list[tuple[int, int]]:
    items: list[tuple[int, int]] = []
    at = start
    while at + 8 <= size and len(items) < _MOST_ITEMS:
        group, element, length = struct.unpack("<HHL", read_at(file, at, 8))
        if group != 0xFFFE or element == _END:
            return items
        if element != _ITEM or length == UNDEFINED:
            raise SourceUnreadable("corrupt", "the frames are not items of known length")
        items.append((at + 8, length))
        at += 8 + length
    # A decoder silently fills the rest of a truncated frame with grey.
    raise SourceUnreadable("truncated", "the file ends before its last frame does")


def check_codestream(frame: bytes, rows: int, columns: int) -> None:
    """Refuse a compressed frame with another size in its own header than in the data set.

    A decoder allocates by the codestream's size, regardless of Rows and Columns.

    Raises
    ------
    SourceUnreadable
        ``corrupt``.
    """
    found = codestream_size(frame)
    if found is not None and found != (rows, columns):
        raise SourceUnreadable("corrupt", f"the codestream has {found}, the header {rows, columns}")


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Return (rows, columns) of a JPEG (T.81, T.87) or JPEG 2000 (T.800) codestream, or None.

    Examples
    --------
    >>> codestream_size(bytes.fromhex("ffd8ffc0000b080010002001011100"))
    (16, 32)
    """
    at = frame.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at >= 0 and len(frame) >= at + 24:
        x1, y1, x0, y0 = struct.unpack_from(">LLLL", frame, at + 8)
        return y1 - y0, x1 - x0
    if frame[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        starts = 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        if starts or marker == 0xF7:  # SOF of JPEG and of JPEG-LS
            rows, columns = struct.unpack_from(">HH", frame, at + 5)
            return rows, columns
        at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return None


def bytes_due(bits: float) -> int:
    """Return the number of whole bytes for a number of bits."""
    return math.ceil(bits / 8)
