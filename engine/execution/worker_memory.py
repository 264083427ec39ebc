"""The memory that a task has on its worker, and the limit under which one is tried again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import distributed
from distributed.system import MEMORY_LIMIT

from engine.execution.memory_limit import OUT_OF_MEMORY, Need, limit_bytes, limited
from engine.execution.quarantine import Attempt


@contextmanager
def room_for(attempt: Attempt[Any], device: str = "cpu") -> Iterator[int | None]:
    """Give what a task may take, bytes, and hold one to it whose worker died before.

    Only where it has the process to itself, since others would fail for it; and not where a GPU's
    driver reserves memory in its own ways.
    """
    worker = distributed.get_worker()
    limit = limit_bytes(worker.memory_manager.memory_limit, MEMORY_LIMIT)
    alone = attempt.lone or worker.state.nthreads == 1
    if attempt.number > 1 and alone and device == "cpu":
        with limited(limit):
            yield limit
    else:
        yield limit


def poison_of(need: Need | None, doing: str) -> tuple[str, str]:
    """Return reason and detail of what kills its worker while something is done with it."""
    if need is None:
        return "worker_crash", f"{doing} kills the worker"
    return OUT_OF_MEMORY, f"{doing} {need}"
