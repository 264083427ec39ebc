"""Run many tasks with few in flight, and tell what became of each.

Tasks with a resource restriction are never queued by Dask's scheduler, and a worker's death is
held against all that were assigned to it; so the driver keeps a small window of tasks instead of
handing over all of them, and its memory does not depend on how many there are.
"""

from __future__ import annotations

import queue
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from distributed import Client, Future
from distributed.client import FutureCancelledError
from distributed.comm.core import CommClosedError
from distributed.protocol.pickle import dumps, loads
from distributed.scheduler import KilledWorker

from engine.errors import EngineError, MissingPackage, NoWorkers, SchedulerLost
from engine.execution.memory_limit import Need, need_of
from engine.execution.timeouts import patience_s
from engine.execution.workers import asked_of_workers, slots

T = TypeVar("T")

PER_SLOT = 3
"""Tasks in flight for each slot: one that runs and two that wait on the worker."""

TICK_S = 0.25
"""How often the health of scheduler and workers is looked at while nothing ends, seconds."""

LOST_S = 8.0
"""How long the scheduler may be out of reach before the run gives up, seconds (fault 4: 30 s)."""

NO_WORKERS_S = 60.0
"""How long a run waits for workers to come back, seconds."""

ENDED_FOR_MEMORY = "worker-restart-memory"
"""Topic under which a nanny says that it ended a worker (distributed, worker_memory.py)."""

RECOUNT_S = 2.0
"""How often slots are counted again, seconds: workers come and go."""

UNKNOWN_TRIES = 5
"""Attempts at a task that ends by an error of the cluster, before the run gives up."""


class TaskFailed(EngineError):
    """A task failed by a fault of ours or of the environment: (type of the exception,).

    What the exception says stays on the worker: it may hold what a file said (invariant 9).
    """

    def __str__(self) -> str:
        return (
            f"A task failed with {self.args[0]}. Nothing of it was recorded; the workers' log says "
            "more."
        )


@dataclass(frozen=True, slots=True)
class Ended(Generic[T]):
    """A task that ended: with ``value``, or, where its worker died under it, as ``crashed``.

    ``need`` says what the worker took and might take, where it was ended for want of memory.
    """

    task: T
    value: Any = None
    crashed: bool = False
    need: Need | None = None


@dataclass(frozen=True, slots=True)
class _Packed:
    """A function and its arguments, not shown: Dask writes those of a failed task to the log."""

    content: bytes = field(repr=False)


def _call(packed: _Packed) -> bytes:
    """Call a function on a worker.

    Arguments and value travel as bytes: Dask packs the members of a list one by one, and unpacks
    everything on the scheduler, which has no use for it, and in the event loops.
    """
    function, arguments = loads(packed.content)
    return dumps(function(*arguments))


