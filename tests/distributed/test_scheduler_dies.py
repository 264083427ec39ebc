"""Faults 4 and 22: the scheduler is killed; no worker has the required resource."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from tests.distributed.conftest import IMAGES, Lab
from tests.distributed.invariants import check_catalog_once, ledger_rows, result_rows
from tests.distributed.processes import Cluster, kill, wait_for

LOST_S = 30.0

SELECTIONS = [
    pytest.param(selection, marks=pytest.mark.faults)
    for selection in (("--limit", "1"), ("--where", "subject != 'nobody'"), ("--declare",))
]


@pytest.mark.fault(4, "scheduler killed")
@pytest.mark.parametrize(
    "turn", [0, *(pytest.param(n, marks=pytest.mark.faults) for n in (1, 2, 3, 4))]
)
def test_the_scheduler_is_killed(
    lab: Lab, rng: random.Random, tmp_path: Path, environment: dict[str, str], turn: int
) -> None:
    lab.cluster = Cluster(tmp_path / "first", environment)
    try:
        driver = lab.start("--pause-s", "0.2", commit_s=0.2)
        wait_for(lambda: result_rows(lab.place) or driver.poll() is not None, "a first commit")
        enough = len(lab.calls.all()) + rng.randint(0, 6)
        wait_for(lambda: len(lab.calls.all()) >= enough or driver.poll() is not None, "progress")
        killed = time.monotonic()
        kill(lab.cluster.scheduler.pid)
        ended = driver.wait()
        told_s = time.monotonic() - killed
    finally:
        lab.cluster.close()
    assert ended.code == 1, ended.err
    assert ended.values["error"] == "SchedulerLost"
    assert told_s < LOST_S
    done, left = map(int, _counts(ended.err))
    assert done > 0
    assert left > 0
    committed = {row["image_id"] for row in result_rows(lab.place)}
    before = lab.calls.all()
    print(
        f"told after {told_s:.1f} s: {done} units done, {left} left, {len(committed)} images kept"
    )
    lab.cluster = Cluster(tmp_path / "second", environment)
    try:
        resumed = lab.run()
        assert resumed.code == 0, resumed.err
        again = lab.calls.all()[len(before) :]
        assert sorted(again) == sorted(set(lab.sources()) - committed)
        lab.check()
    finally:
        lab.cluster.close()


def _counts(text: str) -> tuple[str, str]:
    found = re.search(r"(\d+) units were done, (\d+) are left", text)
    assert found is not None, text
    return found[1], found[2]


@pytest.mark.faults
@pytest.mark.fault(4, "scheduler killed during an ingest")
def test_the_scheduler_is_killed_during_ingest(
    empty_lab: Lab, tmp_path: Path, environment: dict[str, str]
) -> None:
    lab = empty_lab
    lab.cluster = Cluster(tmp_path / "first", environment)
    try:
        driver = lab.start_ingest(commit_s=0.0)
        wait_for(
            lambda: ledger_rows(lab.place, "catalog/images") or driver.poll() is not None,
            "a first commit",
        )
        kill(lab.cluster.scheduler.pid)
        ended = driver.wait()
    finally:
        lab.cluster.close()
    assert ended.code == 1, ended.err
    assert ended.values["error"] == "SchedulerLost"
    assert lab.start_ingest(threads=1).wait().code == 0
    check_catalog_once(lab.place, IMAGES)
    assert lab.run(threads=1).code == 0
    lab.check(threads=1)


@pytest.mark.fault(22, "no worker has the resource")
@pytest.mark.parametrize("selection", [(), *SELECTIONS])
def test_no_worker_has_the_resource(shared_lab: Lab, selection: tuple[str, ...]) -> None:
    lab = shared_lab
    ended = lab.run(*selection, operation="probe_tpu")
    assert ended.code == 1, ended.err
    assert ended.values["error"] == "NoWorkerForResource"
    assert ended.elapsed_s < LOST_S
    assert lab.calls.all() == []
    assert result_rows(lab.place, operation="probe_tpu") == []
    done = lab.run("--limit", "1", operation="probe_gpu")  # that one is there
    assert done.code == 0, done.err


@pytest.mark.faults
def test_there_is_no_worker(lab: Lab, tmp_path: Path, environment: dict[str, str]) -> None:
    lab.cluster = Cluster(tmp_path / "idle", environment)
    try:
        for process in lab.cluster.nannies:
            process.terminate()
            process.wait(30)
        ended = lab.run()
    finally:
        lab.cluster.close()
    assert ended.code == 1, ended.err
    assert ended.values["error"] == "NoWorkers"
    assert ended.elapsed_s < LOST_S
