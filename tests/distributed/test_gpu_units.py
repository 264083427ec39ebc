"""Fault 3: many units that need a resource, and workers that die under them."""

from __future__ import annotations

import random
import shutil
from functools import partial
from pathlib import Path

import pytest

import engine
from tests.distributed.conftest import TOML, Lab, Right
from tests.distributed.fault_report import Trial
from tests.distributed.invariants import Calls, comparable, result_rows, tables
from tests.distributed.processes import Cluster, Driver, Zygote, kill, wait_for
from tests.support.images import grey, put

UNITS = 200

KILLS = 5

PAUSE_S = 0.01

SMALL = TOML.replace("shard_images = 4", "shard_images = 1")
"""One image is one shard, and with ``unit_images`` one unit."""


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory, session_zygote: Zygote) -> Lab:
    """Return a lab of 200 images, and its expected results."""
    folder = tmp_path_factory.mktemp("many")
    for n in range(UNITS):
        put(folder / "images" / "d1" / f"s{n % 4}" / "e1" / f"i{n:03d}.png", grey(n, (16, 16)))
    place = folder / "cohort"
    lab = Lab(session_zygote, folder, folder / "images", place, Calls(folder / "calls"))
    lab.operation = "probe_gpu"
    engine.create(place)
    (place / "cohort.toml").write_text(SMALL)
    taken = lab.start_ingest(threads=2).wait()
    assert taken.code == 0, taken.err
    shutil.copytree(place, folder / "ingested")
    lab.operation = "probe"  # needs no GPU and gives the same
    done = lab.run(threads=2)
    assert done.code == 0, done.err
    lab.right = Right(comparable(result_rows(place)), tables(place))
    return lab


@pytest.mark.fault(3, f"{UNITS} units that need a GPU, {KILLS} workers killed")
@pytest.mark.parametrize(
    "turn", [0, *(pytest.param(n, marks=pytest.mark.faults) for n in range(1, 6))]
)
def test_units_that_need_a_gpu(
    many: Lab,
    zygote: Zygote,
    session_cluster: Cluster,
    tmp_path: Path,
    rng: random.Random,
    trial: Trial,
    turn: int,
) -> None:
    place = tmp_path / "cohort"
    shutil.copytree(many.folder / "ingested", place)
    calls = Calls(tmp_path / "calls")
    lab = Lab(zygote, tmp_path, many.images, place, calls, None, session_cluster)
    lab.operation, lab.trial = "probe_gpu", trial
    driver = lab.start("--pause-s", str(PAUSE_S), unit_images=1, commit_s=0.5)
    kills = 0
    for _ in range(KILLS):
        enough = len(calls.all()) + rng.randint(5, UNITS // (KILLS + 2))
        wait_for(partial(_reached, calls, driver, enough), "progress")
        there = wait_for(lambda: session_cluster.workers() or driver.poll() is not None, "a worker")
        if driver.poll() is not None or not isinstance(there, list):
            break
        kill(rng.choice(there))
        kills += 1
    ended = driver.wait()
    assert ended.code == 0, ended.err
    assert kills == KILLS
    assert ended.run["published"] == UNITS
    assert ended.run["failed"] == 0, ended.run["reasons"]
    print(f"{kills} kills, {len(calls.all()) - UNITS} of {UNITS} images computed twice")
    assert many.right is not None
    key = lab.rows()[0]["key"]
    renamed = [{**row, "key": key} for row in many.right.rows]
    lab.right = Right(renamed, many.right.tables)
    lab.check()


def _reached(calls: Calls, driver: Driver, enough: int) -> bool:
    return len(calls.all()) >= enough or driver.poll() is not None
