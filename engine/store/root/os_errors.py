"""What a file system says when it refuses or fails, as errors that a caller can act on.

Python's own errors carry an errno. Those of Rust libraries (zarrs raises `RuntimeError`, deltalake
a bare `OSError`) only have it in their text, as ``(os error 28)``.
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
"""What broken disks, shares that went away and mounts that hang answer."""

PROBE_BYTES = 4096
"""Size of what is written to find out whether there is room, bytes: a block of common systems."""

_RUST = re.compile(r"\(os error (\d+)\)|\bOs \{ code: (\d+)")


def errno_of(error: BaseException) -> int | None:
    """Return the errno that an error is about, or None where it is about something else.

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


def refusal(
    error: BaseException, place: str, *, reading: bool = False, others: bool = False
) -> StoreError | None:
    """Return the named error of a place that refuses or fails, or None if it does neither.

    Parameters
    ----------
    error
        What was raised while something was written or read.
    place
        Where that was, for the text.
    reading
        Whether it was only read.
    others
        Whether all that the system says of a place is its failure, e.g. that a file is gone.
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
def refusals_named(place: str, *, reading: bool = False, others: bool = False) -> Iterator[None]:
    """Raise the errors of `refusal` in place of the system's own.

    Raises
    ------
    StoreFull, StoreReadOnly, StoreFailed, TooManyFiles
    """
    try:
        yield
    except (EngineError, NotADirectoryError, IsADirectoryError):  # another thing is in the way
        raise
    except OSError as error:
        named = refusal(error, place, reading=reading, others=others)
        if named is None:
            raise
        raise named from error


@contextmanager
def assembling(folder: Path, place: str) -> Iterator[None]:
    """Name what stops other libraries from writing into a folder.

    They may raise anything when there is no room. Whatever leaves the block is taken for what it
    says; where it says nothing, a small file tells whether the folder can still be written to.

    Raises
    ------
    StoreFull, StoreReadOnly, StoreFailed, TooManyFiles
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        named = refusal(error, place, others=isinstance(error, OSError)) or _probe(folder, place)
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
        return refusal(error, place, others=True)
    finally:
        with suppress(OSError):
            path.unlink()
    return None
