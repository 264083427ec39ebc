"""The command line as people and their scripts use it: real processes, exit codes, sentences."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import skimage.data

from engine.store.backend.open import open_store
from engine.store.catalog.tables import images_ledger
from engine.store.results import results_ledger

HERE = Path(__file__).resolve().parents[3]

ONE = ("--workers", "1")
"""One worker where it is not in question how many: each takes seconds to start."""


def cohort(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell would."""
    return subprocess.run(
        [sys.executable, "-m", "jobs.start", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )


def values(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the one JSON object on standard output."""
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def versions(place: Path) -> tuple[int, int]:
    """Return the versions of the catalog and of the circles' ledger."""
    store = open_store(place)
    from engine.operations.circles import OBJECTS

    results = results_ledger(store, "circles", 1, OBJECTS).snapshot().version
    return images_ledger(store).snapshot().version, results


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("cli")
    return folder / "demo", values(cohort("demo", "demo", "--json", folder=folder))


def test_the_demo_makes_all_tables(demo: tuple[Path, dict[str, Any]]) -> None:
    place, said = demo
    assert said["ingest"]["new"] == 12
    assert said["run"]["published"] == 12
    assert said["run"]["failed"] == 0
    circles = pd.read_parquet(place / "cohort" / "tables" / "circles.parquet")
    assert list(circles.columns[:8]) == [
        "date", "subject", "experiment", "name", "circle", "x", "y", "radius_px",
    ]  # fmt: skip
    assert len(pd.read_parquet(place / "cohort/tables/circles_by_image.parquet")) == 12


def test_a_second_ingest_and_run_compute_nothing(demo: tuple[Path, dict[str, Any]]) -> None:
    place, _ = demo
    before = versions(place / "cohort")
    taken = values(cohort("ingest", "cohort", "--json", folder=place))
    assert (taken["new"], taken["changed"], taken["unchanged"]) == (0, 0, 12)
    done = cohort("run", "cohort", folder=place)
    assert done.returncode == 0
    assert "nothing to do" in done.stdout
    assert versions(place / "cohort") == before


def test_status_and_verify_say_that_all_is_well(demo: tuple[Path, dict[str, Any]]) -> None:
    place, _ = demo
    status = values(cohort("status", "cohort", "--json", folder=place))
    assert status["complete"] is True
    assert status["failed"] == []
    assert values(cohort("verify", "cohort", "--json", folder=place))["ok"] is True


def test_damaged_results_are_computed_anew_as_verify_says(
    demo: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    place = tmp_path / "cohort"
    shutil.copytree(demo[0] / "cohort", place)
    part = next(place.glob("results/circles/*/key=*/*.parquet"))
    part.write_bytes(b"torn")
    damaged = cohort("verify", "cohort", folder=tmp_path)
    assert damaged.returncode == 1
    assert "or remove their files" in damaged.stdout
    held = len(pd.read_parquet(demo[0] / part.relative_to(tmp_path)))
    part.unlink()
    (report,) = values(cohort("run", "cohort", "--json", folder=tmp_path))["runs"]
    assert (report["published"], report["failed"]) == (held, 0)
    assert "All is well." in cohort("verify", "cohort", folder=tmp_path).stdout


def test_pictures_are_made_once(demo: tuple[Path, dict[str, Any]]) -> None:
    place, said = demo
    assert (said["qc"]["shown"], said["qc"]["made"], said["qc"]["failed"]) == (12, 16, 0)
    assert Path(said["qc"]["page"]).is_file()
    (again,) = values(cohort("qc", "cohort", "--json", folder=place))["qc"]
    assert (again["made"], again["up_to_date"], again["page_made"]) == (0, 16, False)


def test_a_plan_says_which_parameter_changed(demo: tuple[Path, dict[str, Any]]) -> None:
    place, _ = demo
    before = versions(place / "cohort")
    done = cohort("plan", "cohort", "circles", "--radius-px", "15:50", folder=place)
    assert done.returncode == 0
    assert "radius_px 15:65 -> 15:50" in done.stdout
    assert versions(place / "cohort") == before


def test_coins_go_through_the_same_commands(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    iio.imwrite(tmp_path / "photos" / "coins.png", skimage.data.coins())
    assert values(cohort("ingest", "c", "photos", "--json", *ONE, folder=tmp_path))["new"] == 1
    run = cohort("run", "c", "circles", "--radius-px", "15:35", "--json", *ONE, folder=tmp_path)
    assert values(run)["runs"][0]["declared"] is True
    assert (
        values(cohort("export", "c", "circles", "out.csv", "--json", folder=tmp_path))["rows"] == 24
    )
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows} == {"coins"}
    assert all(np.isfinite(float(row["mean_intensity"])) for row in rows)
    assert [int(row["circle"]) for row in rows] == list(range(1, 25))


def test_a_folder_of_other_things_is_no_place_for_a_demo(
    demo: tuple[Path, dict[str, Any]],
) -> None:
    place, _ = demo
    done = cohort("demo", "cohort", folder=place)
    assert done.returncode == 2
    assert "a new or empty folder" in done.stderr


def test_failures_over_the_limit_are_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    iio.imwrite(tmp_path / "in" / "good.png", np.zeros((32, 32), np.uint8))
    assert cohort("ingest", "c", "in", *ONE, folder=tmp_path).returncode == 3
    (tmp_path / "in" / "broken.png").write_bytes(b"still none")
    assert cohort("ingest", "c", "in", "--max-failed", "1", *ONE, folder=tmp_path).returncode == 0
    status = values(cohort("status", "c", "--json", folder=tmp_path))
    assert [(f["source"], f["reason"]) for f in status["failed"]] == [
        ("in/broken.png", "not_an_image")
    ]
