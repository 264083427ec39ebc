"""gc removes what no commit names, and nothing else."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import engine
from engine.errors import CorruptStore, ParameterError
from engine.runs.worker import ledger_of
from engine.store.backend.open import open_store
from engine.store.catalog.tables import SHARDS, create_catalog, shards_ledger
from engine.store.maintenance.gc import collect, plan_gc
from engine.store.pixels.layout import IncomingPlane, plan_stack_layouts
from engine.store.pixels.stacks import StackWriter, create_stack
from engine.store.tables import write_fragment

DAY_S = 86_400.0


def leave(small: Any) -> set[str]:
    """Leave behind what killed writers leave, and return the paths."""
    store = open_store(small.path)
    arrival = IncomingPlane("s/a.png", "", (1, 8, 8), "uint8", None)
    (plan,) = plan_stack_layouts([arrival], "killed", small.cohort.config.limits)
    create_stack(store, plan)
    StackWriter(store, plan.name).write(0, np.ones((1, 1, 8, 8), np.uint8))
    ledger = ledger_of(store, small.declared)
    part = ledger.snapshot().of_key(small.declared.key)[0]
    uncommitted = ledger.write_part(ledger.read_part(part), small.declared.key)
    fragment = write_fragment(store, "0123456789abcdef", "objects-000000", pa.table({"a": [1]}))
    staged = small.path / ".staging/0123/table.parquet"
    staged.parent.mkdir(parents=True)
    staged.write_bytes(b"half")
    (small.path / ".staging/4567").mkdir()
    stack = f"pixels/{plan.name}.zarr"
    return {
        f"{stack}/zarr.json",
        f"{stack}/0/zarr.json",
        f"{stack}/0/c/0/0/0/0",
        f"results/circles/v3/{uncommitted.path}",
        fragment,
        ".staging/0123/table.parquet",
    }


def age(root: Path, by_s: float) -> None:
    """Make everything look older."""
    then = time.time() - by_s
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, (then, then))


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_leftovers_are_listed_removed_and_nothing_else_is(small: Any) -> None:
    before = contents(small.path)
    left = leave(small)
    report = small.cohort.verify()
    assert report.ok
    assert set(report.leftovers) == left
    age(small.path, 2 * DAY_S)
    planned = small.cohort.gc(dry_run=True)
    assert {one.path for one in planned} == left | {".staging/4567/"}
    assert all(one.age_s == pytest.approx(2 * DAY_S, abs=60) for one in planned)
    assert contents(small.path).keys() > before.keys()
    assert [one.path for one in small.cohort.gc()] == [one.path for one in planned]
    assert contents(small.path) == before
    report = small.cohort.verify()
    assert (report.problems, report.leftovers) == ((), ())
    assert not (small.path / "pixels/killed-000.zarr").exists(), "empty folders go too"
    assert {p.name for p in (small.path / ".staging").iterdir()} <= {"lock"}
    assert small.cohort.gc() == ()


def test_nothing_younger_is_removed(small: Any) -> None:
    leave(small)
    before = contents(small.path)
    assert small.cohort.gc() == ()
    age(small.path, DAY_S / 2)
    assert small.cohort.gc() == ()
    assert contents(small.path) == before
    assert len(small.cohort.gc(older_than_s=DAY_S / 3)) == 7


def test_a_replaced_part_is_as_old_as_its_replacement(small: Any) -> None:
    age(small.path, 3 * DAY_S)
    ledger = ledger_of(open_store(small.path), small.declared)
    snapshot = ledger.snapshot()
    part = snapshot.of_key(small.declared.key)[0]
    table = small.cohort.table("circles")
    ledger.commit(snapshot, [ledger.write_part(ledger.read_part(part), small.declared.key)], [part])
    assert small.cohort.gc() == (), "a reader may have begun just before"
    age(small.path, 3 * DAY_S)
    assert [one.path for one in small.cohort.gc()] == [f"results/circles/v3/{part.path}"]
    assert small.cohort.verify().ok
    assert small.cohort.table("circles").equals(table)
    assert small.cohort.plan(small.declared).to_compute == 0


def test_what_is_committed_meanwhile_stays(small: Any) -> None:
    left = leave(small)
    store = open_store(small.path)
    planned = plan_gc(store, 0.0)
    rows = []
    for path in sorted(p for p in left if p.startswith("pixels/")):
        shard = 0 if "/c/" in path else -1
        size = (small.path / path).stat().st_size
        stack = path.split("/")[1].removesuffix(".zarr")
        rows.append([path, stack, 0, shard, "digest", size, shard + 1])
    ledger = shards_ledger(store)
    columns = dict(zip(SHARDS.names, zip(*rows, strict=True), strict=True))
    table = pa.table({n: list(values) for n, values in columns.items()}, schema=SHARDS)
    ledger.commit(ledger.snapshot(), [ledger.write_part(table)])
    removed = {one.path for one in collect(store, planned)}
    assert removed == {p for p in left if not p.startswith("pixels/")} | {".staging/4567/"}
    assert all((small.path / row[0]).exists() for row in rows)


def test_files_of_others_are_never_removed(small: Any) -> None:
    theirs = (
        "notes.txt",
        "pixels/readme.md",
        "pixels/other.zarr/.zattrs",
        "results/circles/v3/mine.parquet",
        "results/circles/summary.csv",
        "catalog/images/backup/0.parquet",
        "catalog/images/_delta_log/notes.json",
        "tables/figures/a.png",
        "qc/circles/a.png",
    )
    for name in theirs:
        path = small.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    age(small.path, 9 * DAY_S)
    assert small.cohort.gc(older_than_s=0) == ()
    assert small.cohort.verify().leftovers == ()
    assert small.cohort.verify().ok


def test_nothing_is_removed_where_a_ledger_can_not_be_read(small: Any) -> None:
    """What it names is then not known, so all of it may be needed."""
    left = leave(small)
    (small.path / "catalog/shards/_delta_log/00000000000000000001.json").write_text("{")
    for part in small.files("results/circles/v3/_delta_log/*.json"):
        part.write_text("{")
    age(small.path, 2 * DAY_S)
    removed = {one.path for one in small.cohort.gc()}
    kept = {p for p in left if p.startswith(("pixels/", "results/"))}
    assert removed == left - kept | {".staging/4567/"}


def test_an_age_is_not_negative(small: Any) -> None:
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ParameterError):
            small.cohort.gc(older_than_s=wrong)


def test_leftovers_are_plain_values(small: Any) -> None:
    leave(small)
    values = plan_gc(engine.open(small.path).store, 0.0)[0].as_json()
    assert set(values) == {"path", "size", "age_s"}


@pytest.mark.parametrize("lost", ["catalog", "catalog/images", "catalog/shards"])
def test_a_lost_catalog_is_named_and_neither_made_anew_nor_a_reason_to_remove(
    small: Any, client: Any, lost: str
) -> None:
    shutil.rmtree(small.path / lost)
    age(small.path, 2 * DAY_S)
    kept = contents(small.path)
    assert small.cohort.gc() == ()
    acts = [small.cohort.status, partial(small.cohort.ingest, client=client, rehash=True)]
    if lost != "catalog/shards":  # where all is unchanged an ingest asks nothing of it
        acts.append(partial(small.cohort.ingest, client=client))
    for act in acts:
        with pytest.raises(CorruptStore, match="is missing, but"):
            act()
    assert contents(small.path) == kept
    report = small.cohort.verify()
    named = {problem.path for problem in report.problems if "is missing, but" in problem.text}
    assert named == {path for path in ("catalog/images", "catalog/shards") if path.startswith(lost)}
    assert not any(path.startswith("pixels/") for path in report.leftovers)


def test_a_first_ingest_that_was_killed_is_not_a_lost_catalog(
    small: Any, client: Any, tmp_path: Path
) -> None:
    """Its pixels are leftovers, and the next ingest goes on."""
    cohort = engine.create(tmp_path / "new")
    create_catalog(cohort.store)
    arrival = IncomingPlane("s/a.png", "", (1, 8, 8), "uint8", None)
    (plan,) = plan_stack_layouts([arrival], "killed", cohort.config.limits)
    create_stack(cohort.store, plan)
    assert cohort.status().images == {}
    assert {one.path for one in cohort.gc(older_than_s=0)} == {
        f"pixels/{plan.name}.zarr/zarr.json",
        f"pixels/{plan.name}.zarr/0/zarr.json",
    }
    create_stack(cohort.store, plan)
    assert cohort.ingest(small.sources, client=client).taken > 0
