"""Checks around tifffile, which silently repairs broken files.

tifffile drops fields beyond the end of the file, ends the list of pages at a truncated one, reads
missing strips as zeros, and reports this at most in a log. Images would silently vanish or turn
black. It also follows circular chains of pages, and reads every list that a page claims before its
length can be checked, so the directories are checked first.

Sources: TIFF 6.0 (Adobe, 1992), section 2, and BigTIFF (Aware Systems).
"""

from __future__ import annotations

import io
import logging
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, BinaryIO

import tifffile

from engine.errors import SourceUnreadable
from engine.geometry import YX
from engine.sources.base import measure_file, read_at
from engine.sources.jpeg import parse_frame

JPEG = 7
JPEG2000 = (33005, 34712)

MAX_PAGES = 100_000
"""Maximum number of pages of one file; a longer chain counts as damage (opening takes 30 s at this
number)."""

_MAX_FIELDS = 4096  # of one page; tifffile's limit too
_MAX_VALUES = 4 * 1024**2  # of one list: tifffile converts them to Python numbers, 40 bytes each
_MAX_TEXT_BYTES = 64 * 1024**2  # OME-XML of a large plate has some ten megabytes
_SHARED_BYTES = 1024**2  # pages may point to the same values, but not to much of them

# Field type -> bytes of a value (section 2, "Types"; BigTIFF adds 16 to 18).
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_WHOLE = frozenset((3, 4, 8, 9, 13, 16, 17, 18))
# Fields that define a page: size, depth, coding, positions of the segments.
_NEEDED = frozenset((256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 317))
_NEEDED |= {320, 322, 323, 324, 325, 339, 32997}
# Further fields in use: without one of them a page would be read differently. 34412, 33628, 65420
# and the like identify vendors; 50838 and 50839 are ImageJ's.
_USED = _NEEDED | {254, 255, 270, 274, 282, 283, 296, 305, 332, 338, 347, 530, 531, 532, 700}
_USED |= {33628, 33629, 34118, 34361, 34412, 34675, 50838, 50839, 65420, 65426, 65432}
# Fields that tifffile reads when it opens the page; 700 (XMP) is read by the engine.
_LOADED = tifffile.TIFF.TAG_LOAD | {320, 700, 34675, 50838, 50839, 65426, 65432}
_STK_PLANES = 33629  # MetaMorph: its count is the number of planes after the first

# Warnings about values outside an enumeration, or invalid text: relevant fields are checked here.
# The standard advises to skip unknown types. Surplus strips are cut off.
_HARMLESS = re.compile(
    r"invalid data type|TiffTag \d+ @\d+> (raised|coercing)|incorrect Strip\w+ count|GDAL_NODATA"
    r"|imagej_metadata|read_uic1tag|LSM bitspersample|invalid self.subfiletype|ignoring predictor"
    r"|ndpi_jpeg_tile|missing (data )?ByteCounts|estimating ByteCounts"
)
_OF_FIELD = re.compile(r"TiffTag (\d+) @")
_LOG = logging.getLogger("tifffile")
_said: ContextVar[list[str] | None] = ContextVar("_said", default=None)


class StrictFile(io.RawIOBase):
    """Caller's file for tifffile: complete reads, recorded errors, no name, no handle.

    tifffile takes a failing read for the end of the list of pages. Without name and handle it can't
    open other files that the metadata name.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0
        self.size = measure_file(file)
        self.failure: OSError | SourceUnreadable | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position; the caller's file moves at the next read."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, except at the end of the file."""
        try:
            found = read_at(self._file, self._at, max(0, min(len(buffer), self.size - self._at)))
        except (OSError, SourceUnreadable) as error:
            self.failure = error
            raise
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def _filter(record: logging.LogRecord) -> bool:
    """Capture tifffile's messages within `capture_warnings`; let those of other users pass."""
    said = _said.get()
    if said is None:
        return True
    if record.levelno >= logging.WARNING:
        said.append(record.getMessage())
    return False


_LOG.addFilter(_filter)


@contextmanager
def capture_warnings(file: StrictFile) -> Iterator[None]:
    """Turn tifffile's warnings into an error, and hide them from the log.

    Raises
    ------
    SourceUnreadable
        ``corrupt`` if tifffile warned of anything but known harmless defects and unused fields.
    OSError
        The error that tifffile swallowed.
    """
    said: list[str] = []
    file.failure = None
    # The application's logging configuration may have disabled the library's logger.
    _LOG.disabled = False
    if _LOG.getEffectiveLevel() > logging.WARNING:
        _LOG.setLevel(logging.WARNING)
    token = _said.set(said)
    try:
        yield
    except Exception:
        if file.failure is not None:
            raise file.failure from None
        raise
    finally:
        _said.reset(token)
    if file.failure is not None:
        raise file.failure
    if not all(map(_is_harmless, said)):
        # The text may hold a piece of the file.
        raise SourceUnreadable("corrupt", "tifffile had to repair the file")


def _is_harmless(text: str) -> bool:
    field = _OF_FIELD.search(text)
    if field is not None and int(field.group(1)) not in _USED:
        return True
    return _HARMLESS.search(text) is not None


