"""What the system refuses reaches people as a sentence, whatever it was raised as."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.plugins import FORMATS
from jobs.framework import run_command
from tests.support.operations import install_below

REPOSITORY = Path(__file__).parents[3]


class PanicException(BaseException):
    """What a library in Rust raises where it gives up: no `Exception`."""


RUST = 'Failed to create a runtime.: Os { code: 24, kind: Other, message: "Too many open files" }'


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (OSError(errno.EIO, "Input/output error", "/c/x"), "at /c/x (Input/output error, EIO)"),
        (OSError(errno.ESTALE, "Stale file handle"), "(Stale file handle, ESTALE)"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/c/x"), "The quota is used up at /c/x."),
        (OSError(errno.EMFILE, "Too many open files", "/c/x"), "ulimit -n 4096"),
        (PanicException(RUST), "ulimit -n 4096"),
        (RuntimeError("\x1b[31mwrite\x1b[0m: No space left (os error 28)"), "No space left at"),
    ],
)
def test_an_error_of_the_system_is_a_sentence(
    raised: BaseException, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise raised

    with pytest.raises(SystemExit) as ended:
        run_command(True, fail)
    said = capsys.readouterr()
    assert ended.value.code == 1
    assert told in " ".join(said.err.split())
    assert json.loads(said.out)["message"].count("\x1b") == 0


def test_a_fault_of_ours_is_not_hidden() -> None:
    def fail(_: object) -> int:
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        run_command(True, fail)


def test_a_limit_of_open_files_that_is_too_low_is_named(tmp_path: Path) -> None:
    command = f"ulimit -n 60 && exec {sys.executable} -m jobs.start ingest {tmp_path}/c {tmp_path}"
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert "60 that a process may open" in line
    assert "ulimit -n 4096" in line


def test_a_format_that_can_not_be_imported_is_named(tmp_path: Path) -> None:
    """A folder without images needs no cluster, so the driver looks for packages itself."""
    install_below(tmp_path / "packages", {"plain": "no_such_module:FORMAT"}, FORMATS)
    data = tmp_path / "data"
    data.mkdir()
    (data / "notes.txt").write_text("no image")
    found = os.pathsep.join([str(REPOSITORY), str(tmp_path / "packages")])
    done = subprocess.run(
        [sys.executable, "-m", "jobs.start", "ingest", "c", "data"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": found},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 0, said
    assert "of 1 file none is DICOM, PNG, TIFF, JPEG or NIfTI." in said
    assert "'plain' is offered as no_such_module:FORMAT" in said
    assert "ModuleNotFoundError" in said
