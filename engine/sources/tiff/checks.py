"""What has to be checked around tifffile, which repairs what is broken.

tifffile drops fields that point behind the end of the file, ends the list of pages where the next
one is cut off, reads missing strips as zeros, and says so, if at all, in a log. All of that would
be images that silently vanish or turn black. It also follows circles of pages, and reads every list
that a page claims before anybody can ask for its length, so the skeleton is checked first.

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
"""Pages of one file; a longer chain is taken for damage (opening takes 30 s at this number)."""

_MAX_FIELDS = 4096  # of one page; tifffile's limit too
_MAX_VALUES = 4 * 1024**2  # of one list: tifffile makes them Python numbers, 40 bytes each
_MAX_TEXT_BYTES = 64 * 1024**2  # OME-XML of a large plate has some ten megabytes
_SHARED_BYTES = 1024**2  # pages may point to the same values, but not to much of them

# Field type -> bytes of a value (section 2, "Types"; BigTIFF adds 16 to 18).
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SIZES |= {16: 8, 17: 8, 18: 8}
_WHOLE = frozenset((3, 4, 8, 9, 13, 16, 17, 18))
# Fields without which a page is another image: size, depth, coding, where the segments lie.
_NEEDED = frozenset((256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 317))
_NEEDED |= {320, 322, 323, 324, 325, 339, 32997}
# What else is looked at: a page that lost it would be read in another way. 34412, 33628, 65420 and
# the like tell vendors apart; 50838 and 50839 are ImageJ's.
_USED = _NEEDED | {254, 255, 270, 274, 282, 283, 296, 305, 332, 338, 347, 530, 531, 532, 700}
_USED |= {33628, 33629, 34118, 34361, 34412, 34675, 50838, 50839, 65420, 65426, 65432}
# What tifffile reads as soon as it sees the page; 700 (XMP) is read here.
_LOADED = tifffile.TIFF.TAG_LOAD | {320, 700, 34675, 50838, 50839, 65426, 65432}
_STK_PLANES = 33629  # MetaMorph: its count is the number of planes that follow the first

# Values outside an enumeration, or text that is no text: what matters of them is checked here.
# Types that nobody knows are skipped by the standard's own advice. Surplus strips are cut off.
_HARMLESS = re.compile(
    r"invalid data type|TiffTag \d+ @\d+> (raised|coercing)|incorrect Strip\w+ count|GDAL_NODATA"
    r"|imagej_metadata|read_uic1tag|LSM bitspersample|invalid self.subfiletype|ignoring predictor"
    r"|ndpi_jpeg_tile|missing (data )?ByteCounts|estimating ByteCounts"
)
_OF_FIELD = re.compile(r"TiffTag (\d+) @")
_LOG = logging.getLogger("tifffile")
_said: ContextVar[list[str] | None] = ContextVar("_said", default=None)


class SteadyFile(io.RawIOBase):
    """The caller's file for tifffile: complete reads, errors that are kept, no name, no handle.

    tifffile takes a failing read for the end of the list of pages. Without name and handle it can't
    open the files that the metadata names.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at = 0
        self.size = measure_file(file)
        self.failure: OSError | SourceUnreadable | None = None

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move; the caller's file moves when it is read."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, but for the end of the file."""
        try:
            found = read_at(self._file, self._at, max(0, min(len(buffer), self.size - self._at)))
        except (OSError, SourceUnreadable) as error:
            self.failure = error
            raise
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def _keep(record: logging.LogRecord) -> bool:
    """Take what tifffile says within `watched`, and nothing that other users of it cause."""
    said = _said.get()
    if said is None:
        return True
    if record.levelno >= logging.WARNING:
        said.append(record.getMessage())
    return False


_LOG.addFilter(_keep)


@contextmanager
def watched(file: SteadyFile) -> Iterator[None]:
    """Make an error of what tifffile logs, and let none of it be seen.

    Raises
    ------
    SourceUnreadable
        ``corrupt`` if tifffile warned of something that is not known to be harmless, and not of a
        field that nothing is read of.
    OSError
        The one that tifffile swallowed.
    """
    said: list[str] = []
    file.failure = None
    # A program's own set-up of logging may have turned the library's logger off.
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
    """Follow the main chain of pages, before tifffile does, and return how many there are.

    Raises
    ------
    SourceUnreadable
        ``not_an_image``; ``truncated`` if a page or a field that is looked at lies behind the end
        (others are skipped, as libtiff does); ``corrupt`` if
        the chain runs in a circle, a page has absurdly many fields, one of those that are needed
        is not a number, or the fields together are larger than the file; ``unsupported`` for more
        pages or longer lists than any real file has.
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
        # A writer that was killed leaves the first offset unset until it closes the file.
        raise SourceUnreadable("truncated", "the file was not closed by its writer: it has no page")
    return len(seen)


def _check_field(tag: int, kind: int, values: int, at: int, size: int) -> int:
    """Refuse a field that can't be; return the bytes that tifffile will read for it."""
    nbytes = values * _SIZES.get(kind, 0)
    if tag in _NEEDED and (kind not in _WHOLE or values == 0):
        raise SourceUnreadable("corrupt", f"TIFF field {tag} has type {kind}, count {values}")
    if at + nbytes > size:
        if tag not in _USED:
            return 0
        raise SourceUnreadable("truncated", f"TIFF field {tag} lies behind the end of the file")
    if tag == _STK_PLANES and values > 1:
        raise SourceUnreadable("unsupported", "a MetaMorph stack (STK)")
    if tag not in _LOADED:
        return 0
    if nbytes > _MAX_TEXT_BYTES or (kind in _WHOLE and values > _MAX_VALUES):
        raise SourceUnreadable("unsupported", f"TIFF field {tag} has {nbytes} bytes")
    return nbytes


def _read_header(file: BinaryIO, size: int) -> tuple[str, bool, int]:
    """Return byte order, whether it is BigTIFF, and the first page's offset."""
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
        raise SourceUnreadable("truncated", f"{count} bytes are due at {offset} of {size}")
    return read_at(file, offset, count)


def check_embedded(compression: int, content: bytes, most: YX, samples: int) -> None:
    """Refuse a JPEG or JPEG 2000 segment that would decode to more than its strip or tile.

    tifffile gives other codecs the size that they may fill, but not these.

    Raises
    ------
    SourceUnreadable
        ``corrupt``, or what `parse_frame` raises.
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
        raise SourceUnreadable("corrupt", f"a strip or tile is an image of {found}, {most} are due")
