"""Isolation of tasks that crash workers, without penalising other tasks.

A task whose worker died is retried among the others, since workers die for many reasons. After its
second death it is deferred until all others are done, and then runs with nothing else in flight. If
it crashes alone, each of its pieces is tried alone; a piece that crashes `LONE_TRIES` times is
given up, and the task runs without it.

A task whose worker was killed for memory is deferred at once. It then runs alone under a memory
limit (`engine.execution.memory_limit`), so that excessive allocations raise an error and the worker
survives; a piece that still exceeds the memory is tried once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

from engine.errors import EngineError, Interrupted
from engine.execution.memory_limit import Need
from engine.execution.task_pool import TaskPool

T = TypeVar("T")

SHARED_DEATHS = 2
"""Deaths among other tasks before a task is deferred."""

LONE_TRIES = 3
"""Deaths alone after which a piece is given up (invariant 7)."""

COMMIT_S = 2.0
"""Interval at which the results of finished tasks are flushed, seconds."""

SHORT = "A worker was killed for lack of memory: its task {}. It is retried alone at the end."
"""Message shown as soon as a worker is killed for memory."""


class WorkerKeepsDying(EngineError):
    """A task crashes its worker although none of its pieces does: (deaths,)."""

    def __str__(self) -> str:
        return (
            f"A task crashed its worker {self.args[0]} times, though each of its images alone does "
            "not. Workers may have too little memory: raise --memory-limit."
        )


@runtime_checkable
class Task(Protocol):
    """A task of several parts, each of which may crash a worker: images, files, planes.

    `map_tasks` takes any value as a task. One without these members can't be divided: if it crashes
    its workers repeatedly, the run ends with `WorkerKeepsDying`.
    """

    @property
    def parts(self) -> Sequence[Any]:
        """Parts of the task."""
        ...

    def only(self, parts: Sequence[Any]) -> Self:
        """Return the task with some of its parts."""
        ...

    def dry_run(self) -> Self:
        """Return a task that publishes nothing, to test whether it crashes a worker."""
        ...


@dataclass(frozen=True, slots=True)
class TaskAttempt(Generic[T]):
    """A task and its number of attempts, including this one and those of its parent task.

    ``lone`` means that nothing else is in flight.
    """

    task: T
    number: int = 1
    lone: bool = False


@dataclass(frozen=True, slots=True)
class TaskOutcome(Generic[T]):
    """Outcome of a task: its value, or, for a piece, that it crashes workers, after some attempts.

    ``need`` is the memory that such a piece used, if its worker was killed for memory.
    """

    task: T
    value: Any = None
    crashes_worker: bool = False
    attempts: int = 1
    need: Need | None = None


def map_tasks(
    pool: TaskPool,
    tasks: Iterable[T],
    *,
    stop: Callable[[], bool] = lambda: False,
    flush: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda _: None,
) -> Iterator[TaskOutcome[T]]:
    """Run all tasks to their end, also if some of them crash their workers.

    Parameters
    ----------
    pool
        Task pool, whose function receives a `TaskAttempt`.
    tasks
        Values of any kind; a `Task` is divided if it crashes its workers.
    stop
        Predicate; once True, no further tasks start.
    flush
        Called every `COMMIT_S` while tasks run.
    note
        Called with a message as soon as memory is short, or if all workers are paused for long.

    Yields
    ------
    One outcome with a value for each task with remaining parts, and one for each part that
    crashes workers.
    """
    source = iter(tasks)
    again: deque[TaskAttempt[T]] = deque()
    deferred: list[tuple[TaskAttempt[T], Need | None]] = []
    on_idle = _every(COMMIT_S, flush)

    def next_task() -> TaskAttempt[T] | None:
        if again:
            return again.popleft()
        task = next(source, None)
        return None if task is None else TaskAttempt(task)

    for ended in pool.run(next_task, stop=stop, on_idle=on_idle, note=note):
        attempt: TaskAttempt[T] = ended.task
        if not ended.crashed:
            yield TaskOutcome(attempt.task, ended.value, attempts=attempt.number)
            continue
        if ended.need is not None:
            note(SHORT.format(ended.need))
        next_attempt = TaskAttempt(attempt.task, attempt.number + 1)
        if attempt.number < SHARED_DEATHS and ended.need is None:
            again.append(next_attempt)
        else:
            deferred.append((next_attempt, ended.need))
    for attempt, need in deferred:
        if stop():
            return
        yield from _isolate(pool, attempt, need, on_idle)


def _every(period_s: float, call: Callable[[], None]) -> Callable[[], None]:
    """Return a function that calls another one, at most once in a period."""
    last = time.monotonic()

    def on_idle() -> None:
        nonlocal last
        if time.monotonic() - last > period_s:
            call()
            last = time.monotonic()

    return on_idle


def _alone(pool: TaskPool, attempt: TaskAttempt[T], on_idle: Callable[[], None]) -> Any:
    pending = [replace(attempt, lone=True)]
    for ended in pool.run(
        lambda: pending.pop() if pending else None, on_idle=on_idle, max_in_flight=1
    ):
        return ended
    raise Interrupted(pool.done, 1)


def _isolate(
    pool: TaskPool, attempt: TaskAttempt[T], need: Need | None, on_idle: Callable[[], None]
) -> Iterator[TaskOutcome[T]]:
    """Run a task alone; if it crashes, try its parts alone, and run it without those that crash."""
    task, number = attempt.task, attempt.number
    while True:
        ended = _alone(pool, TaskAttempt(task, number), on_idle)
        if not ended.crashed:
            yield TaskOutcome(task, ended.value, attempts=number)
            return
        need = ended.need or need
        pieces = [task.only((part,)) for part in task.parts] if isinstance(task, Task) else []
        if need is not None and len(pieces) == 1:  # it was tried alone just now
            yield TaskOutcome(pieces[0], crashes_worker=True, attempts=number, need=need)
            return
        number += 1
        max_tries = LONE_TRIES if need is None else 1
        healthy: list[Any] = []
        for piece in pieces:
            for tries in range(1, max_tries + 1):
                ended = _alone(pool, TaskAttempt(piece.dry_run(), number + tries - 1), on_idle)
                if not ended.crashed:
                    healthy += piece.parts
                    break
            else:
                yield TaskOutcome(
                    piece, crashes_worker=True, attempts=number + max_tries - 1, need=need
                )
        if len(healthy) == len(pieces) and number > attempt.number + LONE_TRIES:
            raise WorkerKeepsDying(number)
        if pieces and not healthy:
            return
        if isinstance(task, Task):
            task = task.only(healthy)
