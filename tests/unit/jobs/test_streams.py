"""A full disk or a reader that is gone behind a stream: the work is done, and no traceback said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import engine
from tests.support.images import discs, put

FULL = "/dev/full"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    put(folder / "d/s/e/a.png", discs(1))
    return Path(engine.create(folder / "c").store.url)


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Run ``cohort`` as a shell does, its redirections included."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"{sys.executable}" -m jobs.start {command}'],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("more", ["", "--json"])
def test_a_result_that_has_no_room_is_said_and_is_exit_code_1(cohort: Path, more: str) -> None:
    ended = shell(f"status {cohort} {more} >{FULL}")
    assert ended.returncode == 1
    assert ended.stderr == (
        "cohort: the result can't be written: No space left on device. "
        "Committed work is kept.\n"
    )  # fmt: skip


@pytest.mark.parametrize("redirected", [">&-", "2>&-", ">&- 2>&-", f"2>{FULL}", "| true"])
def test_streams_that_nobody_reads_change_nothing(cohort: Path, redirected: str) -> None:
    ended = shell(f"status {cohort} {redirected}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ("Images" in ended.stdout) == (redirected in ("2>&-", f"2>{FULL}"))


@pytest.mark.parametrize("log", [f"2>{FULL}", "2>&-", "2> >(exec true)"])
def test_a_log_that_has_no_room_ends_no_work(cohort: Path, log: str) -> None:
    sources = cohort.parent / "d"
    put(sources / "s/e" / f"{len(log)}.png", discs(len(log)))
    ended = shell(f"ingest {cohort} {sources} --json --workers 1 {log}")
    assert ended.returncode == 0, ended.stdout
    assert json.loads(ended.stdout)["new"] >= 1
    assert "Traceback" not in ended.stdout
