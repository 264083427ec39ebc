"""Faults 1 and 2: workers are killed, and images kill their worker."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from distributed import Client

from tests.distributed.conftest import IMAGES, Lab
from tests.distributed.deadly_format import OPENING, READING, SAMPLING
from tests.distributed.invariants import (
    check_files,
    check_once,
    comparable,
    ledger_rows,
    result_rows,
    write_sick,
)
from tests.distributed.processes import Cluster, Driver, kill, wait_for, worker_pids

KILLS = 5

FAULTS = pytest.mark.faults


def _kill_workers(lab: Lab, driver: Driver, rng: random.Random, parents: list[int]) -> int:
    """Kill a random worker after every few computed images; return the number of kills."""
    for kills in range(KILLS):
        enough = len(lab.calls.all()) + rng.randint(1, 5)
        wait_for(partial(_reached, lab, driver, enough), "progress")
        there = wait_for(partial(_workers, driver, parents), "a worker")
        if driver.poll() is not None:
            return kills
        kill(rng.choice(there))
    return KILLS


def _reached(lab: Lab, driver: Driver, enough: int) -> bool:
    return len(lab.calls.all()) >= enough or driver.poll() is not None


def _workers(driver: Driver, parents: list[int]) -> list[int]:
    found = [pid for parent in parents for pid in worker_pids(parent)]
    return found or ([] if driver.poll() is None else [driver.pid])


@pytest.mark.fault(1, "workers killed, five times")
@pytest.mark.parametrize("turn", [0, *(pytest.param(n, marks=FAULTS) for n in range(1, 5))])
def test_workers_are_killed(shared_lab: Lab, rng: random.Random, turn: int) -> None:
    lab = shared_lab
    assert lab.cluster is not None
    driver = lab.start("--pause-s", "0.2")
    kills = _kill_workers(lab, driver, rng, [n.pid for n in lab.cluster.nannies])
    ended = driver.wait()
    assert ended.code == 0, ended.err
    assert kills == KILLS
    assert ended.run["published"] == IMAGES
    assert ended.run["failed"] == 0
    print(f"{kills} kills, {len(lab.calls.all()) - IMAGES} of {IMAGES} images computed twice")
    lab.check()


@pytest.mark.faults
@pytest.mark.fault(1, "workers killed, five times")
@pytest.mark.parametrize("turn", range(5))
def test_local_workers_are_killed(lab: Lab, rng: random.Random, turn: int) -> None:
    driver = lab.start("--pause-s", "0.2", workers=2)
    kills = _kill_workers(lab, driver, rng, [driver.pid])
    ended = driver.wait()
    assert ended.code == 0, ended.err
    assert kills == KILLS
    assert ended.run["failed"] == 0
    lab.check(threads=1)


@pytest.mark.fault(2, "images that kill their worker")
@pytest.mark.parametrize("poisons", [1, *(pytest.param(n, marks=FAULTS) for n in (1, 2, 2, 3, 3))])
def test_an_image_kills_its_worker(shared_lab: Lab, rng: random.Random, poisons: int) -> None:
    lab = shared_lab
    assert lab.right is not None
    poison = rng.sample(lab.sources(), poisons)
    sick = write_sick(lab.folder / "sick.json", dict.fromkeys(poison, "kill"))
    ended = lab.run("--sick", str(sick))
    assert ended.code == 3, ended.err
    assert ended.run["failed"] == poisons
    assert ended.run["reasons"] == {"worker_crash": poisons}
    rows = result_rows(lab.place)
    failed = [row for row in rows if row["status"] == "failed"]
    assert sorted(row["image_id"] for row in failed) == sorted(poison)
    assert all(row["reason"] == "worker_crash" and row["attempts"] >= 3 for row in failed)
    healthy = [row for row in comparable(rows) if row["image_id"] not in poison]
    assert healthy == [row for row in lab.right.rows if row["image_id"] not in poison]
    deaths = Counter(lab.calls.all())
    print(f"deaths: {[deaths[source] for source in poison]}, {len(lab.calls.all())} calls")
    right, lab.right = lab.right, None
    # Units of the poison are tried whole and image by image: that is what finding it costs.
    lab.check("--sick", str(sick))
    sick.unlink()
    lab.right = right
    healed = lab.run("--failed")
    assert healed.code == 0, healed.err
    assert healed.run["published"] == poisons
    lab.check(again=poisons)


@pytest.mark.fault(2, "files that kill their worker")
def test_a_source_kills_its_worker(
    empty_lab: Lab, tmp_path: Path, environment: dict[str, str]
) -> None:
    lab = empty_lab
    more = tmp_path / "more"
    more.mkdir()
    (more / "a.deadly").write_bytes(OPENING)
    (more / "b.deadly").write_bytes(READING)
    (more / "c.deadly").write_bytes(SAMPLING)
    for path in sorted(lab.images.rglob("*.png"))[:12]:
        (more / path.name).write_bytes(path.read_bytes())
    lab.images = more
    plugin = "tests.distributed.deadly_format"
    lab.cluster = Cluster(tmp_path / "cluster", environment, options=("--preload", plugin))
    try:
        # Dask's command ends, and all its workers with it, if one dies before it was ever there.
        with Client(lab.cluster.address) as client:
            client.wait_for_workers(2, timeout=60)
        ended = lab.start_ingest(imports=[plugin]).wait()
        assert ended.code == 3, ended.err
        rows = ledger_rows(lab.place, "catalog/images")
        states = {Path(row["image_id"]).name: (row["state"], row["reason"]) for row in rows}
        assert len(states) == len(rows)
        assert states.pop("a.deadly") == ("failed", "worker_crash")
        assert states.pop("b.deadly") == ("failed", "worker_crash")
        assert states.pop("c.deadly") == ("failed", "worker_crash")
        assert len(states) == len(list(more.glob("*.png")))
        assert set(states.values()) == {("ready", None)}
        again = lab.start_ingest(imports=[plugin]).wait()
        assert again.code == 0, again.err
        assert again.values["new"] == again.values["failed"] == 0
        lab.right = None
        done = lab.run()
        assert done.code == 0, done.err
        check_once(lab.place)
        check_files(lab.place)
    finally:
        lab.cluster.close()
