"""Bad sectors and lost shares under sources: each costs itself, by name, until it heals."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bad_disks import SCENES

TOP = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library that lets reads fail."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build the library that lets reads fail")
    made = tmp_path_factory.mktemp("library") / "bad_sectors.so"
    source = TOP / "tests" / "support" / "bad_sectors.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


@pytest.mark.fault(29, "a source with bad sectors; a share that goes stale")
@pytest.mark.parametrize("scene", [scene.__name__ for scene in SCENES])
def test_a_source_that_cannot_be_read_costs_itself(
    scene: str, library: Path, tmp_path: Path
) -> None:
    rules = tmp_path / "rules"
    rules.write_text("")
    (tmp_path / "base").mkdir()
    added = {"LD_PRELOAD": str(library), "BAD_SECTORS": str(rules), "PYTHONPATH": str(TOP)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.bad_disks", scene, str(tmp_path / "base")],
        env={**os.environ, **added}, cwd=TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