def check_directories(file: BinaryIO, size: int) -> int:
    """Follow the main chain of pages, before tifffile does, and return its length.

    Raises
    ------
    SourceUnreadable
        ``not_an_image``; ``truncated`` if a page or a field in use is beyond the end (others are
        skipped, as in libtiff); ``corrupt`` if the chain is circular, a page has absurdly many
        fields, a required field is not a number, or the fields together are larger than the file;
        ``unsupported`` for more pages or longer lists than any real file has.
    """
    order, big, offset = _read_header(file, size)
    number, entry, link = (
        (f"{order}Q", f"{order}HHQQ", 8) if big else (f"{order}H", f"{order}HHII", 4)
    )
    step, inline = struct.calcsize(entry), link
    seen: set[int] = set()
    held = 0
    while offset:
        if offset in seen:
            raise SourceUnreadable("corrupt", "the list of pages runs in a circle")
        if len(seen) == MAX_PAGES:
            raise SourceUnreadable("unsupported", f"more than {MAX_PAGES} pages")
        seen.add(offset)
        start = offset + struct.calcsize(number)
        (count,) = struct.unpack(number, _read_span(file, size, offset, start - offset))
        if not 0 < count <= _MAX_FIELDS:
            raise SourceUnreadable("corrupt", f"a page with {count} fields")
        content = _read_span(file, size, start, count * step + link)
        held += len(content)
        for tag, kind, values, at in struct.iter_unpack(entry, content[: count * step]):
            held += _check_field(
                tag, kind, values, at if values * _SIZES.get(kind, 0) > inline else 0, size
            )
        if held > size + _SHARED_BYTES:
            raise SourceUnreadable("corrupt", "the fields are larger than the file")
        offset = int.from_bytes(content[-link:], "little" if order == "<" else "big")
    if not seen:
        # A killed writer leaves the first offset unset, since it writes it when closing the file.
        raise SourceUnreadable("truncated", "the file was not closed by its writer: it has no page")
    return len(seen)


def _check_field(tag: int, kind: int, values: int, at: int, size: int) -> int:
    """Refuse an invalid field; return the bytes that tifffile will read for it."""
    nbytes = values * _SIZES.get(kind, 0)
    if tag in _NEEDED and (kind not in _WHOLE or values == 0):
        raise SourceUnreadable("corrupt", f"TIFF field {tag} has type {kind}, count {values}")
    if at + nbytes > size:
        if tag not in _USED:
            return 0
        raise SourceUnreadable("truncated", f"TIFF field {tag} is beyond the end of the file")
    if tag == _STK_PLANES and values > 1:
        raise SourceUnreadable("unsupported", "a MetaMorph stack (STK)")
    if tag not in _LOADED:
        return 0
    if nbytes > _MAX_TEXT_BYTES or (kind in _WHOLE and values > _MAX_VALUES):
        raise SourceUnreadable("unsupported", f"TIFF field {tag} has {nbytes} bytes")
    return nbytes


def _read_header(file: BinaryIO, size: int) -> tuple[str, bool, int]:
    """Return byte order, True for BigTIFF, and the first page's offset."""
    head = read_at(file, 0, min(size, 16))
    if head[:2] not in (b"II", b"MM"):
        raise SourceUnreadable("not_an_image", "the TIFF byte order is missing")
    order = "<" if head[:2] == b"II" else ">"
    version = struct.unpack(f"{order}H", head[2:4].ljust(2, b"\0"))[0]
    big = version == 43
    if len(head) < (16 if big else 8):
        raise SourceUnreadable("truncated", "the file ends within its header")
    if version not in (42, 43):
        raise SourceUnreadable("not_an_image", "the TIFF version is neither 42 nor 43")
    if big and struct.unpack_from(f"{order}HH", head, 4) != (8, 0):
        raise SourceUnreadable("corrupt", "a BigTIFF whose offsets do not have 8 bytes")
    return order, big, struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, 8 if big else 4)[0]


def _read_span(file: BinaryIO, size: int, offset: int, count: int) -> bytes:
    if offset + count > size:
        raise SourceUnreadable("truncated", f"{count} bytes expected at {offset} of {size}")
    return read_at(file, offset, count)


def check_embedded(compression: int, content: bytes, most: YX, samples: int) -> None:
    """Refuse a JPEG or JPEG 2000 segment that would decode to more than its strip or tile.

    tifffile limits the output of other codecs, but not of these.

    Raises
    ------
    SourceUnreadable
        ``corrupt``, or a reason of `parse_frame`.
    """
    if compression == JPEG:
        frame = parse_frame(content)
        found, held = frame.yx, frame.components
    elif compression in JPEG2000:
        # ISO/IEC 15444-1, A.5.1: SIZ follows the start of the codestream.
        start = content.find(b"\xff\x4f\xff\x51", 0, 4096)
        if start < 0 or len(content) < start + 42:
            raise SourceUnreadable("corrupt", "a strip or tile is not a JPEG 2000 codestream")
        x, y, x0, y0 = struct.unpack_from(">4I", content, start + 8)
        (held,) = struct.unpack_from(">H", content, start + 40)
        found = y - y0, x - x0
    else:
        return
    if not (0 < found[0] <= most[0] and 0 < found[1] <= most[1] and held <= samples):
        raise SourceUnreadable(
            "corrupt", f"a strip or tile is an image of {found}, {most} expected"
        )
