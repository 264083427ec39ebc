"""Workers that Dask pauses for memory: the wait is explained, and goes on."""

from __future__ import annotations

import pytest
from distributed import Client, Scheduler, SpecCluster, Status, Worker

from engine.execution import task_pool
from engine.execution.quarantine import TaskAttempt, map_tasks
from engine.execution.task_pool import TaskPool


def double(attempt: TaskAttempt[int]) -> int:
    return 2 * attempt.task


def set_status(status: str, dask_worker: Worker) -> None:
    dask_worker.status = Status[status]


def test_a_paused_cluster_is_named_once_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_pool, "PAUSED_S", 0.3)
    monkeypatch.setattr(task_pool, "SLOT_REFRESH_S", 0.1)
    noted: list[str] = []
    options = {"nthreads": 1, "memory_limit": 0}  # nothing but the test pauses or resumes them
    workers = {name: {"cls": Worker, "options": options} for name in ("a", "b")}
    quiet = {"protocol": "inproc://", "dashboard": False, "dashboard_address": ":0"}
    with (
        SpecCluster(workers=workers, scheduler={"cls": Scheduler, "options": quiet}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        addresses = sorted(client.run(lambda: 0))
        pool = TaskPool(client, double, lambda attempt: (attempt,), label="double")
        client.run(set_status, "paused", workers=addresses[:1])

        def note(text: str) -> None:
            noted.append(text)
            client.run(set_status, "running")

        assert sorted(a.value for a in map_tasks(pool, range(4), note=note)) == [0, 2, 4, 6]
        assert noted == [], "one worker goes on"
        client.run(set_status, "paused")
        assert sorted(a.value for a in map_tasks(pool, range(4), note=note)) == [0, 2, 4, 6]
    (text,) = noted
    assert all(address in text for address in addresses)
    assert "\n" not in text
