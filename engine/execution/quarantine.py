"""Isolation of tasks that crash workers, without penalising other tasks.

A task whose worker died is retried among the others, since workers die for many reasons. After its
second death it is deferred until all others are done, and then runs with nothing else in flight. If
it crashes alone, each of its pieces is tried alone; a piece that crashes `LONE_TRIES` times is
poison, and the task runs without it.

A task whose worker was killed for memory is deferred at once. It then runs alone under a memory
limit (`engine.execution.memory_limit`), so that excessive allocations raise an error and the worker
survives; a piece that still exceeds the memory is tried once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from engine.errors import EngineError, Interrupted
from engine.execution.memory_limit import Need
from engine.execution.task_pool import TaskPool

T = TypeVar("T")

SHARED_DEATHS = 2
"""Deaths among other tasks before a task is deferred."""

LONE_TRIES = 3
"""Deaths alone after which a piece is poison (invariant 7)."""


SHORT = "A worker was killed for lack of memory: its task {}. It is retried alone at the end."
"""Message shown as soon as a worker is killed for memory."""


class WorkerKeepsDying(EngineError):
    """A task crashes its worker although none of its pieces does: (deaths,)."""

    def __str__(self) -> str:
        return (
            f"A task crashed its worker {self.args[0]} times, though each of its images alone does "
            "not. Workers may have too little memory: raise --memory-limit."
        )


@dataclass(frozen=True, slots=True)
class TaskAttempt(Generic[T]):
    """A task and its number of attempts, including this one and those of its parent task.

    ``lone`` means that nothing else is in flight.
    """

    task: T
    number: int = 1
    lone: bool = False


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """Outcome of a task: its value, or, for a piece, that it is poison after some attempts.

    ``need`` is the memory that a poison piece used, if its worker was killed for memory.
    """

    task: T
    value: Any = None
    poison: bool = False
    attempts: int = 1
    need: Need | None = None


def map_tasks(
    window: TaskPool,
    tasks: Iterable[T],
    *,
    split: Callable[[T], list[T]],
    without: Callable[[T, list[T]], T | None],
    trial: Callable[[T], T] = lambda piece: piece,
    stop: Callable[[], bool] = lambda: False,
    idle: Callable[[], None] = lambda: None,
    told: Callable[[str], None] = lambda _: None,
) -> Iterator[Answer[T]]:
    """Run all tasks to their end, also if some of them crash their workers.

    Parameters
    ----------
    window
        Task pool, whose function receives an `TaskAttempt`.
    split
        Splits a task into its pieces: one image, one file.
    without
        Returns the task without some pieces, or None if no piece remains.
    trial
        Marks a piece as a dry run, which publishes nothing.
    told
        Called with a message as soon as memory is short.

    Yields
    ------
    One answer with a value for each task with remaining pieces, and one for each poison piece.
    """
    source = iter(tasks)
    again: deque[TaskAttempt[T]] = deque()
    aside: list[tuple[TaskAttempt[T], Need | None]] = []

    def take() -> TaskAttempt[T] | None:
        if again:
            return again.popleft()
        task = next(source, None)
        return None if task is None else TaskAttempt(task)

    for ended in window.run(take, stop=stop, idle=idle):
        attempt: TaskAttempt[T] = ended.task
        if not ended.crashed:
            yield Answer(attempt.task, ended.value, attempts=attempt.number)
            continue
        if ended.need is not None:
            told(SHORT.format(ended.need))
        if attempt.number < SHARED_DEATHS and ended.need is None:
            again.append(TaskAttempt(attempt.task, attempt.number + 1))
        else:
            aside.append((TaskAttempt(attempt.task, attempt.number + 1), ended.need))
    for attempt, need in aside:
        if stop():
            return
        yield from _isolate(window, attempt, need, split, without, trial, idle)


def _alone(window: TaskPool, attempt: TaskAttempt[T], idle: Callable[[], None]) -> Any:
    pending = [replace(attempt, lone=True)]
    for ended in window.run(lambda: pending.pop() if pending else None, idle=idle, most=1):
        return ended
    raise Interrupted(window.done, 1)


def _isolate(
    window: TaskPool,
    attempt: TaskAttempt[T],
    need: Need | None,
    split: Callable[[T], list[T]],
    without: Callable[[T, list[T]], T | None],
    trial: Callable[[T], T],
    idle: Callable[[], None],
) -> Iterator[Answer[T]]:
    poison: list[T] = []
    task: T | None = attempt.task
    number = attempt.number
    while task is not None:
        ended = _alone(window, TaskAttempt(task, number), idle)
        if not ended.crashed:
            yield Answer(task, ended.value, attempts=number)
            return
        need = ended.need or need
        pieces = split(task)
        if need is not None and len(pieces) == 1:  # it was tried alone just now
            yield Answer(pieces[0], poison=True, attempts=number, need=need)
            return
        number += 1
        found = []
        most = LONE_TRIES if need is None else 1
        for piece in pieces:
            for tries in range(1, most + 1):
                ended = _alone(window, TaskAttempt(trial(piece), number + tries - 1), idle)
                if not ended.crashed:
                    break
            else:
                found.append(piece)
                yield Answer(piece, poison=True, attempts=number + most - 1, need=need)
        if not found and number > attempt.number + LONE_TRIES:
            raise WorkerKeepsDying(number)
        poison += found
        task = without(attempt.task, poison)
