"""Fault 5: the driver is killed, at random, and before and after every rename and commit."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.distributed.conftest import IMAGES, Lab, Right
from tests.distributed.invariants import (
    Calls,
    check_catalog_once,
    check_files,
    comparable,
    ledger_rows,
    result_rows,
)
from tests.distributed.processes import is_alive, wait_for

SWEPT_POINTS = 2
"""Crash points of each sweep in `make test`; `make faults` takes them all."""

COMMIT_S = 0.0
"""Commit interval in sweeps, seconds; short, so that they have many commits."""

EXIT_S = 30.0


def _committed(place: Path) -> set[str]:
    return {row["image_id"] for row in result_rows(place)}


def _resume(lab: Lab, how: dict[str, int]) -> tuple[int, int]:
    """Run again; return the numbers of images kept and of images computed twice."""
    kept, before = _committed(lab.place), lab.calls.all()
    check_files(lab.place, settled=False)
    resumed = lab.run(**how)
    assert resumed.code == 0, resumed.err
    again = lab.calls.all()[len(before) :]
    lab.trial.lost += len(kept - _committed(lab.place))
    assert sorted(again) == sorted(set(lab.sources()) - kept), "recomputed what was committed"
    lab.check(**how)
    return len(kept), len(set(again) & set(before))


@pytest.mark.fault(5, "driver killed at a random moment")
@pytest.mark.parametrize(
    "turn", [0, *(pytest.param(n, marks=pytest.mark.faults) for n in range(1, 10))]
)
def test_killed_at_a_random_moment(shared_lab: Lab, rng: random.Random, turn: int) -> None:
    lab = shared_lab
    driver = lab.start("--pause-s", "0.1", commit_s=0.2)
    enough = rng.randint(1, IMAGES - 12)
    wait_for(lambda: len(lab.calls.all()) >= enough or driver.poll() is not None, "progress")
    driver.kill()
    assert driver.wait().code == -9
    # The tasks in flight go on for a while; what they write is of no commit.
    kept, twice = _resume_beside_the_dead(lab)
    print(f"killed after {enough} calls: {kept} images kept, {twice} computed twice")


def _resume_beside_the_dead(lab: Lab) -> tuple[int, int]:
    kept, before = _committed(lab.place), lab.calls.all()
    resumed = lab.run()
    assert resumed.code == 0, resumed.err
    again = lab.calls.all()[len(before) :]
    lab.trial.lost += len(kept - _committed(lab.place))
    assert set(lab.sources()) - kept <= set(again)
    lab.check()
    return len(kept), len(set(again) & set(before))


@pytest.mark.fault(5, "driver killed with its local workers")
def test_workers_die_with_a_local_driver(lab: Lab) -> None:
    driver = lab.start("--pause-s", "0.1", workers=2, commit_s=0.2)
    wait_for(lambda: result_rows(lab.place) or driver.poll() is not None, "a commit")
    with_it = driver.session()
    assert len(with_it) > 2
    driver.kill()
    assert driver.wait().code == -9
    wait_for(lambda: not any(map(is_alive, with_it)), "the end of its workers", EXIT_S)
    kept, twice = _resume(lab, {"threads": 1})
    print(f"{kept} images kept, {twice} computed twice")


def _points(log: Path, rng: random.Random, every: bool) -> list[tuple[int, str]]:
    count = len(log.read_text().splitlines())
    points = [(n, when) for n in range(1, count + 1) for when in ("before", "after")]
    print(f"{count} renames and commits")
    return points if every else sorted(rng.sample(points, SWEPT_POINTS))


EVERY_POINT = [pytest.mark.faults, pytest.mark.every_point, pytest.mark.timeout(3000)]
EVERY = [False, pytest.param(True, marks=EVERY_POINT)]


@pytest.mark.fault(5, "run killed at each rename and commit")
@pytest.mark.parametrize("every", EVERY)
def test_a_run_killed_at_each_point(lab: Lab, rng: random.Random, every: bool) -> None:
    untouched = lab.folder / "untouched"
    shutil.copytree(lab.place, untouched)
    log = lab.folder / "points"
    assert lab.run(threads=1, commit_s=COMMIT_S, count=str(log)).code == 0
    names = log.read_text().splitlines()
    died = 0
    for point in _points(log, rng, every):
        shutil.rmtree(lab.place)
        shutil.copytree(untouched, lab.place)
        lab.forget_calls()
        lab.trial.trials += 1
        code = lab.run(threads=1, commit_s=COMMIT_S, crash=point).code
        assert code in (-9, 0)  # threads share the work otherwise each time: it may pass fewer
        died += code == -9
        kept, twice = _resume(lab, {"threads": 1})
        print(f"{point[1]} {names[point[0] - 1]}: {code}, {kept} kept, {twice} computed twice")
    assert died


@pytest.mark.fault(5, "ingest killed at each rename and commit")
@pytest.mark.parametrize("every", EVERY)
def test_an_ingest_killed_at_each_point(
    empty_lab: Lab, rng: random.Random, every: bool, template: tuple[Path, Right]
) -> None:
    lab = empty_lab
    empty = lab.folder / "empty"
    shutil.copytree(lab.place, empty)
    log = lab.folder / "points"
    assert lab.start_ingest(threads=1, commit_s=COMMIT_S, count=str(log)).wait().code == 0
    names = log.read_text().splitlines()
    right = catalogued(template[0])
    died = 0
    for point in _points(log, rng, every):
        shutil.rmtree(lab.place)
        shutil.copytree(empty, lab.place)
        lab.trial.trials += 1
        code = lab.start_ingest(threads=1, commit_s=COMMIT_S, crash=point).wait().code
        assert code in (-9, 0)
        died += code == -9
        kept = len(ledger_rows(lab.place, "catalog/images"))
        check_files(lab.place, settled=False)
        resumed = lab.start_ingest(threads=1).wait()
        assert resumed.code == 0, resumed.err
        assert resumed.values["new"] == IMAGES - kept
        found = catalogued(lab.place)
        lab.trial.lost += len(right.keys() - found.keys())
        lab.trial.silent += len(found.items() - right.items())
        check_catalog_once(lab.place, IMAGES)
        assert found == right
        again = lab.start_ingest(threads=1).wait()
        assert again.code == 0
        assert again.values["unchanged"] == IMAGES
        assert again.values["new"] == again.values["changed"] == 0
        check_files(lab.place)
        print(f"{point[1]} {names[point[0] - 1]}: {code}, {kept} kept")
    assert died
    lab.calls = Calls(lab.folder / "calls")
    done = lab.run(threads=1)
    assert done.code == 0, done.err
    assert lab.right is not None
    assert comparable(result_rows(lab.place)) == lab.right.rows


def catalogued(place: Path) -> dict[str, str]:
    """Return the content of each image that an ingest committed."""
    return {r["image_id"]: r["content"] for r in ledger_rows(place, "catalog/images")}
