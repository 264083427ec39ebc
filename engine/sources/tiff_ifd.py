"""The skeleton of a TIFF file: TIFF 6.0 (Adobe, 1992), section 2, and BigTIFF (Aware Systems).

Written here, not taken from tifffile, since tifffile repairs what is broken: it drops fields that
point behind the end of the file, ends the list of pages where the next one is cut off, and reads
missing strips as zeros. All of that would be images that silently vanish or turn black.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.sources.base import measure_file, read_at

MAX_PAGES = 100_000
"""Pages of one file; a longer chain is taken for damage (opening takes 10 s at this number)."""

_MAX_FIELDS = 4096  # of one page; tifffile's limit too
_MAX_TEXT_BYTES = 64 * 1024**2  # OME-XML of a large plate has some ten megabytes

# Field type -> numpy type; rationals are pairs (section 2, "Types"; BigTIFF adds 16 to 18).
_TYPES = {
    1: "u1",
    2: "u1",
    3: "u2",
    4: "u4",
    5: "u4",
    6: "i1",
    7: "u1",
    8: "i2",
    9: "i4",
    10: "i4",
    11: "f4",
    12: "f8",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
_PAIRS = (5, 10)


@dataclass(frozen=True, slots=True)
class TiffFile:
    """A TIFF file's byte order and offset size, over the caller's file object."""

    file: BinaryIO
    size: int
    order: Literal["<", ">"]
    big: bool
    first: int


@dataclass(frozen=True, slots=True)
class Ifd:
    """One image file directory: where each field's values are; read when asked for."""

    tiff: TiffFile
    offset: int
    next: int
    fields: dict[int, tuple[int, int, int]]  # tag -> (type, count, offset of the values)

    def numbers(self, tag: int, most: int) -> NDArray[np.generic] | None:
        """Return the first ``most`` values of a field (rationals: (n, 2)), or None if absent.

        Raises
        ------
        SourceUnreadable
            ``truncated`` if the values lie behind the end, ``corrupt`` if the type is unknown.
        """
        field = self.fields.get(tag)
        if field is None:
            return None
        kind, count, offset = field
        if kind not in _TYPES or count == 0:
            raise SourceUnreadable("corrupt", f"TIFF field {tag} has type {kind}, count {count}")
        dtype = np.dtype(self.tiff.order + _TYPES[kind])
        width = 2 if kind in _PAIRS else 1
        count = min(count, most)
        content = read_span(self.tiff, offset, count * width * dtype.itemsize)
        values = np.frombuffer(content, dtype)
        return values.reshape(count, 2) if width == 2 else values

    def number(self, tag: int, default: int | None = None) -> int:
        """Return a field's first value as a whole number.

        Raises
        ------
        SourceUnreadable
            ``corrupt`` if the field is absent and has no default.
        """
        values = self.numbers(tag, 1)
        if values is None:
            if default is None:
                raise SourceUnreadable("corrupt", f"TIFF field {tag} is missing")
            return default
        if values.ndim != 1 or values.dtype.kind not in "ui":
            raise SourceUnreadable("corrupt", f"TIFF field {tag} is not a whole number")
        return int(values[0])

    def content(self, tag: int, first: int | None = None) -> bytes:
        """Return a field of bytes or text without trailing NULs, or its ``first`` bytes.

        Empty if the field is absent or of numbers.

        Raises
        ------
        SourceUnreadable
            ``unsupported`` if all of it is asked for, but it is longer than any real one.
        """
        kind, count, offset = self.fields.get(tag, (0, 0, 0))
        if kind not in (1, 2, 7) or count == 0:
            return b""
        if first is None and count > _MAX_TEXT_BYTES:
            raise SourceUnreadable("unsupported", f"TIFF field {tag} has {count} bytes")
        return read_span(self.tiff, offset, min(count, first or count)).rstrip(b"\0")


def open_tiff(file: BinaryIO) -> TiffFile:
    """Read the header.

    Raises
    ------
    SourceUnreadable
        ``not_an_image``, ``truncated`` or ``corrupt``.
    """
    size = measure_file(file)
    head = read_at(file, 0, min(size, 16))
    order: Literal["<", ">"] = "<" if head[:2] == b"II" else ">"
    if head[:2] not in (b"II", b"MM"):
        raise SourceUnreadable("not_an_image", "the TIFF byte order is missing")
    if len(head) < 8:
        raise SourceUnreadable("truncated", "the file ends within its header")
    version, first = struct.unpack_from(order + "HI", head, 2)
    if version == 42:
        return TiffFile(file, size, order, False, first)
    if version != 43:
        raise SourceUnreadable("not_an_image", "the TIFF version is neither 42 nor 43")
    if len(head) < 16:
        raise SourceUnreadable("truncated", "the file ends within its header")
    width, zero, first = struct.unpack_from(order + "HHQ", head, 4)
    if (width, zero) != (8, 0):
        raise SourceUnreadable("corrupt", "a BigTIFF whose offsets do not have 8 bytes")
    return TiffFile(file, size, order, True, first)


def iter_ifds(tiff: TiffFile) -> Iterator[Ifd]:
    """Yield the directories of the main chain; sub-directories (pyramid levels) are not in it.

    Raises
    ------
    SourceUnreadable
        ``truncated`` if the chain leads behind the end, ``corrupt`` if it runs in a circle.
    """
    offset, seen = tiff.first, set[int]()
    if offset == 0:
        # A writer that was killed leaves the first offset unset until it closes the file.
        raise SourceUnreadable("truncated", "the file was not closed by its writer: it has no page")
    while offset:
        if offset in seen:
            raise SourceUnreadable("corrupt", "the list of pages runs in a circle")
        if len(seen) == MAX_PAGES:
            raise SourceUnreadable("unsupported", f"more than {MAX_PAGES} pages")
        seen.add(offset)
        ifd = read_ifd(tiff, offset)
        yield ifd
        offset = ifd.next


def read_ifd(tiff: TiffFile, offset: int) -> Ifd:
    """Read one directory.

    Raises
    ------
    SourceUnreadable
        ``truncated`` or ``corrupt``.
    """
    head, entry, link = (8, 20, "Q") if tiff.big else (2, 12, "I")
    order = tiff.order
    (count,) = struct.unpack(order + ("Q" if tiff.big else "H"), read_span(tiff, offset, head))
    if not 0 < count <= _MAX_FIELDS:
        raise SourceUnreadable("corrupt", f"a page with {count} fields")
    content = read_span(tiff, offset + head, count * entry + struct.calcsize(link))
    fields: dict[int, tuple[int, int, int]] = {}
    layout, inline = (order + "HHQQ", 8) if tiff.big else (order + "HHII", 4)
    for i in range(count):
        tag, kind, number, value = struct.unpack_from(layout, content, i * entry)
        # An unknown type is an error only if somebody asks for the field.
        size = np.dtype(_TYPES.get(kind, "u1")).itemsize * (2 if kind in _PAIRS else 1)
        if number * size <= inline:
            value = offset + head + (i + 1) * entry - inline
        fields.setdefault(tag, (kind, number, value))
    (following,) = struct.unpack_from(order + link, content, count * entry)
    return Ifd(tiff, offset, following, fields)


def read_span(tiff: TiffFile, offset: int, count: int) -> bytes:
    """Return bytes of the file.

    Raises
    ------
    SourceUnreadable
        ``truncated`` if they lie behind the end, known before any are read.
    """
    if offset + count > tiff.size:
        raise SourceUnreadable(
            "truncated", f"{count} bytes are due at offset {offset}, the file has {tiff.size}"
        )
    return read_at(tiff.file, offset, count)
