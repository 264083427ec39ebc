"""The status names what is missing and what failed."""

from __future__ import annotations

import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from distributed import Client

import engine
from engine.status.status import read_status
from jobs.messages.core import status_lines
from tests.support.images import Counting, grey, put


def test_a_complete_cohort_says_so(made: Any) -> None:
    status = made.cohort.status()
    assert status.images == {"failed": 1, "ready": 7}
    assert status.last_ingest is not None
    declared, trial = status.keys
    assert (declared.key, declared.declared) == (made.declared.key, True)
    assert (trial.key, trial.declared) == (made.trial.key, False)
    for key in status.keys:
        assert (key.done, key.failed, key.missing) == (6, 1, 0)
        assert key.rows == 8, "the giant image has one row a block"
        assert key.note is None
        assert all(table.there and not table.stale for table in key.tables)
    assert trial.tables[0].name == f"circles@{made.trial.key[:8]}"
    assert status.complete
    json.dumps(status.as_json())


def test_each_failure_is_named(made: Any) -> None:
    named = [(f.source, f.operation, f.reason, f.attempts) for f in made.cohort.status().failures]
    assert named == [
        ("sources/d1/s2/e1/two-channels.tif", "circles", "channel_needed", 1),
        ("sources/d1/s2/e1/two-channels.tif", "circles", "channel_needed", 1),
        ("sources/d1/s2/e2/broken.png", "ingest", "truncated", None),
    ]
    failed = made.cohort.status().as_json()["failed"]
    assert all({"source", "operation", "reason", "attempts"} <= set(one) for one in failed)


def test_new_images_are_missing_until_the_next_run(
    small: Any, tmp_path: Path, client: Client
) -> None:
    more = tmp_path / "more"
    put(more / "d2/s9/e1/new.png", grey(1))
    cohort = small.cohort
    cohort.ingest(more, client=client)
    status = cohort.status()
    declared, trial = status.keys
    assert declared.missing == trial.missing == 1
    assert declared.missing_images == ("more/d2/s9/e1/new.png",)
    assert all(table.there and table.stale for table in declared.tables)
    assert not status.complete
    cohort.run(client=client)
    status = cohort.status()
    assert status.complete, "a trial may lag behind"
    assert [key.missing for key in status.keys] == [0, 1]


def test_a_trial_leaves_the_declared_tables_as_they_are(small: Any, client: Client) -> None:
    small.cohort.run(engine.circles(radius_px=(5, 10)), client=client, limit=2)
    status = small.cohort.status()
    assert [(key.declared, key.missing) for key in status.keys].count((False, 5)) == 1
    assert not any(table.stale for key in status.keys for table in key.tables)


@pytest.mark.parametrize("zeros", [False, True])
def test_a_table_that_ends_early_is_made_again(small: Any, client: Client, zeros: bool) -> None:
    (table,) = small.files("tables/circles.parquet")
    whole = table.read_bytes()
    half = whole[: len(whole) // 2]
    table.write_bytes(half.ljust(len(whole), b"\0") if zeros else half)
    (key,) = (key for key in small.cohort.status().keys if key.declared)
    assert [t.name for t in key.tables if t.stale] == ["circles"]
    small.cohort.run(client=client)
    assert small.cohort.status().complete
    assert pq.read_table(table).equals(pq.read_table(BytesIO(whole)))


def test_what_is_declared_and_never_ran_is_missing(small: Any) -> None:
    shutil.rmtree(small.path / "results")
    shutil.rmtree(small.path / "tables")
    (key,) = small.cohort.status().keys
    assert (key.declared, key.done, key.missing, key.rows) == (True, 0, 7, 0)
    assert len(key.missing_images) == 7
    assert all(table.stale and not table.there for table in key.tables)


def test_operations_that_are_not_installed_are_counted_by_rows(
    small: Any, tmp_path: Path, client: Client
) -> None:
    small.cohort.run(Counting(log=str(tmp_path / "log"), fails=("disc",)), client=client)
    status = read_status(small.cohort.store)
    (key,) = (key for key in status.keys if key.operation == "counting")
    assert key.missing is None
    assert key.note is not None
    assert "not installed" in key.note
    assert (key.done, key.failed, key.rows) == (5, 3, 8)
    named = {f.source.rsplit("/", 1)[-1] for f in status.failures if f.operation == "counting"}
    assert named == {"disc-0.png", "disc-1.png", "copy.png"}
    assert small.cohort.verify().ok


def test_a_declared_operation_that_is_gone_is_noted(small: Any) -> None:
    with (small.path / "cohort.toml").open("a") as toml:
        toml.write("\n[operations.squares]\nside = 3\n")
    status = small.cohort.status()
    assert not status.complete
    assert "squares" in status.notes[0]


@pytest.mark.parametrize("broken", [False, True])
def test_a_declared_operation_that_is_gone_is_told_once(
    broken: bool, small: Any, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.cohort.run(Counting(log=str(tmp_path / "log")), client=client)
    (small.path / "cohort.toml").write_text("[operations.counting]\n")
    if broken:
        info = tmp_path / "packages" / "gone-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gone\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[cohort.operations]\ncounting = gone:Counting\n")
        monkeypatch.syspath_prepend(info.parent)
    lines = status_lines(small.cohort.status())
    (key,) = (line for line in lines if line.startswith("counting, key"))
    assert "declared" not in key
    assert "trial" not in key
    assert "not installed" not in key
    assert not any("No operation is declared" in line for line in lines)
    (why,) = (line for line in lines if "can't be run" in line)
    assert ("No module named 'gone'" in why, "Install its package again" in why) == (broken,) * 2
    assert ("remove [operations.counting]" in why) != broken


def test_an_empty_cohort_has_a_status(tmp_path: Path) -> None:
    status = engine.create(tmp_path / "new").status()
    assert (dict(status.images), status.keys, status.failures) == ({}, (), ())
    assert status.last_ingest is None
