"""Images are never catalogued without their files, and those that once were are taken again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from distributed import Client

import engine
from engine.errors import EngineError, StoreFailed, StoreUnreachable
from engine.execution import quarantine
from engine.privacy import KEY
from engine.store.catalog.tables import shards_ledger
from engine.store.delta.ledger import Ledger, Snapshot
from engine.store.delta.parts import Part
from tests.support.dicom import KEY as SECRET
from tests.support.dicom import put_dicom
from tests.support.images import Counting, catalog, computed, files_below, grey, night, put

IMAGES = 20  # shards of three


def failing_commits(
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    times: int,
    when: str,
    fault: EngineError | None = None,
) -> Callable[[], int]:
    """Have commits of a ledger fail some times, before or after they are made."""
    commit = Ledger.commit
    failed = 0

    def failing(ledger: Ledger, *given: Any, **named: Any) -> Snapshot:
        nonlocal failed
        due = ledger.path == path and failed < times
        failed += due
        raised = fault or StoreUnreachable(ledger.store.url, "it was pulled")
        if due and when == "before":
            raise raised
        found = commit(ledger, *given, **named)
        if due:
            raise raised
        return found

    monkeypatch.setattr(Ledger, "commit", failing)
    return lambda: failed


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("ledger", ["catalog/shards", "catalog/images"])
def test_a_commit_that_fails_leaves_no_image_without_its_files(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch,
    ledger: str, times: int, when: str, log: str,
) -> None:  # fmt: skip
    night(tmp_path / "data", IMAGES)
    cohort = engine.create(tmp_path / "cohort")
    monkeypatch.setattr(quarantine, "COMMIT_S", 0.0)
    with monkeypatch.context() as patch:
        failed = failing_commits(patch, ledger, times, when)
        with pytest.raises(StoreUnreachable):
            cohort.ingest(tmp_path / "data", client=client)
    assert failed() in {1, times}
    assert cohort.verify().problems == ()
    assert len(cohort.images()) == len(catalog(cohort))
    report = cohort.ingest(client=client)
    assert (report.failed, report.left) == (0, 0)
    assert cohort.verify().problems == ()
    assert len(catalog(cohort)) == IMAGES
    run = cohort.run(Counting(log=log), client=client)
    assert (run.published, run.failed) == (IMAGES, 0)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_failed_commit_of_results_left_is_not_computed_twice(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch, when: str, times: int, log: str
) -> None:
    night(tmp_path / "data", IMAGES)
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(tmp_path / "data", client=client)
    with monkeypatch.context() as patch:
        failing_commits(patch, "results/counting/v1", times, when)
        with pytest.raises(StoreUnreachable):
            cohort.run(Counting(log=log), client=client)
    first = computed(log)
    run = cohort.run(Counting(log=log), client=client)
    assert (run.published + run.up_to_date, run.failed) == (IMAGES, 0)
    # Only where no commit came through did the parts wait for nothing.
    assert len(computed(log)) == (IMAGES if times == 2 and when == "before" else 0)
    assert len(first) == IMAGES
    assert cohort.verify().problems == ()


def forget_shards(cohort: engine.Cohort, forgotten: Callable[[dict[str, Any]], bool]) -> None:
    """Make a cohort as such an ingest left it: the catalog names some files no more."""
    ledger = shards_ledger(cohort.store)
    snapshot = ledger.snapshot()
    rows = ledger.read(snapshot.parts).to_pylist()
    kept = [row for row in rows if not forgotten(row)]
    assert len(kept) < len(rows)
    table = pa.Table.from_pylist(kept, schema=ledger.schema)
    added: list[Part] = [ledger.write_part(table)] if kept else []
    ledger.commit(snapshot, added, snapshot.parts)


FORGOTTEN: dict[str, Callable[[dict[str, Any]], bool]] = {
    "all": lambda row: True,
    "metadata": lambda row: row["shard"] < 0,
    "some shards": lambda row: row["shard"] in (1, 4),
    "the first": lambda row: row["shard"] == 0 and row["level"] == 0,
}


def write_sources(tmp_path: Path) -> int:
    """Write sources: a stack, a giant image, a copy, and a series."""
    night(tmp_path / "data", IMAGES)
    put(tmp_path / "data/d2/s0/e1/giant.png", grey(90, (2100, 60)))
    put(tmp_path / "data/d2/s0/e1/copy.png", grey(0))
    for z in range(3):
        place = {"InstanceNumber": z + 1, "ImagePositionPatient": [0, 0, float(z)]}
        put_dicom(tmp_path / "scans" / f"z{z}.dcm", grey(200 + z), **place)
    return IMAGES + 5


@pytest.mark.parametrize(
    ("forgotten", "rehash"), [(name, True) for name in FORGOTTEN] + [("some shards", False)]
)
def test_images_without_catalogued_files_are_named_kept_and_taken_again(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch,
    forgotten: str, rehash: bool, log: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(KEY, SECRET)
    cohort = engine.create(tmp_path / "cohort")
    with (tmp_path / "cohort/cohort.toml").open("a") as toml:
        toml.write("\n[limits]\ngiant_bytes = 100000\n")
    count = write_sources(tmp_path)
    cohort.ingest(tmp_path / "data", tmp_path / "scans", client=client)
    before = {name: row["content"] for name, row in catalog(cohort).items()}
    assert len(before) == count
    pixels = files_below(cohort, "pixels")
    forget_shards(cohort, FORGOTTEN[forgotten])

    named = {p.text.split(": ")[0] for p in cohort.verify().problems}
    assert named <= before.keys()
    assert len(named) >= 3
    assert all("--rehash" in p.text for p in cohort.verify().problems)
    cohort.gc(older_than_s=0)
    kept = files_below(cohort, "pixels")
    concerned = {catalog(cohort)[name]["stack"] for name in named}
    assert {p for p in pixels if p.split(".zarr")[0] in concerned} <= kept.keys()
    run = cohort.run(Counting(log=log), client=client)
    assert run.failed >= len(named)  # a giant image has a row a block
    computed(log)

    copied = put(tmp_path / "data/d3/s0/e1/new.png", grey(4))  # the same pixels under a new name
    assert copied.exists()
    report = cohort.ingest(client=client, rehash=rehash)
    assert (report.failed, report.new, report.changed, report.left) == (0, 1, 0, 0)
    assert report.healed >= len(named)
    assert cohort.verify().ok
    now = {name: row["content"] for name, row in catalog(cohort).items()}
    assert {name: now[name] for name in before} == before
    for image in cohort.images():
        image.load()
    plan = cohort.plan(Counting(log=log))
    assert plan.causes["pixels"] == len(named)
    run = cohort.run(Counting(log=log), client=client)
    assert run.failed == 0
    assert cohort.status().failures == ()
    again = cohort.ingest(client=client, rehash=rehash)
    assert (again.healed, again.new, again.changed) == (0, 0, 0)
    cohort.gc(older_than_s=0)
    report_after = cohort.verify()
    assert (report_after.ok, report_after.leftovers) == (True, ())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("path", ["catalog/shards", "catalog/images", "results/counting/v1"])
def test_a_fault_of_the_disk_that_passes_is_tried_again(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch, when: str, path: str, log: str
) -> None:
    night(tmp_path / "data", 4)
    cohort = engine.create(tmp_path / "cohort")
    fault = StoreFailed("/c", "Input/output error, EIO")
    failed = failing_commits(monkeypatch, path, 1, when, fault)
    report = cohort.ingest(tmp_path / "data", client=client)
    assert (report.new, report.left) == (4, 0)
    run = cohort.run(Counting(log=log), client=client)
    assert (run.published, run.failed) == (4, 0)
    assert failed() == 1
    assert cohort.verify().problems == ()


def test_torn_images_whose_source_is_gone_ask_for_it(tmp_path: Path, client: Client) -> None:
    night(tmp_path / "data", IMAGES)
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(tmp_path / "data", client=client)
    forget_shards(cohort, FORGOTTEN["some shards"])
    torn = [p.text.partition(":")[0] for p in cohort.verify().problems if "--rehash" in p.text]
    gone = [tmp_path / name for name in torn[:2]]
    kept = [path.read_bytes() for path in gone]
    for path in gone:
        path.unlink()
    cohort.ingest(client=client)
    texts = [p.text for p in cohort.verify().problems if "not in the catalog of shards" in p.text]
    assert len(texts) == len(gone)
    assert all("its source is gone: put that back" in text for text in texts)
    for path, data in zip(gone, kept, strict=True):
        path.write_bytes(data)
    cohort.ingest(client=client, rehash=True)
    assert cohort.verify().problems == ()
    assert len(cohort.images()) == IMAGES
