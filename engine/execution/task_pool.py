"""Task pool: run many tasks with few in flight, and report the outcome of each.

Dask's scheduler never queues tasks with a resource restriction, and counts a worker's death against
all tasks assigned to it. So the driver submits a small window of tasks instead of all, and its
memory does not depend on their number.
"""

from __future__ import annotations

import math
import queue
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from engine.errors import EngineError, MissingPackage, NoWorkers, SchedulerLost
from engine.execution.memory_limit import Need, need_of
from engine.execution.timeouts import startup_timeout_s
from engine.execution.workers import all_paused, count_slots, effective_resources

if TYPE_CHECKING:
    from distributed import Client, Future

T = TypeVar("T")

TASKS_PER_SLOT = 3
"""Tasks in flight per slot: one runs and two wait on the worker."""

TICK_S = 0.25
"""Interval of health checks of scheduler and workers while no task ends, seconds."""

SCHEDULER_TIMEOUT_S = 8.0
"""Time without a connection to the scheduler after which the run gives up, seconds (fault 4: 30 s).
"""

WORKER_TIMEOUT_S = 60.0
"""Time that a run waits for workers to return, seconds."""

ENDED_FOR_MEMORY = "worker-restart-memory"
"""Topic of a nanny's event when it kills a worker for memory (distributed, worker_memory.py)."""

SLOT_REFRESH_S = 2.0
"""Interval at which slots are counted again, seconds: workers join and leave."""

PAUSED_S = 30.0
"""Time in which no task ends after which paused workers are reported, seconds."""

PAUSED = (
    "All workers are paused and start no task: {}. Dask pauses workers whose memory is nearly "
    "full; work goes on once they have memory again. If they do not, end it and run the same "
    "command with more memory or fewer threads per worker (--memory-limit, --threads-per-worker)."
)
"""Message that names the paused workers."""

NAMED_WORKERS = 5
"""Maximum number of paused workers that the message lists."""

UNKNOWN_TRIES = 5
"""Maximum attempts at a task that fails with an error of the cluster."""


class TaskFailed(EngineError):
    """A task failed through a bug or the environment: (type of the exception,).

    The exception's text stays on the worker: it may contain text from a file (invariant 9).
    """

    def __str__(self) -> str:
        return (
            f"A task failed with {self.args[0]}. Nothing of it was recorded; the workers' log says "
            "more."
        )


@dataclass(frozen=True, slots=True)
class TaskEnd(Generic[T]):
    """A task that ended: with ``value``, or as ``crashed`` if its worker died.

    ``need`` is the memory used and available, if the worker was killed for memory.
    """

    task: T
    value: Any = None
    crashed: bool = False
    need: Need | None = None


@dataclass(frozen=True, slots=True)
class _PickledCall:
    """A function and its arguments without a repr, since Dask logs those of a failed task."""

    content: bytes = field(repr=False)


def _call(packed: _PickledCall) -> bytes:
    """Call a function on a worker.

    Arguments and value travel as bytes: Dask would serialise the members of a list one by one, and
    deserialise everything on the scheduler, which does not need it, and in the event loops.
    """
    from distributed.protocol.pickle import dumps, loads

    function, arguments = loads(packed.content)
    return dumps(function(*arguments))


