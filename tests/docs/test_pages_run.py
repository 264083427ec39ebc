"""Commands and Python of each page run as they stand, in order, beside the files it names."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import distributed
import pytest
import tomlkit

from tests.docs.command_lines import lines_of
from tests.docs.pages import TOP, Block, blocks
from tests.docs.scenarios import PARSED_ONLY, SCENARIOS, Scenario

OTHERS = {"pip", "napari", "docker", "dask"}
"""Programs whose lines are left out: they install, or open windows and servers."""

COMPUTING = "demo|ingest|run|qc|train|evaluate"
"""Commands that compute; they get one cluster, since starting workers takes most of the time."""

TIMEOUT_S = 600
"""Of one block, seconds; minutes where other work takes the cores, and kernels are compiled."""


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """Return the address of a cluster that other processes reach.

    Its worker is a process: a task that trains creates a client of its worker, which would remain
    the default client of this process after the cluster closed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Dask leaks the port of a dashboard
        with distributed.LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            dashboard_address=":0",
            resources={"GPU": 1},
        ) as cluster:
            yield cluster.scheduler_address
        gc.collect()


@pytest.fixture
def folder(tmp_path: Path, scheduler: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, with `cohort` of this repository on the path."""
    programs = tmp_path / "programs"
    programs.mkdir()
    program = f'exec "{sys.executable}" -m jobs.start'
    (programs / "cohort").write_text(
        f'#!/bin/sh\ncase "$1" in {COMPUTING}) {program} "$@" --scheduler {scheduler} ;; esac\n'
        f'{program} "$@"\n'
    )
    (programs / "cohort").chmod(0o755)
    place = tmp_path / "reader"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(TOP))
    monkeypatch.setenv("COHORT_PSEUDONYM_KEY_FILE", str(place / "key"))
    monkeypatch.delenv("COHORT_PSEUDONYM_KEY", raising=False)
    return place


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", SCENARIOS)
def test_page_runs(page: str, folder: Path) -> None:
    scenario = SCENARIOS[page]
    for package in scenario.extras:
        pytest.importorskip(package)
    scenario.prepare(folder)
    ran = 0
    for block in blocks("sh", "python", "toml", page=page):
        if block.name not in PARSED_ONLY:
            run(shortened(block, scenario, folder), scenario, folder)
            ran += 1
    assert ran


def shortened(block: Block, scenario: Scenario, folder: Path) -> Block:
    """Return a block with the replacements of its page."""
    code = block.code
    for text, other in scenario.replaced.items():
        code = code.replace(text, other.format(folder=folder))
    return block._replace(code=code)


def run(block: Block, scenario: Scenario, folder: Path) -> None:
    """Run a block; settings are merged into the cohort's."""
    if block.language == "toml":
        file = folder / "COHORT" / "cohort.toml"
        if file.exists():
            settings = tomlkit.parse(file.read_text())
            merge(settings, tomlkit.parse(block.code))
            file.write_text(tomlkit.dumps(settings))
        return
    if block.language == "sh":
        kept = [line for line in lines_of(block.code) if line.split()[0] not in OTHERS]
        words = ["bash", "-euo", "pipefail", "-c", "\n".join(kept)]
    else:
        words = [sys.executable, "-c", scenario.given + block.code]
    ended = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert ended.returncode == 0, f"{block.code}\n{ended.stdout}\n{ended.stderr}"


def merge(settings: MutableMapping[str, Any], more: MutableMapping[str, Any]) -> None:
    """Add settings to others, table by table."""
    for name, value in more.items():
        if isinstance(value, MutableMapping) and name in settings:
            merge(settings[name], value)
        else:
            settings[name] = value
