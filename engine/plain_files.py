"""Reads of files named in settings: regular files only, with a time limit.

A pipe without a writer, or a lost network share, blocks a reader for ever; and Python resumes a
read after a signal (PEP 475), so that not even SIGTERM would end the command.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engine.errors import UsageError

ANSWER_S = 60.0
"""Time limit of reading a file, seconds: an automounter takes some ten."""

LOOK_S = 0.1
"""Interval of checks for a stop request, seconds."""

MOST_BYTES = 256 * 1024**2
"""Maximum size of a file of settings, a key or a list of subjects; a larger file is something
else."""

_stop: Callable[[], bool] | None = None


class NotAFile(UsageError):
    """Pipe, socket or device named as a file: (path,)."""

    def __str__(self) -> str:
        return f"{self.args[0]} is a pipe, a socket or a device, and not a file; it was not read."


@contextmanager
def reads_end_on(stop: Callable[[], bool]) -> Iterator[None]:
    """End reads of `read_plain` with KeyboardInterrupt after a stop request."""
    global _stop
    before, _stop = _stop, stop
    try:
        yield
    finally:
        _stop = before


def open_plain(path: Path) -> BinaryIO:
    """Open a regular file for reading; refuse a pipe, a socket or a device, which might block.

    Raises
    ------
    NotAFile
    OSError
    """
    _require_file(path, path.stat().st_mode)  # before opening it, which some devices notice
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_file(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _require_file(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise NotAFile(str(path))


def read_plain(path: Path) -> bytes:
    """Read a whole file.

    Raises
    ------
    NotAFile
        If it is a pipe, a socket or a device.
    OSError
        If it can't be read, is larger than `MOST_BYTES`, or does not answer within `ANSWER_S`.
    KeyboardInterrupt
        After a stop request, see `reads_end_on`.
    """
    answers: list[bytes | Exception] = []
    reader = threading.Thread(target=lambda: answers.append(_read(path)), daemon=True)
    reader.start()
    deadline_s = time.monotonic() + ANSWER_S
    # Not SimpleQueue.get(timeout): it waits for ever if a signal's handler outlasts the timeout.
    while True:
        reader.join(LOOK_S)
        if not reader.is_alive():
            break
        if _stop is not None and _stop():
            raise KeyboardInterrupt
        if time.monotonic() > deadline_s:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
    (found,) = answers
    if isinstance(found, Exception):
        raise found
    return found


def _read(path: Path) -> bytes | Exception:
    try:
        with open_plain(path) as file:
            found = file.read(MOST_BYTES + 1)
    except Exception as error:
        return error
    if len(found) > MOST_BYTES:
        return OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return found
