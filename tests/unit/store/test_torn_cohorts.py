"""A cohort with torn ledgers: the next ingest, run or command puts it right, and says so."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import engine
from engine.errors import CorruptStore
from engine.execution.progress import ProgressListener
from engine.store.delta.checkpoints import write_checkpoint
from engine.store.delta.integrity import checkpoint_name, record_head
from engine.store.delta.torn import TORN
from jobs.cli import main
from jobs.messages.core import advice_about
from tests.unit.conftest import Small, write_sources

RESULTS = f"results/circles/v{engine.circles.version}"


class Told(ProgressListener):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.notes.append(text)


def tear(small: Small, ledger: str, count: int = 1, size: int = 0) -> list[str]:
    """Leave some bytes of a ledger's newest entries; return their paths."""
    log = small.files(f"{ledger}/_delta_log/*.json")[-count:]
    for path in log:
        os.truncate(path, size)
    return [path.relative_to(small.path).as_posix() for path in log]


def pixels(cohort: engine.Cohort) -> dict[str, Any]:
    return {image.attrs["image_id"]: image.values for image in cohort.images()}


def circles(cohort: engine.Cohort) -> str:
    frame = cohort.table("circles").drop(columns="elapsed_s", errors="ignore")
    return str(frame.to_csv())


def check_clean(cohort: engine.Cohort) -> None:
    assert cohort.verify().problems == ()


def test_lost_results_are_computed_again_and_their_tables_made_again(
    small: Small, made: Small, client: Client
) -> None:
    count = len(small.files(f"{RESULTS}/_delta_log/*.json")) - 1
    torn = tear(small, RESULTS, count)
    cohort = small.cohort
    named = {p.path: p for p in cohort.verify().problems}
    assert {*torn} <= {*named}
    assert all(TORN in named[path].text for path in torn)
    with pytest.raises(CorruptStore, match=TORN):
        cohort.plan(small.declared)
    told = Told()
    report = cohort.run(small.declared, client=client, events=told)
    assert any(f"{RESULTS}: a power cut tore" in note for note in told.notes)
    assert report.published > 0
    cohort.run(small.trial, client=client)
    assert circles(cohort) == circles(made.cohort)
    check_clean(cohort)
    report = cohort.run(small.declared, client=client)
    assert report.published == 0


def test_tables_of_lost_commits_are_read_until_they_are_made_again(
    small: Small, made: Small, client: Client
) -> None:
    """The run that comes makes fewer commits, so its tables are of smaller versions."""
    ledger = engine.runs.worker.ledger_of(small.cohort.store, small.declared)
    snapshot = ledger.snapshot()
    for _ in range(3):  # as if it had been computed in many small commits
        part = snapshot.of_key(small.declared.key)[0]
        again = ledger.write_part(ledger.read_part(part), small.declared.key)
        snapshot = ledger.commit(snapshot, [again], [part])
    small.cohort.run(small.declared, client=client)
    tear(small, RESULTS, snapshot.version)
    (done,) = small.cohort.repair()
    assert {"circles", "circles_by_image"} <= {*done.tables}
    assert circles(small.cohort) == circles(made.cohort)
    report = small.cohort.verify()
    assert report.ok, "tables that are to be made again are no damage"
    lost = {p.path for p in report.problems if "that are lost" in p.text}
    assert {"tables/circles.parquet", "tables/circles_by_image.parquet"} <= lost
    for operation in (small.declared, small.trial):
        small.cohort.run(operation, client=client)
    assert circles(small.cohort) == circles(made.cohort)
    check_clean(small.cohort)


@pytest.mark.parametrize("ledger", ["catalog/images", "catalog/shards"])
@pytest.mark.parametrize("size", [0, 300])
def test_lost_images_are_taken_again(
    ledger: str, size: int, small: Small, made: Small, client: Client
) -> None:
    tear(small, ledger, 1, size)
    cohort = small.cohort
    told = Told()
    cohort.ingest(client=client, events=told)
    assert any(f"{ledger}: a power cut tore 1 commit" in note for note in told.notes)
    right, found = pixels(made.cohort), pixels(cohort)
    assert found.keys() == right.keys()
    assert all(np.array_equal(found[name], right[name]) for name in right)
    for operation in (small.declared, small.trial):
        cohort.run(operation, client=client)
    assert circles(cohort) == circles(made.cohort)
    check_clean(cohort)


def test_results_of_lost_images_whose_sources_are_gone_count_once_these_are_back(
    client: Client, tmp_path: Path
) -> None:
    small = Small(
        tmp_path / "c", tmp_path / "lab", engine.circles(radius_px=(5, 12)), engine.circles()
    )
    write_sources(small.sources)
    gone = small.sources / "d1/s1/e1/disc-1.png"
    content = gone.read_bytes()
    cohort = engine.create(small.path)
    cohort.ingest(small.sources, client=client)
    cohort.run(small.declared, client=client)
    expected = circles(cohort)
    gone.unlink()
    tear(small, "catalog/images")
    cohort.ingest(small.sources, client=client)
    cohort.run(small.declared, client=client)
    assert "disc-1" not in circles(cohort)
    report = cohort.verify()
    assert report.ok
    (problem,) = report.problems
    assert "lab/d1/s1/e1/disc-1.png" in problem.text
    gone.write_bytes(content)
    cohort.ingest(client=client)
    done = cohort.run(small.declared, client=client)
    assert done.published == 0, "its results are still there"
    assert circles(cohort) == expected
    check_clean(cohort)