class Window:
    """Submits tasks of one function and yields them as they end.

    Parameters
    ----------
    client
        Client of the cluster.
    function
        Called on a worker as ``function(*arguments(task))``.
    arguments
        Makes a task's arguments; large shared ones should be small or cached by the function.
    label
        Prefix of Dask keys, seen on the dashboard.
    resources
        What a worker must offer.
    """

    def __init__(
        self,
        client: Client,
        function: Callable[..., Any],
        arguments: Callable[[Any], tuple[Any, ...]],
        *,
        label: str,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        self._client = client
        self._function = function
        self._arguments = arguments
        self._resources = asked_of_workers(client, resources or {})
        # The resource is part of the key: a known key would keep its old restriction.
        extra = "".join(f"-{name}{amount:g}" for name, amount in self._resources.items())
        self._label = f"{label}{extra}-{secrets.token_hex(4)}"
        self._ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._flight: dict[str, tuple[Any, Future[Any], int]] = {}
        self._count = 0
        self._slots = max(1, slots(client, self._resources))
        self._counted = time.monotonic()
        self._healthy = time.monotonic()
        self._staffed = time.monotonic()
        self.done = 0

    def run(
        self,
        take: Callable[[], T | None],
        *,
        stop: Callable[[], bool] = lambda: False,
        most: int | None = None,
        idle: Callable[[], None] = lambda: None,
    ) -> Iterator[Ended[T]]:
        """Yield each task when it ended, in any order.

        Parameters
        ----------
        take
            Called as there is room; returns the next task, or None where there is none now. It is
            asked again after each task that ended.
        stop
            Once it says True no further task is taken; those in flight end.
        most
            Tasks in flight at most; `PER_SLOT` for each slot by default.
        idle
            Called every `TICK_S` at most.

        Raises
        ------
        SchedulerLost, NoWorkers, TaskFailed
            And any `EngineError` that a task raised.
        """
        exhausted = False
        try:
            while True:
                room = (most or PER_SLOT * self._slots) - len(self._flight)
                while room > 0 and not exhausted and not stop():
                    task = take()
                    if task is None:
                        exhausted = True
                        break
                    self._submit(task)
                    room -= 1
                if not self._flight:
                    if exhausted or stop():
                        return
                    continue
                idle()
                for future in self._collect():
                    ended = self._end(future)
                    if ended is not None:
                        self.done += not ended.crashed
                        exhausted = False  # the consumer may have put it back
                        yield ended
                self._check()
        finally:
            flight = [future for _, future, _ in self._flight.values()]
            self._flight.clear()
            if flight and self._client.status == "running":
                self._client.cancel(flight)

    def _submit(self, task: Any, tries: int = 1) -> None:
        self._count += 1
        future = self._client.submit(
            _call,
            _Packed(dumps((self._function, self._arguments(task)))),
            key=f"{self._label}-{self._count}",
            pure=False,
            resources=self._resources or None,
        )
        self._flight[str(future.key)] = (task, future, tries)
        future.add_done_callback(self._ended.put)

    def _collect(self) -> list[Future[Any]]:
        try:
            found = [self._ended.get(timeout=TICK_S)]
        except queue.Empty:
            return []
        while True:
            try:
                found.append(self._ended.get_nowait())
            except queue.Empty:
                return found

    def _end(self, future: Future[Any]) -> Ended[Any] | None:
        if future.key not in self._flight:
            return None
        task, _, tries = self._flight[str(future.key)]
        try:
            if future.status == "finished":
                value = loads(future.result(timeout=LOST_S))
            elif future.status == "error":
                raise future.exception(timeout=LOST_S)
            else:  # "cancelled" or "lost": the scheduler went away, or forgot us
                raise FutureCancelledError(future.key, future.status)
        except KilledWorker as error:
            del self._flight[str(future.key)]
            return Ended(task, crashed=True, need=self._need(error.last_worker))
        except MemoryError as error:  # as if it had died of it
            del self._flight[str(future.key)]
            return Ended(task, crashed=True, need=need_of(error, None))
        except (FutureCancelledError, CommClosedError, TimeoutError, OSError) as error:
            if isinstance(error, EngineError):
                raise
            self._again(future, task, tries, error)
            return None
        except EngineError:
            raise
        except Exception as error:  # a fault of ours or of a worker's environment, never an image's
            if lacking := _import_error(error):
                raise MissingPackage(lacking.name or "a module") from None
            raise TaskFailed(type(error).__name__) from None
        del self._flight[str(future.key)]
        return Ended(task, value)

    def _need(self, worker: Any) -> Need | None:
        """Return what a worker took that its nanny ended for it, or None."""
        limit = getattr(worker, "memory_limit", None)
        if not limit:
            return None
        try:
            events = self._client.get_events(ENDED_FOR_MEMORY)
        except (OSError, TimeoutError):
            return None
        taken = [int(told["rss"]) for _, told in events if told.get("worker") == worker.address]
        return Need(max(*taken, int(limit)), int(limit)) if taken else None

    def _again(self, future: Future[Any], task: Any, tries: int, error: Exception) -> None:
        """Submit a task again that the cluster lost, unless the scheduler itself is gone."""
        deadline = time.monotonic() + LOST_S
        while self._client.status != "running" and time.monotonic() < deadline:
            time.sleep(TICK_S)
        if self._client.status != "running":
            raise SchedulerLost(self.done, len(self._flight)) from error
        # The scheduler is there, or there again: the result died with its worker before it was
        # fetched, or a new scheduler does not know the task.
        if tries >= UNKNOWN_TRIES:
            raise TaskFailed(type(error).__name__) from None
        del self._flight[str(future.key)]
        self._submit(task, tries + 1)

    def _check(self) -> None:
        now = time.monotonic()
        if self._client.status == "running":
            self._healthy = now
        elif now - self._healthy > LOST_S:
            raise SchedulerLost(self.done, len(self._flight))
        else:
            return
        if now - self._counted < RECOUNT_S:
            return
        self._counted = now
        try:
            found = slots(self._client, self._resources)
        except (OSError, TimeoutError):
            return
        if found:
            self._slots, self._staffed = found, now
        elif now - self._staffed > patience_s(NO_WORKERS_S):
            raise NoWorkers(patience_s(NO_WORKERS_S))


def _import_error(error: BaseException | None) -> ImportError | None:
    """Return the import that failed on the scheduler or a worker, where that was the cause."""
    while error is not None and not isinstance(error, ImportError):
        error = error.__cause__
    return error
