"""Memory limit of a task, under which larger allocations raise `MemoryError`.

A worker that exceeds its memory is killed, by its nanny or by the kernel, with everything that it
holds. Under a limit of the operating system (RLIMIT_DATA, setrlimit(2)), an excessive allocation
raises `MemoryError` instead, which fails only one image.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

STATUS = Path("/proc/self/status")
MEMINFO = Path("/proc/meminfo")

SHARE = 0.9
"""Share of a worker's limit that a task may fill; a nanny kills a worker at 0.95 of it."""

GB = 1e9

OUT_OF_MEMORY = "out_of_memory"
"""Reason code of an image that needs more memory than its worker has; the row's ``worker`` has both
figures."""


@dataclass(frozen=True, slots=True)
class Need:
    """Memory that an image would have needed, and that was available, bytes.

    If ``exactly`` is False, ``needed`` is only a lower bound.
    """

    needed: int
    had: int
    exactly: bool = False

    def __str__(self) -> str:
        least = "at least" if self.exactly else "more than"
        return f"needs {least} {self.needed / GB:.2f} GB, had {self.had / GB:.2f} GB"


def limit_bytes(given: int | None, of_container: int | None = None) -> int | None:
    """Return the memory limit of this process, bytes: the minimum of all known limits, or None.

    Parameters
    ----------
    given
        Limit that a nanny enforces, bytes.
    of_container
        Limit of the container, bytes.
    """
    found = [int(SHARE * limit) for limit in (given, of_container) if limit]
    now = _read(STATUS)
    if "VmRSS" in now:
        rest = _read(MEMINFO).get("MemAvailable")
        found += [] if rest is None else [now["VmRSS"] + int(SHARE * rest)]
        space = resource.getrlimit(resource.RLIMIT_AS)[0]
        if space != resource.RLIM_INFINITY:
            found.append(max(0, space - now["VmSize"]) + now["VmRSS"])
    return min(found, default=None)


class _Cap:
    """Limit of this process, shared by all tasks that request one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._before = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

    def lower(self, limit: int) -> None:
        now = _read(STATUS)
        if "VmData" not in now:
            return
        with self._lock:
            if not self._count:
                self._before = resource.getrlimit(resource.RLIMIT_DATA)
            self._count += 1
            top = now["VmData"] + max(0, limit - now["VmRSS"])
            soft, hard = self._before
            if soft != resource.RLIM_INFINITY:
                top = min(top, soft)
            resource.setrlimit(resource.RLIMIT_DATA, (top, hard))

    def lift(self) -> None:
        with self._lock:
            if self._count:
                self._count -= 1
            if not self._count:
                resource.setrlimit(resource.RLIMIT_DATA, self._before)


_cap = _Cap()


@contextmanager
def limited(limit: int | None) -> Iterator[None]:
    """Make allocations above a limit, bytes, raise `MemoryError`; on Linux only."""
    if limit is None or sys.platform != "linux":
        yield
        return
    _cap.lower(limit)
    try:
        yield
    finally:
        _cap.lift()
        give_back()


def give_back() -> None:
    """Return freed memory to the system: a worker that seems full gets no more work.

    Workers' allocators keep some (`engine.execution.cluster.local.MALLOC_KEEP_BYTES`).
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def need_of(error: MemoryError, limit: int | None) -> Need:
    """Return the memory that a failed allocation needed.

    Parameters
    ----------
    limit
        Available memory, bytes; by default the current limit.
    """
    had = limit or limit_bytes(None) or 0
    shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
    if shape is None or dtype is None:
        return Need(had, had)
    asked = int(np.prod([int(n) for n in shape], dtype=object)) * np.dtype(dtype).itemsize
    return Need(max(asked + _read(STATUS).get("VmRSS", 0), had), had, exactly=True)


def is_of_memory(error: BaseException) -> bool:
    """Return whether an error reports a lack of memory, or of room for a thread's stack.

    Examples
    --------
    >>> is_of_memory(MemoryError()), is_of_memory(RuntimeError("can't start new thread"))
    (True, True)
    >>> is_of_memory(ValueError("no"))
    False
    """
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or "can't start new thread" in str(error)
    return isinstance(error, OSError) and error.errno == errno.ENOMEM


def _read(path: Path) -> dict[str, int]:
    """Return the values of a proc(5) file, bytes by name."""
    found = {}
    try:
        for line in path.read_text().splitlines():
            name, _, rest = line.partition(":")
            if rest.endswith("kB"):
                found[name] = int(rest.split()[0]) * 1024
    except OSError:
        pass
    return found
