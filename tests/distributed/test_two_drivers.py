"""Faults 8 and 9: two concurrent drivers on the same cohort."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.distributed.conftest import IMAGES, Lab
from tests.distributed.invariants import (
    check_catalog_once,
    check_files,
    check_once,
    comparable,
    probe_key,
    result_rows,
    write_sick,
)
from tests.distributed.processes import Cluster

TRIALS = [0, *(pytest.param(n, marks=pytest.mark.faults) for n in range(1, 6))]


@pytest.mark.fault(8, "two drivers, the same operation")
@pytest.mark.parametrize("turn", TRIALS)
def test_the_same_operation_twice(shared_lab: Lab, turn: int) -> None:
    lab = shared_lab
    drivers = [lab.start("--pause-s", "0.02", commit_s=0.1) for _ in range(2)]
    ended = [driver.wait() for driver in drivers]
    assert [e.code for e in ended] == [0, 0], [e.err for e in ended]
    published = [e.run["published"] for e in ended]
    print(f"published {published}, {len(lab.calls.all())} calls")
    assert sum(published) == IMAGES
    lab.check()


@pytest.mark.fault(8, "two drivers retry the same images")
@pytest.mark.parametrize("turn", TRIALS)
def test_failed_images_retried_twice(shared_lab: Lab, rng: random.Random, turn: int) -> None:
    lab = shared_lab
    harm = dict.fromkeys(rng.sample(lab.sources(), 9), "fail")
    sick = write_sick(lab.folder / "sick.json", harm)
    first = lab.run("--sick", str(sick))
    assert first.code == 3, first.err
    assert first.run["reasons"] == {"told_to": 9}
    check_once(lab.place)
    # They still fail, for both.
    drivers = [lab.start("--sick", str(sick), "--failed") for _ in range(2)]
    ended = [driver.wait() for driver in drivers]
    assert {e.code for e in ended} <= {0, 3}, [e.err for e in ended]
    check_once(lab.place)
    sick.unlink()
    drivers = [lab.start("--failed", commit_s=0.1) for _ in range(2)]
    ended = [driver.wait() for driver in drivers]
    assert [e.code for e in ended] == [0, 0], [e.err for e in ended]
    lab.check(again=2 * 9)  # what failed was asked for twice more


@pytest.mark.fault(8, "two ingests")
@pytest.mark.parametrize("turn", TRIALS)
def test_two_ingests(empty_lab: Lab, session_cluster: Cluster, tmp_path: Path, turn: int) -> None:
    lab = empty_lab
    lab.cluster = session_cluster
    if turn % 2:  # nor is there a cohort yet
        lab.place = tmp_path / "nothing"
    drivers = [lab.start_ingest(commit_s=0.1) for _ in range(2)]
    ended = [driver.wait() for driver in drivers]
    assert [e.code for e in ended] == [0, 0], [e.err for e in ended]
    print([{k: e.values[k] for k in ("new", "unchanged", "duplicates")} for e in ended])
    check_catalog_once(lab.place, IMAGES)
    check_files(lab.place)
    again = lab.start_ingest().wait()
    assert again.values["unchanged"] == IMAGES
    assert lab.run().code == 0
    lab.check()


@pytest.mark.fault(9, "two drivers, other parameters")
@pytest.mark.parametrize("turn", TRIALS)
def test_different_parameters(shared_lab: Lab, turn: int) -> None:
    lab = shared_lab
    drivers = [lab.start("--scale", scale, commit_s=0.1) for scale in ("1", "2")]
    ended = [driver.wait() for driver in drivers]
    assert [e.code for e in ended] == [0, 0], [e.err for e in ended]
    assert lab.right is not None
    one, two = (result_rows(lab.place, probe_key(scale=scale)) for scale in (1.0, 2.0))
    assert comparable(one) == lab.right.rows
    for row, doubled in zip(one, two, strict=True):
        assert [2 * o["brightness"] for o in row["objects"]] == [
            o["brightness"] for o in doubled["objects"]
        ]
    assert sorted(e.run["trial"] for e in ended) == [False, True]
    right, lab.right = lab.right, None
    lab.check("--scale", "2", key=probe_key(scale=2.0), again=IMAGES)
    lab.right = right
    lab.check("--scale", "1", key=probe_key(scale=1.0), again=IMAGES)
    declared = "1" if not ended[0].run["trial"] else "2"
    names = {table for e in ended for table in e.run["tables"]}
    print(f"scale {declared} declared itself; {sorted(names)}")
    assert len(names) == 6
