"""In-process cluster on this thread, with crashes and concurrent drivers at any point.

The engine uses only a few functions of Dask (see `engine.execution.task_pool`), so the real driver,
the real tasks and the real store run here; only sockets, processes and time are left out.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import distributed

import engine.execution.quarantine

POINTS = ("link", "rename", "replace", "unlink")
"""Functions of `os` that make files appear or vanish; a ledger's commit is a link."""

WRITES = os.O_CREAT | os.O_WRONLY | os.O_RDWR


class Killed(BaseException):
    """This process died; nothing that it does afterwards reaches the disk."""


class Ended:
    """A task that was executed on submission."""

    def __init__(self, key: str, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
        self.key = key
        self._error: Exception | None = None
        try:
            self._value = function(*given)
        except Exception as error:
            self._error = error

    @property
    def status(self) -> str:
        """Return the state of the task."""
        return "finished" if self._error is None else "error"

    def result(self, timeout: float) -> Any:
        """Return its value."""
        return self._value

    def exception(self, timeout: float) -> Exception | None:
        """Return the exception of the task, if any."""
        return self._error

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        """Call immediately."""
        call(self)


class Here:
    """A client with this thread as its only worker."""

    status = "running"
    cluster = None

    def submit(
        self, function: Callable[..., Any], *given: Any, key: str, pure: bool, resources: Any
    ) -> Ended:
        """Execute a task."""
        return Ended(key, function, given)

    @property
    def scheduler(self) -> Here:
        """Scheduler that describes the workers."""
        return self

    def identity(self, n_workers: int) -> dict[str, Any]:
        """Describe the worker."""
        return {"workers": {"here": {"nthreads": 1, "resources": {}}}}

    def sync(self, function: Callable[..., Any], **given: Any) -> Any:
        """Call the function."""
        return function(**given)

    def wait_for_workers(self, count: int, timeout: float) -> None:
        """Return immediately."""

    def cancel(self, futures: list[Any]) -> None:
        """Do nothing: all tasks ended on submission."""


@contextmanager
def here() -> Iterator[Any]:
    """Yield the client; in the block, tasks find their worker, and results commit at once."""
    memory = SimpleNamespace(memory_limit=None)
    worker = SimpleNamespace(name="here", state=SimpleNamespace(nthreads=1), memory_manager=memory)
    with (
        patch.object(distributed, "get_worker", lambda: worker),
        patch.object(distributed, "secede", lambda: None),
        patch.object(engine.execution.quarantine, "COMMIT_S", -1.0),
    ):
        yield Here()


def _below(place: str, *paths: Any) -> bool:
    named = (os.fsdecode(p) for p in paths if isinstance(p, (str, bytes, os.PathLike)))
    return any(path.startswith(place) for path in named)


@contextmanager
def dying(place: str, point: int, after: bool) -> Iterator[Callable[[], bool]]:
    """Crash at the n-th rename, link or removal below a folder, before or after it.

    Yields
    ------
    Function that returns whether it crashed: there may be fewer points.
    """
    passed = 0
    counting = threading.Lock()
    dead = False
    mine = threading.get_ident()

    def gone(*paths: Any) -> bool:
        """Return whether the caller is dead: this thread, or a thread that works for it."""
        return dead and (threading.get_ident() == mine or _below(place, *paths))

    def passing() -> bool:
        nonlocal passed, dead
        with counting:  # labels are written by threads
            passed += 1
            here = passed == point
        if here and not after:
            dead = True
            raise Killed
        return here

    def wrapped(function: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal dead
            if gone(*given[:2]):
                raise Killed
            last = counts(*given) and passing()
            with suppress(OSError) if last else nullcontext():  # such as a link that exists
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
    """Run another driver to its end just before the n-th point of this one.

    If this driver holds a lock, on which the other one would wait, use the next point.

    Yields
    ------
    Function that returns whether the other driver ran.
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
            # Zarr's own threads are awaited: running the other driver here would deadlock.
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
