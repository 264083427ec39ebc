"""Unit tests for `map_tasks`, with a pool that needs no cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.execution import quarantine
from engine.execution.memory_limit import Need
from engine.execution.quarantine import Task, TaskAttempt, WorkerKeepsDying, map_tasks
from engine.execution.task_pool import TaskEnd

NEED = Need(2, 1)


@dataclass(frozen=True)
class Numbers:
    """A task whose parts are numbers."""

    parts: tuple[int, ...]
    dry: bool = False

    def only(self, parts: Sequence[int]) -> Numbers:
        return replace(self, parts=tuple(parts))

    def dry_run(self) -> Numbers:
        return replace(self, dry=True)


@dataclass
class FakePool:
    """Pool that runs one task at a time; ``crashes`` decides, from an attempt and its count."""

    crashes: Callable[[TaskAttempt[Any]], bool]
    need: Need | None = None
    tried: list[TaskAttempt[Any]] = field(default_factory=list)
    done: int = 0

    def run(
        self,
        next_task: Callable[[], Any],
        *,
        stop: Callable[[], bool] = lambda: False,
        max_in_flight: int | None = None,
        on_idle: Callable[[], None] = lambda: None,
        note: Callable[[str], None] = lambda _: None,
    ) -> Iterator[TaskEnd[Any]]:
        while not stop() and (attempt := next_task()) is not None:
            self.tried.append(attempt)
            on_idle()
            if self.crashes(attempt):
                yield TaskEnd(attempt, crashed=True, need=self.need)
            else:
                self.done += 1
                yield TaskEnd(attempt, value=attempt.task)


def answers(pool: FakePool, tasks: Sequence[Any], **how: Any) -> list[quarantine.TaskOutcome[Any]]:
    return list(map_tasks(pool, tasks, **how))  # type: ignore[arg-type]


def test_it_knows_tasks_with_parts() -> None:
    assert isinstance(Numbers((1,)), Task)
    assert not isinstance((1, 2), Task)


@given(
    st.lists(st.sets(st.integers(0, 99), min_size=1, max_size=6), max_size=4),
    st.sets(st.integers(0, 99)),
    st.sampled_from([None, NEED]),
)
def test_each_part_is_answered_once(
    parts: list[set[int]], poison: set[int], need: Need | None
) -> None:
    tasks = [Numbers(tuple(sorted(some))) for some in parts]
    pool = FakePool(lambda attempt: bool(poison & {*attempt.task.parts}), need)
    found = answers(pool, tasks)
    done = Counter(part for a in found if not a.crashes_worker for part in a.value.parts)
    lost = Counter(part for a in found if a.crashes_worker for part in a.task.parts)
    assert done == Counter(p for task in tasks for p in task.parts if p not in poison)
    assert lost == Counter(p for task in tasks for p in task.parts if p in poison)
    assert all(a.need == need for a in found if a.crashes_worker)
    assert not any(a.value.dry for a in found if not a.crashes_worker)


def test_parts_are_tried_alone_by_dry_runs() -> None:
    pool = FakePool(lambda attempt: 2 in attempt.task.parts)
    answers(pool, [Numbers((1, 2, 3)), Numbers((4,))])
    tried = [(a.task.parts, a.task.dry, a.lone) for a in pool.tried]
    assert tried == [
        ((1, 2, 3), False, False),
        ((1, 2, 3), False, False),
        ((4,), False, False),
        ((1, 2, 3), False, True),
        ((1,), True, True),
        *[((2,), True, True)] * quarantine.LONE_TRIES,
        ((3,), True, True),
        ((1, 3), False, True),
    ]  # fmt: skip


def test_a_worker_that_is_killed_for_another_reason_costs_nothing() -> None:
    deaths = iter([True, True, True])
    pool = FakePool(lambda _: next(deaths, False))
    (found,) = answers(pool, [Numbers((1, 2))])
    assert (found.crashes_worker, found.value.parts, found.attempts) == (False, (1, 2), 4)


@pytest.mark.parametrize("task", [Numbers((1, 2)), "indivisible"])
def test_a_task_that_crashes_although_no_part_does_ends_the_run(task: Any) -> None:
    pool = FakePool(lambda attempt: getattr(attempt.task, "parts", (1, 2)) == (1, 2))
    with pytest.raises(WorkerKeepsDying):
        answers(pool, [task])


def test_a_part_that_needs_too_much_memory_is_tried_once_alone() -> None:
    notes: list[str] = []
    pool = FakePool(lambda _: True, NEED)
    (found,) = answers(pool, [Numbers((1,))], note=notes.append)
    assert (found.crashes_worker, found.need, len(pool.tried)) == (True, NEED, 2)
    (note,) = notes
    assert "memory" in note


def test_results_are_flushed_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    for period, count in ((0.0, 3), (60.0, 0)):
        flushed.clear()
        monkeypatch.setattr(quarantine, "COMMIT_S", period)
        answers(FakePool(lambda _: False), [1, 2, 3], flush=lambda: flushed.append(1))
        assert len(flushed) == count
