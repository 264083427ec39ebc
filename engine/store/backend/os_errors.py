"""Translation of operating-system errors into errors that a caller can act on.

Python's own errors carry an errno. Those of Rust libraries (zarrs raises `RuntimeError`, deltalake
a bare `OSError`) carry it only in their text, as ``(os error 28)``.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.errors import (
    EngineError,
    StoreError,
    StoreFailed,
    StoreFull,
    StoreReadOnly,
    TooManyFiles,
)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
NO_FILES = frozenset({errno.EMFILE, errno.ENFILE})
FAILED = frozenset(
    {
        errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO, errno.ETIMEDOUT,
        errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOTCONN, errno.ESHUTDOWN,
        errno.EUCLEAN, errno.EBADMSG, errno.ENOLCK, errno.EBUSY, errno.ENOMEM, errno.EINTR,
    }
)  # fmt: skip
"""Errors of broken disks, lost network shares and hanging mounts."""

PROBE_BYTES = 4096
"""Size of the file that tests for free space, bytes: a block of common systems."""

_RUST = re.compile(r"\(os error (\d+)\)|\bOs \{ code: (\d+)")


def errno_of(error: BaseException) -> int | None:
    """Return the errno of an error, or None if it has none.

    Examples
    --------
    >>> errno_of(OSError(28, "No space left on device"))
    28
    >>> errno_of(RuntimeError("No space left on device (os error 28)"))
    28
    >>> errno_of(RuntimeError('no runtime: Os { code: 24, message: "Too many open files" }'))
    24
    >>> errno_of(ValueError("odd"))
    """
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return error.errno
    match = _RUST.search(str(error))
    return int(match[1] or match[2]) if match else None


def as_store_error(
    error: BaseException, place: str, *, reading: bool = False, others: bool = False
) -> StoreError | None:
    """Return the `StoreError` for a refusal or failure of the file system, else None.

    Parameters
    ----------
    error
        The exception of a read or a write.
    place
        Path for the message.
    reading
        True if the access was a read.
    others
        True if every system error counts as a failure of the store, e.g. also a missing file.
    """
    number = errno_of(error)
    if number is None:
        return StoreFailed(place, type(error).__name__) if others else None
    if number in FULL:
        return StoreFull(place, True) if number == errno.EDQUOT else StoreFull(place)
    if number in READ_ONLY:
        return StoreFailed(place, _named(number)) if reading else StoreReadOnly(place)
    if number in NO_FILES:
        return TooManyFiles(place, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return StoreFailed(place, _named(number)) if others or number in FAILED else None


def _named(number: int) -> str:
    return f"{os.strerror(number)}, {errno.errorcode.get(number, number)}"


@contextmanager
def translate_os_errors(
    place: str, *, reading: bool = False, others: bool = False
) -> Iterator[None]:
    """Raise the errors of `as_store_error` instead of the system's own.

    Raises
    ------
    StoreFull, StoreReadOnly, StoreFailed, TooManyFiles
    """
    try:
        yield
    # the path itself is of another kind
    except (EngineError, NotADirectoryError, IsADirectoryError):
        raise
    except OSError as error:
        named = as_store_error(error, place, reading=reading, others=others)
        if named is None:
            raise
        raise named from error


@contextmanager
def translate_write_errors(folder: Path, place: str) -> Iterator[None]:
    """Translate errors of other libraries that write into a folder.

    They may raise anything on a full disk. An error without an errno is resolved by writing a small
    probe file into the folder.

    Raises
    ------
    StoreFull, StoreReadOnly, StoreFailed, TooManyFiles
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        named = as_store_error(error, place, others=isinstance(error, OSError)) or _probe(
            folder, place
        )
        if named is None:
            raise
        raise named from error


def _probe(folder: Path, place: str) -> StoreError | None:
    path = folder / f"probe-{secrets.token_hex(4)}"
    try:
        with path.open("xb") as file:
            file.write(b"\0" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return as_store_error(error, place, others=True)
    finally:
        with suppress(OSError):
            path.unlink()
    return None
