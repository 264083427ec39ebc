"""One failing call to the store, at any point; see `inprocess_client` for crashes."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

ERRORS = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ESTALE)

CALLS = ("link", "rename", "replace", "unlink", "write", "fsync")
"""Functions of `os` that fail; so does `os.open` for writing."""


@contextmanager
def failing(place: str, point: int, after: bool, number: int) -> Iterator[Callable[[], bool]]:
    """Make the n-th of these calls below a folder fail, before or, for some, after it takes effect.

    Yields
    ------
    Function that returns whether it failed: there may be fewer calls.
    """
    passed = 0
    lock = threading.Lock()

    def due(*given: Any) -> bool:
        nonlocal passed
        if not any(_place(one).startswith(place) for one in given):
            return False
        with lock:
            passed += 1
            return passed == point

    def wrapped(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            fails = due(*given[:2])
            # An object may exist although its writer received an error.
            if not fails or (after and name in ("link", "rename", "replace")):
                found = function(*given, **named)
            if fails:
                raise OSError(number, os.strerror(number))
            return found

        return call

    opened = os.open

    def opening(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY) and due(path):
            raise OSError(number, os.strerror(number))
        return opened(path, flags, *rest, **named)

    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(patch.object(os, name, wrapped(name, getattr(os, name))))
        stack.enter_context(patch.object(os, "open", opening))
        yield lambda: passed >= point


def _place(given: Any) -> str:
    if isinstance(given, int):
        return f"{Path(f'/proc/self/fd/{given}').readlink()}"
    return os.fsdecode(given) if isinstance(given, (str, bytes, os.PathLike)) else ""
