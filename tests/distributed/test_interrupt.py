"""Ctrl-C, which reaches every process of the terminal's foreground group."""

from __future__ import annotations

import random
import re
import signal
import time

import pytest

from tests.distributed.conftest import Lab
from tests.distributed.invariants import check_files, comparable, result_rows
from tests.distributed.processes import is_alive, wait_for

AT_ONCE_S = 10.0
"""Time limit for a driver's end after a second Ctrl-C; tasks in flight would take minutes."""


def test_tasks_in_flight_end(lab: Lab) -> None:
    assert lab.right is not None
    driver = lab.start("--pause-s", "0.2", workers=2)
    wait_for(lambda: len(lab.calls.all()) > 10 or driver.poll() is not None, "progress")
    everyone = driver.session()
    driver.interrupt()
    ended = driver.wait()
    assert ended.code == 130, ended.err
    assert "Stopping" in ended.err
    assert ended.values["error"] == "Interrupted"
    told = re.search(r"(\d+) units are done and committed, (\d+) are left", ended.err)
    assert told is not None
    assert int(told[1]) > 0
    assert int(told[2]) > 0
    wait_for(lambda: not any(map(is_alive, everyone)), "the end of its helpers", AT_ONCE_S)
    calls = lab.calls.all()
    rows = result_rows(lab.place)
    assert sorted(calls) == [row["image_id"] for row in rows], "what was in flight is committed"
    there = {row["image_id"] for row in rows}
    assert comparable(rows) == [row for row in lab.right.rows if row["image_id"] in there]
    print(f"{len(calls)} images committed; {told[0]}")
    resumed = lab.run(threads=1)
    assert resumed.code == 0, resumed.err
    assert sorted(lab.calls.all()) == lab.sources()
    lab.check(threads=1)


def test_a_second_one_stops_at_once(lab: Lab) -> None:
    driver = lab.start("--pause-s", "30", workers=2)
    wait_for(lambda: lab.calls.all() or driver.poll() is not None, "progress")
    everyone = driver.session()
    driver.interrupt()
    wait_for(lambda: "Stopping" in driver.err, "the first answer")
    began = time.monotonic()
    driver.interrupt()
    ended = driver.wait()
    took_s = time.monotonic() - began
    assert ended.code == 130, ended.err
    assert "stopped at once" in ended.err
    assert took_s < AT_ONCE_S
    wait_for(lambda: not any(map(is_alive, everyone)), "the end of its helpers", AT_ONCE_S)
    check_files(lab.place, settled=False)
    print(f"ended {took_s:.1f} s after the second")
    assert lab.run(threads=1).code == 0
    lab.check(threads=1)


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.fault(5, "driver told to stop (SIGINT, SIGTERM)")
@pytest.mark.parametrize("turn", range(8))
def test_at_any_moment(lab: Lab, rng: random.Random, turn: int, number: int) -> None:
    driver = lab.start("--pause-s", "0.02", workers=2)
    after_s = rng.uniform(0.3, 12)
    time.sleep(after_s)
    everyone = driver.session()
    if number == signal.SIGINT and everyone:
        driver.interrupt()
    else:
        driver.kill(number)
    ended = driver.wait()
    print(f"{signal.Signals(number).name} after {after_s:.1f} s: {ended.code}")
    assert ended.code in (130, 0), ended.err
    assert "Traceback" not in ended.err
    wait_for(lambda: not any(map(is_alive, everyone)), "the end of all", 20)
    check_files(lab.place, settled=False)
    assert lab.run(threads=1).code == 0
    lab.check(threads=1)
