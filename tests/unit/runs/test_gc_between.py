"""gc at the worst moment: between the writing of something and its commit, clocks a day apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from distributed import Client

import engine
from engine.execution import quarantine
from engine.ingest import driver as ingest_driver
from engine.operations.base import Operation
from engine.runs import publish
from engine.runs.driver import Incomplete
from engine.store.catalog import tables as catalog_module
from engine.store.delta.ledger import Ledger, Snapshot
from engine.store.pixels.stacks import create_stack
from engine.tables import driver as reduce
from tests.support.images import Counting, catalog, computed, night
from tests.support.label_operation import Bands
from tests.unit.ingest.test_annotations import Place

IMAGES = 20  # shards of three


@pytest.fixture
def cohort(tmp_path: Path, client: Client) -> engine.Cohort:
    night(tmp_path / "data", IMAGES)
    made = engine.create(tmp_path / "cohort")
    made.ingest(tmp_path / "data", client=client)
    return made


def collect(cohort: engine.Cohort) -> list[str]:
    """Collect as with a clock a day ahead."""
    return [left.path for left in cohort.gc(older_than_s=0)]


@contextmanager
def gc_before_commits(
    monkeypatch: pytest.MonkeyPatch, cohort: engine.Cohort, path: str, times: int = 1
) -> Iterator[list[list[str]]]:
    """Collect just before commits of a ledger; give what was removed each time."""
    commit = Ledger.commit
    removed: list[list[str]] = []

    def late(ledger: Ledger, *given: Any, **named: Any) -> Snapshot:
        if ledger.path == path and len(removed) < times:
            removed.append(collect(cohort))
        return commit(ledger, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "commit", late)
        yield removed


def settled(cohort: engine.Cohort, operation: Operation, client: Client) -> None:
    """Check that one more run completes what is left, and that nothing is wrong or left then."""
    cohort.run(operation, client=client)
    run = cohort.run(operation, client=client)
    assert (run.planned, run.failed, run.up_to_date) == (0, 0, IMAGES)
    assert cohort.verify().problems == ()
    assert len(cohort.table(run.tables[1])) == IMAGES


@pytest.mark.parametrize("times", [1, 2])
def test_parts_that_gc_takes_before_their_commit_are_computed_again(
    cohort: engine.Cohort, client: Client, log: str, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(quarantine, "COMMIT_S", 0.0)
    gc = gc_before_commits(monkeypatch, cohort, "results/counting/v1", times)
    with gc as removed, pytest.raises(Incomplete) as told:
        cohort.run(Counting(log=log), client=client)
    assert any(path.startswith("results/") for paths in removed for path in paths)
    missing, selected = told.value.args
    assert (0 < missing <= IMAGES, selected) == (True, IMAGES)
    assert cohort.verify().ok  # nothing is named that is not there
    computed(log)
    assert cohort.plan(Counting(log=log)).to_compute == missing
    settled(cohort, Counting(log=log), client)
    assert len(computed(log)) == missing


@pytest.mark.parametrize("retried", [False, True])
def test_a_key_whose_parts_are_gone_computes_what_they_held(
    cohort: engine.Cohort, client: Client, log: str, monkeypatch: pytest.MonkeyPatch, retried: bool
) -> None:
    asked = Counting(log=log, fails=("i3", "i4") if retried else ())
    cohort.run(Counting(log=log, copies=2), client=client)  # another key, which keeps its parts
    monkeypatch.setattr(quarantine, "COMMIT_S", 0.0)
    with monkeypatch.context() as patch:  # the driver dies before it looks
        for module in (catalog_module, publish):
            patch.setattr(module, "absent", lambda *_: [])
        gc = gc_before_commits(monkeypatch, cohort, "results/counting/v1")
        with gc, pytest.raises(engine.EngineError):
            cohort.run(asked, client=client)
    computed(log)
    problems = cohort.verify().problems
    gone = [p for p in problems if p.kind == "missing"]
    assert gone
    assert all("the next run computes again what it held" in p.text for p in gone)
    (state,) = [key for key in cohort.status().keys if key.key == asked.key]
    assert set(state.gone) == {p.path for p in gone}
    plan = cohort.plan(asked)
    assert 0 < plan.to_compute <= IMAGES
    assert plan.causes["results"] == plan.to_compute
    report = cohort.run(asked, client=client, retry_failed=retried)
    assert report.planned >= plan.to_compute
    assert len(computed(log)) >= plan.to_compute
    assert cohort.verify().problems == ()
    again = cohort.run(asked, client=client)
    assert again.planned == 0
    assert cohort.status().keys[0].gone == cohort.status().keys[1].gone == ()


def test_a_deleted_part_is_computed_again_and_nothing_else_is(
    cohort: engine.Cohort, client: Client, log: str
) -> None:
    first = cohort.run(Counting(log=log), client=client)
    before = cohort.table(first.tables[0])
    files = sorted(Path(cohort.store.url).glob("results/counting/v1/key=*/*.parquet"))
    files[0].unlink()
    computed(log)
    held = cohort.plan(Counting(log=log)).to_compute
    cohort.run(Counting(log=log), client=client)
    assert len(computed(log)) == held > 0
    assert cohort.verify().problems == ()
    columns = [c for c in before.columns if c not in ("elapsed_s", "attempts", "worker", "device")]
    pd.testing.assert_frame_equal(cohort.table(first.tables[0])[columns], before[columns])


@pytest.mark.parametrize("path", ["catalog/shards", "catalog/images"])
def test_an_ingest_beside_gc_names_nothing_that_is_gone(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch, path: str, log: str
) -> None:
    night(tmp_path / "data", IMAGES)
    cohort = engine.create(tmp_path / "cohort")
    monkeypatch.setattr(quarantine, "COMMIT_S", 0.0)
    with gc_before_commits(monkeypatch, cohort, path, 3) as removed:
        cohort.ingest(tmp_path / "data", client=client)
    assert any(removed)
    assert cohort.verify().problems == ()
    report = cohort.ingest(client=client)
    assert (report.failed, report.left) == (0, 0)
    assert len(catalog(cohort)) == IMAGES
    settled(cohort, Counting(log=log), client)


@pytest.mark.parametrize("path", ["catalog/shards", "results/bands/v1"])
def test_labels_that_gc_takes_before_they_are_named_are_made_again(
    cohort: engine.Cohort, client: Client, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(quarantine, "COMMIT_S", 0.0)
    with gc_before_commits(monkeypatch, cohort, path, 3) as removed, suppress(Incomplete):
        cohort.run(Bands(), client=client)
    assert any(removed)
    assert cohort.verify().ok
    settled(cohort, Bands(), client)


def test_tables_are_made_though_gc_takes_what_they_are_made_of(
    cohort: engine.Cohort, client: Client, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[list[str]] = []
    assemble = reduce.concat_fragments

    def late(*given: Any) -> Any:
        if not removed:
            removed.append(collect(cohort))
        return assemble(*given)

    monkeypatch.setattr(reduce, "concat_fragments", late)
    cohort.run(Counting(log=log), client=client)
    assert any(path.startswith("tables/.fragments/") for path in removed[0])
    settled(cohort, Counting(log=log), client)


def test_gc_leaves_what_a_commit_names(cohort: engine.Cohort, client: Client, log: str) -> None:
    cohort.run(Counting(log=log), client=client)
    cohort.run(Bands(), client=client)
    before = cohort.verify()
    collect(cohort)
    assert cohort.verify() == before


def test_drawings_that_gc_takes_before_they_are_named_are_written_again(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, client)
    with gc_before_commits(monkeypatch, place.cohort, "catalog/annotations", 2) as removed:
        assert place.ingest() == {"listed": 3, "new": 6}
    assert len(removed) == 2  # the commit, and its undoing
    assert place.cohort.verify().problems == ()
    assert len(place.run()) == 4
    assert place.ingest() == {"listed": 3, "unchanged": 3}


def test_a_stack_that_gc_takes_before_its_pixels_are_written_is_left_to_the_next_ingest(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch, log: str
) -> None:
    night(tmp_path / "data", IMAGES)
    cohort = engine.create(tmp_path / "cohort")

    def create_and_collect(*given: Any) -> Any:
        rows = create_stack(*given)
        assert collect(cohort)
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(ingest_driver, "create_stack", create_and_collect)
        report = cohort.ingest(tmp_path / "data", client=client)
    assert (report.failed, report.left) == (0, IMAGES)
    assert cohort.verify().problems == ()
    report = cohort.ingest(client=client)
    assert (report.taken, report.failed, report.left) == (IMAGES, 0, 0)
    settled(cohort, Counting(log=log), client)
