"""Fault 27: each call that opens, reads, writes, syncs, links, renames or unlinks fails once."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.distributed.fault_report import Trial
from tests.distributed.processes import REPOSITORY
from tests.support.images import put
from tests.support.operations import install_below

IMAGES = 6

FEW = 30
"""Sampling interval of the calls in `make test`."""

SENTENCES = {
    errno.EIO: "Input/output error",
    errno.ENOSPC: "No space left",
    errno.EMFILE: "Too many open files",
    errno.ESTALE: "Stale file handle",
}

UNREADABLE = re.compile(r"\x1b|Traceback|OSError|\(os error|Errno|panicked|DeltaError")
"""Text that must not appear in messages."""

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc is installed here")


@dataclass
class Drivers:
    """Client of the process that forks drivers."""

    process: subprocess.Popen[str]
    folder: Path
    images: Path
    numbers: Iterator[int] = field(default_factory=count)

    def drive(self, point: int, number: int) -> dict[str, Any]:
        """Return what became of a driver of which one call failed; point 0: none.

        A driver that hangs is repeated once: in one of 900, CPython 3.11 waited for its own lock
        while it freed a `threading.local` within another one (``local_clear``).
        """
        for _ in range(2):
            found = self._drive(point, number)
            if "hung" not in found:
                return found
        raise AssertionError(f"call {point}, {errno.errorcode.get(number)}: the driver hangs")

    def _drive(self, point: int, number: int) -> dict[str, Any]:
        answer = self.folder / "answer.json"
        answer.unlink(missing_ok=True)
        request = {
            "folder": f"{self.folder / f'd{next(self.numbers)}'}",
            "images": f"{self.images}",
            "point": point,
            "errno": number,
            "count": IMAGES,
            "answer": f"{answer}",
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline(), "the process that forks drivers is gone"
        return dict(json.loads(answer.read_text()))


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drivers]:
    folder = tmp_path_factory.mktemp("calls")
    library = folder / "failing_calls.so"
    source = Path(__file__).with_name("failing_calls.c")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"],
        check=True,
    )
    for n in range(IMAGES):
        pixels = np.random.default_rng(n).integers(0, 100, (24, 32)).astype(np.uint8)
        put(folder / "images" / "d1" / f"s{n % 2}" / "e1" / f"i{n}.png", pixels * 2)
    path = [str(REPOSITORY), str(install_below(folder / "installed"))]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.distributed.failing_calls"],
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": os.pathsep.join(path)},
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline()) == "ready"
        yield Drivers(process, folder, folder / "images")
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


@pytest.fixture(scope="module")
def right(drivers: Drivers) -> dict[str, Any]:
    """Results without a failure; from the second run, when everything is imported."""
    drivers.drive(0, 0)
    found = drivers.drive(0, 0)
    assert "broken" not in found, found["broken"]
    assert [code for code, _ in found["first"]] == [0, 0, 0]
    assert found["computed"] == [IMAGES, IMAGES]
    return found


def check(found: dict[str, Any], right: dict[str, Any], number: int) -> bool:
    """Check the invariants after a failed call; return whether it ended a command."""
    assert "broken" not in found, found["broken"]
    ended = [(code, told) for code, told in found["first"] if code]
    for code, told in found["first"]:  # I5
        assert code in (0, 1, 2, 3), told
        assert not UNREADABLE.search(told), told
    if ended:
        code, told = ended[0]
        assert code in (1, 3), told
        assert SENTENCES[number] in told, told
    assert [code for code, _ in found["second"]] == [0, 0, 0], found["second"]
    done, after = found["computed"]
    if not ended:
        assert done == after == IMAGES  # I2: what ended by 0 was whole
    assert after <= done + IMAGES
    assert (found["third"][0], found["again"]) == (0, 0)  # I2
    assert found["facts"] == right["facts"]  # I4
    return bool(ended)


def sweep(drivers: Drivers, right: dict[str, Any], points: Any) -> tuple[int, str]:
    ended = tried = 0
    for point, number in points:
        found = drivers.drive(point, number)
        try:
            ended += check(found, right, number)
        except AssertionError as error:
            where = f"call {point}, {errno.errorcode[number]}: {found.get('failed')}"
            raise AssertionError(f"{where}: {found.get('first')}") from error
        tried += 1
    return tried, f"{tried} calls failed of {right['calls']}; a command ended by {ended} of them"


@pytest.mark.timeout(900)
@pytest.mark.fault(27, "a call to the file system fails, at every thirtieth")
def test_a_call_that_fails_costs_nothing(
    drivers: Drivers, right: dict[str, Any], trial: Trial
) -> None:
    numbers = list(SENTENCES)
    points = ((p, numbers[n % 4]) for n, p in enumerate(range(1, right["calls"], FEW)))
    trial.trials, told = sweep(drivers, right, points)
    print(told)


@pytest.mark.faults
@pytest.mark.every_point
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("number", SENTENCES, ids=errno.errorcode.get)
@pytest.mark.fault(27, "each call to the file system fails, in four ways")
def test_each_call_may_fail(
    drivers: Drivers, right: dict[str, Any], trial: Trial, number: int
) -> None:
    trial.trials, told = sweep(drivers, right, product(range(1, right["calls"] + 1), [number]))
    print(told)
