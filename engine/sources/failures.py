"""Failures of the disk or network under a source, told from what is wrong with the file itself."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from engine.errors import SourceUnreadable

OF_THE_PLACE = frozenset({"unreadable", "vanished"})
"""Reasons that say nothing of what a file holds, only that it could not be read just now."""

READ_BYTES = 1024**2
"""Read of a file at once, bytes, where it is only read to see whether that works."""

DENIED = "the file may not be read"
"""How the detail of a failure begins that is about permission: of this file, and not its place."""


def is_of_the_disk(error: OSError) -> bool:
    """Tell whether a disk or network failed, and not a decoder that raises the same type.

    A decoder's own carry no number; one that follows a damaged offset seeks where no file can be.

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
    """Name a failure of the disk or network, without its text, which may hold a path."""
    if isinstance(error, FileNotFoundError):
        return SourceUnreadable("vanished", "the file is gone")
    name = errno.errorcode.get(error.errno or 0, type(error).__name__)
    what = DENIED if isinstance(error, PermissionError) else "the file can't be read"
    return SourceUnreadable("unreadable", f"{what} ({name})")


def require_readable(file: BinaryIO) -> None:
    """Read a file to its end: for a decoder that reads by itself, and does not say what failed.

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
    """Tell whether a failure may be that of all that lies in the same place.

    Examples
    --------
    >>> may_be_the_place(*unreadable(OSError(errno.EIO, "")).args)
    True
    >>> may_be_the_place(*unreadable(PermissionError(errno.EACCES, "")).args)
    False
    """
    return reason in OF_THE_PLACE and not (detail or "").startswith(DENIED)


class Remembers(Protocol):
    """A raw file that keeps the first read that failed, as ``failure``.

    Decoders make other errors of it, or none: what they say of a file counts only if all of it was
    read.
    """

    failure: OSError | None


class DiskFile(io.FileIO):
    """A file of the operating system that `Remembers`."""

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
    """Open a file, by its path or descriptor, for reading; see `reads_named`."""
    return io.BufferedReader(DiskFile(file, "rb"))


@contextmanager
def reads_named(file: BinaryIO) -> Iterator[None]:
    """Raise the failure of a read that happened within, whatever came of it.

    Raises
    ------
    SourceUnreadable
        ``unreadable`` or ``vanished``; only for files whose raw file is one of `Remembers`.
    """
    raw: Remembers | None = getattr(file, "raw", None)
    try:
        yield
    finally:
        failure = getattr(raw, "failure", None)
        if raw is not None and failure is not None:
            raw.failure = None  # the next plane may lie where the disk is whole
            raise unreadable(failure) from None