def test_commands_repair_and_say_so(
    small: Small, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(small.path)
    tear(small, "catalog/images")

    def said(*arguments: str, code: int) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["cohort", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        found = capsys.readouterr()
        return found.out, found.err

    out, _ = said("verify", place, code=1)
    assert "a power cut tore it, and the commit that it was is lost" in out
    assert "put it back from a backup" not in out
    out, _ = said("verify", place, "--repair", "--json", code=0)
    values = json.loads(out)
    assert [(one["ledger"], one["commits"]) for one in values["repaired"]] == [
        ("catalog/images", 1)
    ]
    assert not any(TORN in problem["text"] for problem in values["problems"])
    out, _ = said("verify", place, "--repair", code=0)
    assert "Nothing to repair" in out
    tear(small, RESULTS)
    _, err = said("status", place, code=0)
    assert f"{RESULTS}: a power cut tore 1 commit made after 20" in err
    _, err = said("status", place, code=0)
    assert "power cut" not in err


def with_checkpoint(small: Small, ledger: str) -> Path:
    """Write a checkpoint of a ledger's newest entry, as every hundredth commit does."""
    store = small.cohort.store
    newest = len(small.files(f"{ledger}/_delta_log/*.json")) - 1
    write_checkpoint(store, ledger, newest, {})
    record_head(store, ledger, newest)
    check_clean(small.cohort)
    return small.path / ledger / "_delta_log" / checkpoint_name(newest)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize("ledger", ["catalog/images", "catalog/shards", RESULTS])
@pytest.mark.parametrize("what", ["pointer gone", "checkpoint gone", "checkpoint", "head"])
def test_what_the_log_implies_is_made_again_on_request(
    ledger: str, what: str, small: Small, made: Small, client: Client
) -> None:
    checkpoint = with_checkpoint(small, ledger)
    pointer = checkpoint.with_name("_last_checkpoint")
    entries = len(small.files(f"{ledger}/_delta_log/*.json"))
    if "gone" in what:
        (pointer if "pointer" in what else checkpoint).unlink()
    else:
        flip(checkpoint if what == "checkpoint" else small.path / ledger / "_head.json")
    problems = small.cohort.verify().problems
    assert problems
    (done,) = small.cohort.repair()
    assert (done.ledger, done.commits, done.tables) == (ledger, 0, ())
    assert "nothing was lost" in str(done)
    check_clean(small.cohort)
    assert len(small.files(f"{ledger}/_delta_log/*.json")) == entries
    assert circles(small.cohort) == circles(made.cohort)
    assert small.cohort.run(small.declared, client=client).published == 0
    assert small.cohort.repair() == ()
    told = "\n".join(filter(None, (advice_about(problem.path) for problem in problems)))
    assert "--repair" in told
    assert "backup" not in told


@pytest.mark.parametrize("ledger", ["catalog/images", RESULTS])
def test_a_checkpoint_of_an_entry_that_is_gone_goes_too(
    ledger: str, small: Small, made: Small, client: Client
) -> None:
    checkpoint = with_checkpoint(small, ledger)
    (small.path / ledger / "_delta_log" / checkpoint.name.split(".")[0]).with_suffix(
        ".json"
    ).unlink()
    (done,) = small.cohort.repair()
    assert (done.commits, done.missing) == (1, 1)
    assert f"{ledger}: no log entry is left of 1 commit made after 20" in str(done)
    assert "power cut" not in str(done)
    small.cohort.ingest(client=client)
    for operation in (small.declared, small.trial):
        small.cohort.run(operation, client=client)
    assert circles(small.cohort) == circles(made.cohort)
    check_clean(small.cohort)


def test_a_torn_picture_is_drawn_again(small: Small, client: Client) -> None:
    """Also one that no note names yet, as of a QC that the power cut ended."""
    small.cohort.qc(small.declared, client=client)
    pictures = small.files("qc/circles/overlays/**/*.jpg")
    whole = {path: path.read_bytes() for path in pictures}
    (small.path / "qc/circles/.note").unlink()
    for path in pictures:
        os.truncate(path, 0)
    small.cohort.qc(small.declared, client=client)
    assert {path: path.read_bytes() for path in pictures} == whole
    check_clean(small.cohort)


def test_who_only_reads_is_told_and_changes_nothing(small: Small) -> None:
    (torn,) = tear(small, "catalog/images")
    before = {path: path.stat().st_mtime_ns for path in small.path.rglob("*")}
    for read in (small.cohort.images, small.cohort.status):
        with pytest.raises(CorruptStore, match=TORN):
            read()
    assert not small.cohort.verify().ok
    assert {path: path.stat().st_mtime_ns for path in small.path.rglob("*")} == before
    assert (small.path / torn).exists()
    assert Path(small.path, "catalog/images/_head.json").exists()
