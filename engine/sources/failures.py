"""Failures of the disk or network under a source, as distinct from damage of the file itself."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from engine.errors import ParameterError, SourceUnreadable

OF_THE_PLACE = frozenset({"unreadable", "vanished"})
"""Reasons that do not depend on a file's content: it could not be read at this time."""

READ_BYTES = 1024**2
"""Block size for reading a file only to test whether that works, bytes."""

DENIED = "the file may not be read"
"""Beginning of the detail of a permission failure, which concerns one file, not its location."""


def is_of_the_disk(error: OSError) -> bool:
    """Return True if a disk or network failed, not a decoder that raises the same type.

    Decoders' own errors carry no errno; one that follows a damaged offset seeks beyond any file.

    Examples
    --------
    >>> is_of_the_disk(OSError(errno.EIO, "")), is_of_the_disk(TimeoutError())
    (True, True)
    >>> is_of_the_disk(OSError("image file is truncated"))
    False
    """
    if error.errno is None:
        named = (ConnectionError, TimeoutError, PermissionError, FileNotFoundError)
        return isinstance(error, named)
    return error.errno not in (errno.EINVAL, errno.EOVERFLOW)


def unreadable(error: OSError) -> SourceUnreadable:
    """Return the error for a failure of disk or network, without its text: it may hold a path."""
    if isinstance(error, FileNotFoundError):
        return SourceUnreadable("vanished", "the file is gone")
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    what = DENIED if isinstance(error, PermissionError) else "the file can't be read"
    return SourceUnreadable("unreadable", f"{what} ({name})")


class decoder_errors:  # noqa: N801 - reads as a verb: `with decoder_errors("PNG"):`
    """Convert all exceptions of a block, except bugs of the caller, to `SourceUnreadable`.

    The original exception is dropped, not chained: decoders quote unparsable text, so a traceback
    in a log would hold a piece of the file.

    Examples
    --------
    >>> with decoder_errors("PNG"):
    ...     raise IndexError("text of the file")
    Traceback (most recent call last):
    engine.errors.SourceUnreadable: corrupt: the PNG decoder gave up (IndexError)
    """

    __slots__ = ("_format",)

    def __init__(self, what: str) -> None:
        self._format = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or not isinstance(error, Exception):
            return
        if isinstance(error, (SourceUnreadable, ParameterError)):
            return
        if isinstance(error, MemoryError):
            found = SourceUnreadable(
                "out_of_memory", f"no memory left to decode this {self._format}"
            )
        elif isinstance(error, OSError) and is_of_the_disk(error):
            found = unreadable(error)
        else:
            found = SourceUnreadable(
                "corrupt", f"the {self._format} decoder gave up ({type(error).__name__})"
            )
        raise found from None


def require_readable(file: BinaryIO) -> None:
    """Read a file to its end, to find an error that a decoder with its own reads does not report.

    Raises
    ------
    SourceUnreadable
    """
    try:
        file.seek(0)
        while file.read(READ_BYTES):
            pass
    except OSError as error:
        raise unreadable(error) from None


def may_be_the_place(reason: str | None, detail: str | None) -> bool:
    """Return True if a failure may affect everything in the same location.

    Examples
    --------
    >>> may_be_the_place(*unreadable(OSError(errno.EIO, "")).args)
    True
    >>> may_be_the_place(*unreadable(PermissionError(errno.EACCES, "")).args)
    False
    """
    return reason in OF_THE_PLACE and not (detail or "").startswith(DENIED)


class Remembers(Protocol):
    """Raw file that keeps its first failed read, as ``failure``.

    Decoders turn it into other errors, or none: their verdict on a file counts only if all of it
    was read.
    """

    failure: OSError | None


class DiskFile(io.FileIO):
    """File of the operating system that implements `Remembers`."""

    failure: OSError | None = None

    def readinto(self, buffer: Any) -> int | None:
        """Read into a buffer."""
        try:
            return super().readinto(buffer)
        except OSError as error:
            self.failure = self.failure or error
            raise

    def readall(self) -> bytes:
        """Read to the end."""
        try:
            return super().readall() or b""
        except OSError as error:
            self.failure = self.failure or error
            raise


def open_remembering(file: Path | int) -> BinaryIO:
    """Open a file for reading, by its path or descriptor; see `reads_named`."""
    return io.BufferedReader(DiskFile(file, "rb"))


@contextmanager
def reads_named(file: BinaryIO) -> Iterator[None]:
    """Raise the failure of a read in the block, even if the decoder hid it.

    Raises
    ------
    SourceUnreadable
        ``unreadable`` or ``vanished``; only for files with a raw file that implements `Remembers`.
    """
    raw: Remembers | None = getattr(file, "raw", None)
    try:
        yield
    finally:
        failure = getattr(raw, "failure", None)
        if raw is not None and failure is not None:
            raw.failure = None  # the next plane may be readable
            raise unreadable(failure) from None
