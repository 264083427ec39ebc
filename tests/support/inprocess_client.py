"""A cluster that is this thread; a death, and another driver, at any point that is wanted.

What is asked of Dask is little (see `engine.execution.task_pool`), so the real driver, the real
tasks and the real store run here; only sockets, processes and time are left out.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import engine.execution.worker_memory
import engine.ingest.driver
import engine.runs.driver

POINTS = ("link", "rename", "replace", "unlink")
"""Functions of `os` by which something appears or vanishes; a ledger's commit is a link."""

WRITES = os.O_CREAT | os.O_WRONLY | os.O_RDWR


class Killed(BaseException):
    """This process died here; nothing that it does afterwards reaches the disk."""


class Ended:
    """A task that was executed when it was submitted."""

    def __init__(self, key: str, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
        self.key = key
        self._error: Exception | None = None
        try:
            self._value = function(*given)
        except Exception as error:
            self._error = error

    @property
    def status(self) -> str:
        """Say how it ended."""
        return "finished" if self._error is None else "error"

    def result(self, timeout: float) -> Any:
        """Return its value."""
        return self._value

    def exception(self, timeout: float) -> Exception | None:
        """Return what it raised."""
        return self._error

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        """Call at once."""
        call(self)


class Here:
    """A client whose only worker is this thread."""

    status = "running"
    cluster = None

    def submit(
        self, function: Callable[..., Any], *given: Any, key: str, pure: bool, resources: Any
    ) -> Ended:
        """Execute a task."""
        return Ended(key, function, given)

    @property
    def scheduler(self) -> Here:
        """Who is asked for the workers."""
        return self

    def identity(self, n_workers: int) -> dict[str, Any]:
        """Describe the worker."""
        return {"workers": {"here": {"nthreads": 1, "resources": {}}}}

    def sync(self, function: Callable[..., Any], **given: Any) -> Any:
        """Ask."""
        return function(**given)

    def wait_for_workers(self, count: int, timeout: float) -> None:
        """Wait for nobody."""

    def cancel(self, futures: list[Any]) -> None:
        """Cancel nothing: all ended when they were submitted."""


@contextmanager
def here() -> Iterator[Any]:
    """Give the client; within, tasks find their worker, and all that ends is committed at once."""
    memory = SimpleNamespace(memory_limit=None)
    worker = SimpleNamespace(name="here", state=SimpleNamespace(nthreads=1), memory_manager=memory)
    dask = SimpleNamespace(get_worker=lambda: worker, secede=lambda: None)
    with (
        patch.object(engine.runs.driver, "distributed", dask),
        patch.object(engine.execution.worker_memory, "distributed", dask),
        patch.object(engine.runs.driver, "COMMIT_S", -1.0),
        patch.object(engine.ingest.driver, "COMMIT_S", -1.0),
    ):
        yield Here()


def _below(place: str, *paths: Any) -> bool:
    named = (os.fsdecode(p) for p in paths if isinstance(p, (str, bytes, os.PathLike)))
    return any(path.startswith(place) for path in named)


@contextmanager
def dying(place: str, point: int, after: bool) -> Iterator[Callable[[], bool]]:
    """Die at the n-th rename, link or removal below a folder, before or after it.

    Yields
    ------
    Tells whether it died: there may be fewer points.
    """
    passed = 0
    dead = False
    mine = threading.get_ident()

    def gone(*paths: Any) -> bool:
        """Tell whether who calls is dead: this thread, or another one that works for it."""
        return dead and (threading.get_ident() == mine or _below(place, *paths))

    def passing() -> bool:
        nonlocal passed, dead
        passed += 1
        if passed == point and not after:
            dead = True
            raise Killed
        return passed == point

    def wrapped(function: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal dead
            if gone(*given[:2]):
                raise Killed
            last = counts(*given) and passing()
            found = function(*given, **named)
            if last:
                dead = True
                raise Killed
            return found

        return call

    with ExitStack() as stack:
        for name in POINTS:
            new = wrapped(getattr(os, name), partial(_below, place))
            stack.enter_context(patch.object(os, name, new))
        for name in ("mkdir", "rmdir"):
            new = wrapped(getattr(os, name), lambda *_: False)
            stack.enter_context(patch.object(os, name, new))
        opened = os.open

        def opening(path: Any, flags: int, *rest: Any, **named: Any) -> int:
            if flags & WRITES and gone(path):
                raise Killed
            return opened(path, flags, *rest, **named)

        stack.enter_context(patch.object(os, "open", opening))
        yield lambda: dead


@contextmanager
def meanwhile(place: str, point: int, other: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Let another driver do something, all of it, just before the n-th point of this one.

    While this one holds a lock the other one would wait; then it comes at the next point.

    Yields
    ------
    Tells whether the other one came.
    """
    passed = held = 0
    came = False
    mine = threading.get_ident()

    def passing() -> None:
        nonlocal passed, came
        passed += 1
        if passed >= point and not came and not held:
            came = True
            other()

    def wrapped(function: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            # Zarr's own threads are waited for: who comes there would wait for itself.
            if counts(*given) and threading.get_ident() == mine:
                passing()
            return function(*given, **named)

        return call

    lock = fcntl.flock

    def locking(descriptor: int, how: int) -> None:
        nonlocal held
        lock(descriptor, how)
        held += 1 if how & fcntl.LOCK_EX else -1

    with ExitStack() as stack:
        for name in POINTS:
            new = wrapped(getattr(os, name), partial(_below, place))
            stack.enter_context(patch.object(os, name, new))
        stack.enter_context(patch.object(fcntl, "flock", locking))
        yield lambda: came
