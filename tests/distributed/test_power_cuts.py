"""Fault 26: power cuts at random moments; completed steps survive, and nothing is torn."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.store.maintenance.problems import STALE
from engine.store.maintenance.repair import repair_ledgers
from tests.distributed.fault_report import Trial
from tests.distributed.invariants import check_files, check_once, comparable, result_rows
from tests.distributed.power import Disk, mounted, new_disk
from tests.distributed.power_work import BANDS, COHORT, PROBE, STEPS, TRAINING, facts, train, work
from tests.distributed.processes import REPOSITORY
from tests.support.images import computed
from tests.support.inprocess_client import here
from tests.support.label_operation import check_labels
from tests.support.operations import Probe

MOMENTS = int(os.environ.get("COHORT_TEST_POWER_CUTS", "30"))

REST_S = 40.0
"""Longest pause between two steps, seconds: a cut may fall into it."""

BEGIN_S = 120.0


@contextmanager
def working(disk: Disk, sources: Path, log: Path, rest_s: float, seed: int) -> Iterator[int]:
    """Run a worker process on the disk; yield its process group."""
    command = [sys.executable, "-m", "tests.distributed.power_work"]
    command += [str(disk.place), str(sources), str(log), str(rest_s), str(seed)]
    with log.with_suffix(".err").open("w") as said:
        process = subprocess.Popen(command, cwd=REPOSITORY, stderr=said, start_new_session=True)
        try:
            yield process.pid
            assert process.poll() is None, log.with_suffix(".err").read_text()[-3000:]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def told(log: Path) -> dict[str, Any]:
    """Return the last completed step, with the facts at that time."""
    lines = log.read_text().splitlines() if log.exists() else []
    return dict(json.loads(lines[-1])) if lines else {}


def cut_often(
    disk: Disk, sources: Path, folder: Path, moments: int, rest_s: float, random_: random.Random
) -> list[tuple[Path, dict[str, Any]]]:
    """Copy the disk at random moments; return each copy with the last step completed by then."""
    log, cuts = folder / "log", []
    with working(disk, sources, log, rest_s, random_.randrange(2**31)) as group:
        deadline = time.monotonic() + BEGIN_S
        while not told(log) and time.monotonic() < deadline:
            time.sleep(0.05)
        for n in range(moments):
            time.sleep(random_.uniform(0, rest_s))
            os.killpg(group, signal.SIGSTOP)
            done = told(log)
            copy = folder / f"cut-{n}.img"
            disk.cut(copy)
            os.killpg(group, signal.SIGCONT)
            cuts.append((copy, done))
    return cuts


def check_cut(place: Path, done: dict[str, Any], client: Any, calls: Path) -> int:
    """Check the state after a power cut, resume, and return the number of computed images."""
    left = facts(place)
    for what, names in done.items():
        if what != "step":
            assert {*names} <= {*left[what]}, f"{what} that were done are gone"
    cohort = engine.open(place / COHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problems = [p for p in cohort.verify().problems if p.kind != STALE]
    assert problems == [], "I3: something is torn"
    assert repair_ledgers(cohort.store) == []
    probe = Probe(calls=str(calls))
    computed(calls)
    cohort.ingest(client=client)
    cohort.run(probe, client=client)
    again = computed(calls)
    assert not {*again} & {*done.get("probe", ())}, "I2: what was done is computed again"
    for _ in work(place / COHORT, client):
        pass
    cohort.run(probe, client=client)
    assert computed(calls) == [], "I2"
    check_once(place / COHORT, PROBE.key)
    rows = result_rows(place / COHORT, BANDS.key, operation=BANDS.name)
    assert [row["image_id"] for row in rows] == facts(place)["images"], "I1: each once"
    check_files(place / COHORT)
    check_labels(cohort, BANDS)
    if (place / TRAINING).exists():
        assert train(place / TRAINING) == STEPS
    return len(again)


def run_trials(
    kind: str, moments: int, rest_s: float, folder: Path, random_: random.Random, trial: Trial
) -> None:
    """Cut the power several times, and compare each copy with a disk that kept its power."""
    sources = folder / "lab"
    sources.mkdir()
    with new_disk(folder, kind) as disk:
        cuts = cut_often(disk, sources, folder, moments, rest_s, random_)
        with here() as client:
            for _ in work(disk.place / COHORT, client):
                pass
        right = {
            operation.name: comparable(
                result_rows(disk.place / COHORT, operation.key, operation=operation.name)
            )
            for operation in (PROBE, BANDS)
        }
    for copy, done in cuts:
        trial.trials += 1
        with mounted(copy, folder / "copy", kind) as place, here() as client:
            trial.recomputed += check_cut(place, done, client, folder / "calls")
            for name, rows in right.items():
                found = comparable(result_rows(place / COHORT, operation=name))
                assert found == rows, f"I4: {name}"
        copy.unlink()


@pytest.mark.fault(26, "power cut, ext4")
@pytest.mark.timeout(600)
def test_power_is_cut(tmp_path: Path, rng: random.Random, trial: Trial) -> None:
    run_trials("ext4", 3, 3.0, tmp_path, rng, trial)


@pytest.mark.faults
@pytest.mark.fault(26, "power cut at many moments")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_power_is_cut_at_many_moments(
    kind: str, tmp_path: Path, rng: random.Random, trial: Trial
) -> None:
    run_trials(kind, MOMENTS, REST_S, tmp_path, rng, trial)
