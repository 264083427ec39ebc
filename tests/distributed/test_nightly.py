"""Nightly job: it processes only new images, exits truthfully, and survives overlap and kills."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import engine
from tests.distributed.conftest import IMAGES, TOML, Lab
from tests.distributed.invariants import (
    Calls,
    check_catalog_once,
    check_files,
    check_once,
    result_rows,
)
from tests.distributed.processes import Driver, Ended, Zygote, wait_for
from tests.support.images import grey, put

TRIALS = [0, *(pytest.param(n, marks=pytest.mark.faults) for n in range(1, 6))]

Start = Callable[..., Driver]


@pytest.fixture
def nightly(empty_lab: Lab) -> Start:
    """Start the job on an empty cohort that declares a root and an operation."""
    lab = empty_lab
    declare(lab.place, lab.images, lab.calls)

    def start(*argv: str, **how: Any) -> Driver:
        return lab.zygote.start("nightly", lab.place, *argv, place=str(lab.place), **how)

    return start


def declare(place: Path, images: Path, calls: Calls, **parameters: Any) -> None:
    """Write the cohort.toml of a lab that is processed every night."""
    given = "".join(f"{name} = {value!r}\n" for name, value in parameters.items())
    (place / "cohort.toml").write_text(
        f'{TOML}\n[roots.{images.name}]\npath = "{images}"\n\n'
        f'[operations.probe]\ncalls = "{calls.path}"\n{given}'
    )


def steps(ended: Ended) -> dict[str, dict[str, Any]]:
    """Return the steps of the one line on standard output, by name."""
    assert ended.values["job"] == "nightly"
    assert ended.values["exit_code"] == ended.code, ended.err
    assert "Traceback" not in ended.err
    return {step["step"]: step for step in ended.values["steps"]}


def test_a_second_night_computes_only_what_is_new(zygote: Zygote, tmp_path: Path) -> None:
    place, images, calls = tmp_path / "cohort", tmp_path / "lab", Calls(tmp_path / "calls")
    for n in range(6):
        put(images / "d1/s1/e1" / f"{n}.png", grey(n))
    engine.create(place)
    declare(place, images, calls)

    def night(*argv: str) -> tuple[Ended, list[str]]:
        before = len(calls.all())
        ended = zygote.run("nightly", place, *argv, threads=1)
        return ended, sorted(name.rsplit("/", 1)[-1] for name in calls.all()[before:])

    first, computed = night()
    assert (first.code, len(computed)) == (0, 6), first.err
    assert first.values["complete"]
    assert steps(first)["qc probe"]["report"]["failed"] == 0
    for n in (7, 8):
        put(images / "d2/s2/e1" / f"{n}.png", grey(n))
    (images / "d2/s2/e1/broken.png").write_bytes(b"no image")
    second, computed = night()
    assert computed == ["7.png", "8.png"]
    assert second.code == 3, "a newly failed source does not keep the operations from running"
    taken = steps(second)["ingest lab"]["report"]
    assert (taken["new"], taken["unchanged"], taken["failed"]) == (2, 6, 1)
    assert steps(second)["run probe"]["report"]["published"] == 2
    assert second.values["newly_failed"] == 1
    (named,) = second.values["failures"]
    assert (named["source"], named["reason"], named["new"]) == (
        "lab/d2/s2/e1/broken.png", "not_an_image", True,
    )  # fmt: skip
    third, computed = night()
    assert (third.code, computed) == (0, []), "what failed before does not count again"
    assert [one["new"] for one in third.values["failures"]] == [False]

    # A disk that is not there is named, and does not keep back what is.
    with (place / "cohort.toml").open("a") as toml:
        toml.write(f'\n[roots.away]\npath = "{tmp_path}/away"\n')
    put(images / "d3/s1/e1/9.png", grey(9))
    fourth, computed = night("--max-failed", "5")
    assert (fourth.code, computed) == (1, ["9.png"])
    assert steps(fourth)["ingest away"]["error"] == "RootGone"
    assert "mounted" in fourth.err
    assert steps(fourth)["run probe"]["code"] == 0
    check_files(place)


def test_nothing_declared_is_said(zygote: Zygote, tmp_path: Path) -> None:
    images, place = tmp_path / "lab", tmp_path / "cohort"
    put(images / "d1/s1/e1/0.png", grey(0))
    assert zygote.run("ingest", place, images, threads=1).code == 0
    ended = zygote.run("nightly", place, threads=1)
    assert ended.code == 1
    assert steps(ended)["ingest lab"]["report"]["unchanged"] == 1
    assert "declares no operation yet" in steps(ended)["run"]["message"]
    assert zygote.run("nightly", tmp_path / "nowhere", threads=1).code == 2


@pytest.mark.parametrize("turn", TRIALS)
def test_two_at_once_do_no_harm(nightly: Start, empty_lab: Lab, turn: int) -> None:
    lab = empty_lab
    ended = [driver.wait() for driver in [nightly(threads=1, commit_s=0.1) for _ in range(2)]]
    assert [one.code for one in ended] == [0, 0], [one.err for one in ended]
    published = [steps(one)["run probe"]["report"]["published"] for one in ended]
    print(f"published {published}, {len(lab.calls.all())} calls")
    assert sum(published) == IMAGES
    check_catalog_once(lab.place, IMAGES)
    check_once(lab.place)
    lab.check(threads=1)


@pytest.mark.parametrize("turn", TRIALS)
def test_one_killed_half_way_does_no_harm(
    nightly: Start, empty_lab: Lab, rng: random.Random, turn: int
) -> None:
    lab = empty_lab
    declare(lab.place, lab.images, lab.calls, pause_s=0.05)
    driver = nightly(threads=1, commit_s=0.1)
    enough = rng.randint(1, IMAGES - 12)
    wait_for(lambda: len(lab.calls.all()) >= enough or driver.poll() is not None, "progress")
    driver.kill()
    assert driver.wait().code == -9
    kept, before = {row["image_id"] for row in result_rows(lab.place)}, len(lab.calls.all())
    ended = nightly(threads=1).wait()
    assert ended.code == 0, ended.err
    assert sorted(lab.calls.all()[before:]) == sorted(set(lab.sources()) - kept)
    print(f"killed after {enough} calls, {len(kept)} images kept")
    lab.check(threads=1)


def test_a_stop_is_told_and_the_rest_is_for_the_next_night(nightly: Start, empty_lab: Lab) -> None:
    """A timer's service is stopped by SIGTERM, to its first process alone."""
    lab = empty_lab
    declare(lab.place, lab.images, lab.calls, pause_s=0.1)
    with (lab.place / "cohort.toml").open("a") as toml:
        toml.write("\n[operations.circles]\n")
    driver = nightly(threads=1)
    wait_for(lambda: lab.calls.all() or driver.poll() is not None, "progress")
    driver.kill(signal.SIGTERM)
    ended = driver.wait()
    assert ended.code == 130
    assert steps(ended)["run probe"]["error"] == "Interrupted"
    assert ended.values["skipped"] == ["run circles", "qc probe", "qc circles"]
    assert sorted(lab.calls.all()) == [row["image_id"] for row in result_rows(lab.place)]
