"""What the command line imports and starts: no more than a command needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import typer
from distributed import Client
from typer.testing import CliRunner

import engine
from engine.execution.cluster import cluster as clusters
from jobs.cli import app
from jobs.lazy_commands import COMMANDS

SLOW = {"dask", "distributed", "pandas", "numba", "torch", "zarr", "numpy", "pyarrow"}


def imported(*arguments: str) -> set[str]:
    """Return the slow packages that a command imports in a process of its own."""
    code = (
        "import json, sys\nfrom jobs.start import main\n"
        f"sys.argv = ['cohort', *{list(arguments)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('\\n' + json.dumps([*sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return SLOW & set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["status", "--help"]])
def test_help_imports_nothing_slow(arguments: list[str]) -> None:
    allowed = {"numpy", "pyarrow"} if arguments != ["--help"] else set()
    assert not imported(*arguments) - allowed


def test_the_lines_of_help_are_those_of_the_commands() -> None:
    group = typer.main.get_command(app)
    context = typer.Context(group)
    for name, place in COMMANDS.items():
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        assert command.name == name
        assert " ".join(command.help.split("\n\n")[0].split()) == place.help


def test_an_unknown_command_is_refused_with_one_that_is_meant() -> None:
    done = CliRunner().invoke(app, ["statos"])
    assert done.exit_code == 2
    assert "'status'" in done.output


def test_help_names_the_operations() -> None:
    told = CliRunner().invoke(app, ["--help"]).output
    for name in ("circles", "contours", "bloodpool", "segment"):
        assert name in told


@pytest.fixture
def done_cohort(tmp_path: Path, client: Client) -> Path:
    """A cohort in which nothing is left to do, and beside its images files that are none."""
    data = tmp_path / "data"
    data.mkdir()
    plane = np.random.default_rng(1).integers(0, 255, (48, 64), np.uint8)
    imageio.imwrite(data / "a.png", plane)
    (data / "notes.txt").write_text("no image")
    (data / "truth").write_bytes(b"\x00\x01")
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(data, client=client)
    cohort.run(engine.circles(radius_px=(5, 10)), client=client)
    cohort.qc("circles", client=client)
    return tmp_path / "cohort"


@pytest.mark.parametrize("command", ["ingest", "run", "run circles --radius-px 5:10", "nightly"])
def test_no_cluster_starts_where_nothing_is_to_be_done(
    command: str, done_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(wanted: object) -> None:
        raise AssertionError("a cluster was started")

    monkeypatch.setitem(clusters.CLUSTER_TYPES, "local", refuse)  # type: ignore[arg-type]
    name, *rest = command.split()
    done = CliRunner().invoke(app, [name, str(done_cohort), *rest])
    assert done.exit_code == 0, done.output
    with pytest.raises(AssertionError, match="was started"):
        engine.open(done_cohort).run(engine.circles(radius_px=(5, 11)))


def test_wrong_sizes_are_refused_although_nothing_is_to_be_done(done_cohort: Path) -> None:
    for wrong in (["--workers", "0"], ["--memory-limit", "lots"], ["--scheduler", "nowhere"]):
        assert CliRunner().invoke(app, ["run", str(done_cohort), *wrong]).exit_code == 2