class TaskPool:
    """Pool that submits tasks of one function and yields them as they end.

    Parameters
    ----------
    client
        Client of the cluster.
    function
        Called on a worker as ``function(*arguments(task))``.
    arguments
        Returns a task's arguments; large shared ones should be small or cached by the function.
    label
        Prefix of Dask keys, shown on the dashboard.
    resources
        Resources that a worker must offer.
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
        self._resources = effective_resources(client, resources or {})
        # The resource is part of the key, since an existing key would keep its old restriction.
        extra = "".join(f"-{name}{amount:g}" for name, amount in self._resources.items())
        self._label = f"{label}{extra}-{secrets.token_hex(4)}"
        # Not a SimpleQueue: see `engine.plain_files.read_plain`.
        self._ended: queue.Queue[Future[Any]] = queue.Queue()
        self._flight: dict[str, tuple[Any, Future[Any], int]] = {}
        self._count = 0
        self._slots = max(1, count_slots(client, self._resources))
        self._counted = time.monotonic()
        self._healthy = time.monotonic()
        self._staffed = time.monotonic()
        self._moved = time.monotonic()
        self.done = 0

    def run(
        self,
        next_task: Callable[[], T | None],
        *,
        stop: Callable[[], bool] = lambda: False,
        max_in_flight: int | None = None,
        on_idle: Callable[[], None] = lambda: None,
        note: Callable[[str], None] = lambda _: None,
    ) -> Iterator[TaskEnd[T]]:
        """Yield each task when it has ended, in any order.

        Parameters
        ----------
        next_task
            Called when there is room; returns the next task, or None if there is none now. It is
            called again after each task that ended.
        stop
            Predicate; once True, no further tasks are submitted, and those in flight finish.
        max_in_flight
            Maximum tasks in flight; by default `TASKS_PER_SLOT` for each slot.
        on_idle
            Called at most every `TICK_S`.
        note
            Called with a message if all workers are paused for long, once until a task ends.

        Raises
        ------
        SchedulerLost, NoWorkers, TaskFailed
            Also any `EngineError` that a task raised.
        """
        exhausted = False
        self._moved = time.monotonic()
        try:
            while True:
                room = (max_in_flight or TASKS_PER_SLOT * self._slots) - len(self._flight)
                while room > 0 and not exhausted and not stop():
                    task = next_task()
                    if task is None:
                        exhausted = True
                        break
                    self._submit(task)
                    room -= 1
                if not self._flight:
                    if exhausted or stop():
                        return
                    continue
                on_idle()
                for future in self._collect():
                    ended = self._end(future)
                    if ended is not None:
                        self.done += not ended.crashed
                        self._moved = time.monotonic()
                        exhausted = False  # the consumer may have re-queued the task
                        yield ended
                self._check(note)
        finally:
            flight = [future for _, future, _ in self._flight.values()]
            self._flight.clear()
            if flight and self._client.status == "running":
                self._client.cancel(flight)

    def _submit(self, task: Any, tries: int = 1) -> None:
        from distributed.protocol.pickle import dumps

        self._count += 1
        future = self._client.submit(
            _call,
            _PickledCall(dumps((self._function, self._arguments(task)))),
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

    def _end(self, future: Future[Any]) -> TaskEnd[Any] | None:
        from distributed.client import FutureCancelledError
        from distributed.comm.core import CommClosedError
        from distributed.protocol.pickle import loads
        from distributed.scheduler import KilledWorker

        if future.key not in self._flight:
            return None
        task, _, tries = self._flight[str(future.key)]
        try:
            if future.status == "finished":
                value = loads(future.result(timeout=SCHEDULER_TIMEOUT_S))
            elif future.status == "error":
                raise future.exception(timeout=SCHEDULER_TIMEOUT_S)
            else:  # "cancelled" or "lost": the scheduler is gone, or lost its state
                raise FutureCancelledError(future.key, future.status)
        except KilledWorker as error:
            del self._flight[str(future.key)]
            return TaskEnd(task, crashed=True, need=self._need(error.last_worker))
        except MemoryError as error:  # counts as a death for lack of memory
            del self._flight[str(future.key)]
            return TaskEnd(task, crashed=True, need=need_of(error, None))
        except (FutureCancelledError, CommClosedError, TimeoutError, OSError) as error:
            if isinstance(error, EngineError):
                raise
            self._again(future, task, tries, error)
            return None
        except EngineError:
            raise
        # a bug or a problem of the worker's environment, never an image's
        except Exception as error:
            if lacking := _import_error(error):
                raise MissingPackage(lacking.name or "a module") from None
            raise TaskFailed(type(error).__name__) from None
        del self._flight[str(future.key)]
        return TaskEnd(task, value)

    def _need(self, worker: Any) -> Need | None:
        """Return the memory that a worker used if its nanny killed it for memory, or None."""
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
        """Resubmit a task that the cluster lost, unless the scheduler itself is gone."""
        deadline = time.monotonic() + SCHEDULER_TIMEOUT_S
        while self._client.status != "running" and time.monotonic() < deadline:
            time.sleep(TICK_S)
        if self._client.status != "running":
            raise SchedulerLost(self.done, len(self._flight)) from error
        # The scheduler is reachable (again): the result died with its worker before it was fetched,
        # or a new scheduler does not know the task.
        if tries >= UNKNOWN_TRIES:
            raise TaskFailed(type(error).__name__) from None
        del self._flight[str(future.key)]
        self._submit(task, tries + 1)

    def _check(self, note: Callable[[str], None]) -> None:
        now = time.monotonic()
        if self._client.status == "running":
            self._healthy = now
        elif now - self._healthy > SCHEDULER_TIMEOUT_S:
            raise SchedulerLost(self.done, len(self._flight))
        else:
            return
        if now - self._counted < SLOT_REFRESH_S:
            return
        self._counted = now
        try:
            found = count_slots(self._client, self._resources)
        except (OSError, TimeoutError):
            return
        if found:
            self._slots, self._staffed = found, now
        elif now - self._staffed > startup_timeout_s(WORKER_TIMEOUT_S):
            raise NoWorkers(startup_timeout_s(WORKER_TIMEOUT_S))
        if now - self._moved > PAUSED_S:
            self._report_paused(note)

    def _report_paused(self, note: Callable[[str], None]) -> None:
        try:
            paused = all_paused(self._client, self._resources)
        except (OSError, TimeoutError):
            return
        if paused:
            self._moved = math.inf  # until a task ends
            more = f" and {len(paused) - NAMED_WORKERS} more" * (len(paused) > NAMED_WORKERS)
            note(PAUSED.format(", ".join(paused[:NAMED_WORKERS]) + more))


def _import_error(error: BaseException | None) -> ImportError | None:
    """Return the failed import on the scheduler or a worker, if that was the cause."""
    while error is not None and not isinstance(error, ImportError):
        error = error.__cause__
    return error
