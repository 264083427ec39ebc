"""Memory available to a task on its worker, and the limit for retries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.execution.memory_limit import OUT_OF_MEMORY, Need, limit_bytes, limited
from engine.execution.quarantine import TaskAttempt


@contextmanager
def room_for(attempt: TaskAttempt[Any], device: str = "cpu") -> Iterator[int | None]:
    """Yield the memory that a task may use, bytes, and enforce it on a retry after a death.

    Enforced only if the task has the process to itself, since other tasks would fail too; and not
    with a GPU, whose driver reserves memory in its own ways.
    """
    import distributed
    from distributed.system import MEMORY_LIMIT

    worker = distributed.get_worker()
    limit = limit_bytes(worker.memory_manager.memory_limit, MEMORY_LIMIT)
    alone = attempt.lone or worker.state.nthreads == 1
    if attempt.number > 1 and alone and device == "cpu":
        with limited(limit):
            yield limit
    else:
        yield limit


def poison_of(need: Need | None, doing: str) -> tuple[str, str]:
    """Return reason code and detail of a task that crashes its worker during an action."""
    if need is None:
        return "worker_crash", f"{doing} kills the worker"
    return OUT_OF_MEMORY, f"{doing} {need}"
