"""What a file system says when it refuses to store more, as errors that a caller can act on.

Python's own errors carry an errno. Those of Rust libraries (zarrs raises `RuntimeError`, deltalake
a bare `OSError`) only have it in their text, as ``(os error 28)``.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engine.errors import EngineError, StoreFull, StoreReadOnly

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

PROBE_BYTES = 4096
"""Size of what is written to find out whether there is room, bytes: a block of common systems."""

_RUST = re.compile(r"\(os error (\d+)\)")


def errno_of(error: BaseException) -> int | None:
    """Return the errno that an error is about, or None where it is about something else.

    Examples
    --------
    >>> errno_of(OSError(28, "No space left on device"))
    28
    >>> errno_of(RuntimeError("No space left on device (os error 28)"))
    28
    >>> errno_of(ValueError("odd"))
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    match = _RUST.search(str(error))
    return int(match[1]) if match else None


def refusal(error: BaseException, place: str) -> StoreFull | StoreReadOnly | None:
    """Return the named error of a full or read-only place, or None if it is neither.

    Parameters
    ----------
    error
        What was raised while something was written.
    place
        Where that was, for the text.
    """
    number = errno_of(error)
    if number in FULL:
        return StoreFull(place)
    if number in READ_ONLY:
        return StoreReadOnly(place)
    return None


@contextmanager
def refusals_named(place: str) -> Iterator[None]:
    """Raise `StoreFull` or `StoreReadOnly` for the errors of a full or read-only place."""
    try:
        yield
    except EngineError:
        raise
    except OSError as error:
        named = refusal(error, place)
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
    StoreFull, StoreReadOnly
    """
    try:
        yield
    except EngineError:
        raise
    except Exception as error:
        named = refusal(error, place) or _probe(folder, place)
        if named is None:
            raise
        raise named from error


def _probe(folder: Path, place: str) -> StoreFull | StoreReadOnly | None:
    path = folder / f"probe-{secrets.token_hex(4)}"
    try:
        with path.open("xb") as file:
            file.write(b"\0" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return refusal(error, place)
    finally:
        with suppress(OSError):
            path.unlink()
    return None
