"""Images that need too much memory fail by name, with need and limit; the others are computed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import engine
from engine.execution import task_pool
from engine.execution.progress import ProgressListener
from engine.operations.base import Image
from tests.support.images import LAYOUT, Counting, computed, connect_quietly, grey, put

TOP = Path(__file__).resolve().parents[2]

LIMIT = 700e6
"""Memory of a worker, bytes; it has some 300 MB before it computes anything."""


class Hungry(Counting):
    """Allocate much memory for images with a marker in their name."""

    name: ClassVar[str] = "hungry"
    object_schema: ClassVar[pa.Schema] = pa.schema([("mean", pa.float64()), ("n", pa.int64())])

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Return the mean, and take memory on the way."""
        found = super().measure(image)
        name = Path(image.source or "").stem
        if name == "slowly":  # touches page after page, so that it is ended and not refused
            held: list[NDArray[Any]] = []
            while len(held) < 300:
                held.append(np.ones(10_000_000, np.uint8))
                time.sleep(0.01)
        elif name == "at-once":
            np.ones(2_000_000_000, np.uint8)
        elif name == "never":
            np.ones(10**15, np.uint8)
        elif name == "python":
            time.sleep(0.1)
            "".join(chr(n % 50 + 60) for n in range(10**9))
        return found


class Heard(ProgressListener):
    """Record all messages."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def check_needs(folder: Path, threads: int) -> None:
    """Run images of which some need too much memory, and check what is said of them."""
    # A busy machine may take more than a minute to start a worker again.
    task_pool.WORKER_TIMEOUT_S = 300.0
    names = [f"i{n}" for n in range(20)] + ["slowly", "at-once", "never"][: 2 + (threads == 1)]
    for n, name in enumerate(names):
        put(folder / f"in/d1/s1/e1/{name}.png", grey(n))
    cohort = engine.create(folder / "cohort", layout=LAYOUT)
    log, heard = folder / "log", Heard()
    how: dict[str, Any] = {"workers": 1, "threads_per_worker": threads, "memory_limit": LIMIT}
    with connect_quietly(**how) as client:
        cohort.ingest(folder / "in", client=client)
        report = cohort.run(Hungry(log=str(log)), client=client, events=heard)
    hungry = len(names) - 20
    assert dict(report.reasons) == {"out_of_memory": hungry}
    assert report.published == len(names)
    failed = [one for one in cohort.status().failures if one.operation == "hungry"]
    assert {Path(one.source).stem for one in failed} == {*names[20:]}
    for one in failed:
        assert one.reason == "out_of_memory"
        assert one.attempts is not None
        assert one.attempts <= 2
        found = re.fullmatch(r"needs (at least|more than) (\S+) GB, had (\S+) GB", one.detail or "")
        assert found, one.detail
        needed, had = float(found[2]), float(found[3])
        assert 0.3 < had <= LIMIT / 1e9
        assert needed >= had
        if Path(one.source).stem == "at-once":
            assert 2.0 < needed < 3.0
    assert any("out_of_memory" in note and "GB" in note for note in heard.notes)
    table = next(name for name in report.tables if "by_image" in name)
    done = cohort.table(table).query("status == 'done'")
    assert len(done) == 20
    tries = [Path(source).stem for source in computed(log)]
    assert all(tries.count(name) <= 2 for name in names[20:])


@pytest.mark.timeout(900)
@pytest.mark.fault(32, "too little memory for a unit")
@pytest.mark.parametrize("threads", [1, 2])
def test_an_image_that_needs_too_much_says_so(tmp_path: Path, threads: int) -> None:
    """In a process of its own: in one of many tests, workers may take minutes to come back."""
    code = (
        "import pathlib, sys\nfrom tests.distributed.test_memory import check_needs\n"
        "if __name__ == '__main__':\n    check_needs(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(threads)],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
