"""Tables of any partition equal those of the whole; concurrent writers keep one ledger history."""

from __future__ import annotations

import tempfile
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import Conflict, CorruptStore, MissingObject
from engine.store.backend.open import open_store
from engine.store.catalog.tables import ImageRow, commit_with_retry, image_table
from engine.store.delta.ledger import CommitConflict, Ledger, Snapshot
from engine.store.delta.parts import Part
from engine.store.maintenance.verify_log import check_log
from engine.store.results import result_schema
from engine.tables.build import (
    GROUP,
    TableContext,
    build_slice,
    finish_experiments,
    merge_experiments,
)
from tests.support.images import Counting

OPERATION = Counting(log="/dev/null")
SPEC = TableContext(subjects=pa.table({"subject": ["s0", "s1"], "sex": ["f", "m"]}))


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[pa.Table, pa.Table]:
    """Catalog rows by image_id and results for some of them."""
    images, results = [], []
    for n in range(draw(st.integers(1, 12))):
        state = draw(st.sampled_from(["ready", "ready", "ready", "failed", "orphaned", "retired"]))
        image_id = f"r/{n:03d}"
        fields = {
            "date": "d",
            "subject": f"s{draw(st.integers(0, 2))}",
            "experiment": draw(st.sampled_from(["e", ""])),
            "name": str(n),
        }
        images.append(
            ImageRow(
                image_id=image_id,
                state=state,
                source=image_id,
                fields=fields,
                content=None if state == "failed" else f"c{n}",
            )
        )
        outcome = draw(st.sampled_from(["done", "done", "failed", "none"]))
        if state in ("failed", "retired") or outcome == "none":
            continue
        value = st.one_of(st.floats(-1e6, 1e6), st.just(float("nan")), st.none())
        values = draw(st.lists(value, max_size=5)) if outcome == "done" else []
        results.append(
            {
                "image_id": image_id,
                "key": "k",
                "inputs": "",
                "status": outcome,
                "reason": None if outcome == "done" else "why",
                "objects": [{"mean": v, "n": i} for i, v in enumerate(values)],
            }
        )
    table = image_table(images)
    schema = result_schema(OPERATION.object_schema)
    from engine.runs.input_digests import image_inputs

    inputs = dict(zip(table["image_id"].to_pylist(), image_inputs(OPERATION, table), strict=True))
    for row in results:
        row["inputs"] = inputs[str(row["image_id"])]
    return table, pa.Table.from_pylist(results, schema=schema)


@given(cohorts(), st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_cut_gives_the_tables_of_the_whole(
    made: tuple[pa.Table, pa.Table], data: st.DataObject
) -> None:
    images, results = made
    whole = build_slice(OPERATION, images, results, SPEC)
    cuts = data.draw(st.lists(st.integers(0, images.num_rows), max_size=4, unique=True))
    edges = sorted({0, images.num_rows, *cuts})
    slices = [
        build_slice(OPERATION, images.slice(a, b - a), results, SPEC) for a, b in pairwise(edges)
    ]
    for kind in ("objects", "images"):
        together = pa.concat_tables([s[kind] for s in slices])
        assert together.schema == whole[kind].schema
        pd.testing.assert_frame_equal(
            together.to_pandas(), whole[kind].to_pandas(), check_exact=True
        )
    partials = [s["experiments"] for s in slices]
    pivot = data.draw(st.integers(1, len(partials)))
    left = merge_experiments(OPERATION, partials)
    groups = [merge_experiments(OPERATION, p) for p in (partials[:pivot], partials[pivot:]) if p]
    right = merge_experiments(OPERATION, groups)
    due = finish_experiments(OPERATION, whole["experiments"], SPEC).to_pandas()
    for merged in (left, right):
        found = finish_experiments(OPERATION, merged, SPEC).to_pandas()
        pd.testing.assert_frame_equal(found, due, check_dtype=False, rtol=1e-9, atol=1e-6)
    by_image = whole["images"].to_pandas()
    objects = whole["objects"].to_pandas()
    here = objects[~objects["orphaned"].astype(bool)]
    for table, rows, keys in ((by_image, objects, ["image_id"]), (due, here, list(GROUP))):
        expected = rows.groupby(keys)["mean"].agg(mean_mean="mean", mean_sd="std")
        told = table.set_index(keys)[["mean_mean", "mean_sd"]].dropna(how="all").sort_index()
        pd.testing.assert_frame_equal(told, expected.dropna(how="all"), rtol=1e-9, atol=1e-6)
    assert due["images"].sum() == len(by_image)
    assert by_image["count"].sum() == whole["objects"].num_rows
    assert due["count"].sum() == len(here)
    assert due["images_orphaned"].sum() == by_image["orphaned"].sum()
    assert due["images_missing"].sum() == (by_image["status"] == "missing").sum()
    assert due["images_failed"].sum() == by_image["status"].isin(["failed", "unreadable"]).sum()
    assert not (set(by_image["image_id"]) & {
        i for i, s in zip(*(images[n].to_pylist() for n in ("image_id", "state")), strict=True)
        if s == "retired"
    })  # fmt: skip


SCHEMA = pa.schema([("id", pa.string()), ("key", pa.string()), ("n", pa.int64())])


def ledger_at(path: Path) -> Ledger:
    return Ledger(open_store(path), "ledger", SCHEMA, "key")


def rows(*ids: str, n: int = 0) -> pa.Table:
    return pa.table({"id": list(ids), "key": ["k"] * len(ids), "n": pa.array([n] * len(ids))})


def test_writers_who_race_all_succeed_once(tmp_path: Path) -> None:
    """Eight threads, five commits each: every one is there, and no two made one version."""
    won: list[int] = []
    stale: list[int] = []
    start = threading.Barrier(8)

    def write(writer: int) -> None:
        ledger = ledger_at(tmp_path)
        start.wait()
        snapshot = ledger.snapshot()
        for n in range(5):
            part = ledger.write_part(rows(f"{writer}-{n}"), "k")
            while True:
                try:
                    snapshot = ledger.commit(snapshot, [part])
                    won.append(snapshot.version)
                    break
                except CommitConflict:
                    stale.append(writer)
                    snapshot = ledger.snapshot()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(1, 41))
    assert stale  # they did race
    ledger = ledger_at(tmp_path)
    found = ledger.read(ledger.snapshot().parts)["id"].to_pylist()
    assert sorted(found) == sorted(f"{w}-{n}" for w in range(8) for n in range(5))


@pytest.mark.parametrize("turn", range(10))
def test_writers_who_begin_together_make_one_ledger(tmp_path: Path, turn: int) -> None:
    """The very first commits race, too: a table is created once."""
    start = threading.Barrier(6)
    made: list[int] = []

    def write(writer: int) -> None:
        ledger = ledger_at(tmp_path)
        part = ledger.write_part(rows(str(writer)), "k")
        start.wait()

        def prepare(now: Snapshot) -> tuple[list[Part], list[Part]]:
            return [part], []

        made.append(commit_with_retry(ledger, Snapshot(-1, ()), prepare).version)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(1, 7))
    assert len(ledger_at(tmp_path).snapshot().parts) == 6


def test_a_commit_for_an_older_version_changes_nothing(tmp_path: Path) -> None:
    ledger = ledger_at(tmp_path)
    first = ledger.snapshot()
    assert first == Snapshot(-1, ())
    second = ledger.commit(first, [ledger.write_part(rows("a"), "k")])
    late = ledger.write_part(rows("b"), "k")
    with pytest.raises(CommitConflict):
        ledger.commit(first, [late])
    assert ledger.snapshot() == second
    third = ledger.commit(second, [late], second.parts)
    assert ledger.snapshot() == third
    assert third.parts == (late,)
    assert ledger.read(third.parts)["id"].to_pylist() == ["b"]


def test_commit_rows_decides_again_for_what_is_there(tmp_path: Path) -> None:
    ledger, other = ledger_at(tmp_path), ledger_at(tmp_path)
    snapshot = ledger.commit(ledger.snapshot(), [ledger.write_part(rows("a"), "k")])
    other.commit(other.snapshot(), [other.write_part(rows("b"), "k")])
    seen: list[int] = []

    def prepare(now: Snapshot) -> tuple[list[Part], list[Part]]:
        seen.append(now.version)
        there = set(ledger.read(now.parts)["id"].to_pylist())
        left = [i for i in ("b", "c") if i not in there]
        return [ledger.write_part(rows(*left), "k")] if left else [], []

    after = commit_with_retry(ledger, snapshot, prepare)
    assert seen == [1, 2]
    assert sorted(ledger.read(after.parts)["id"].to_pylist()) == ["a", "b", "c"]
    assert commit_with_retry(ledger, after, prepare).version == after.version

    def never(now: Snapshot) -> tuple[list[Part], list[Part]]:
        current = other.snapshot()
        other.commit(current, [other.write_part(rows(f"x{current.version}"), "k")])
        return [ledger.write_part(rows("z"), "k")], []

    from engine.store.catalog import tables as catalog

    tries, catalog.MAX_COMMIT_ATTEMPTS = catalog.MAX_COMMIT_ATTEMPTS, 3
    try:
        with pytest.raises(Conflict, match="ledger"):
            commit_with_retry(ledger, after, never)
    finally:
        catalog.MAX_COMMIT_ATTEMPTS = tries


@given(st.lists(st.tuples(st.text(max_size=4), st.integers(-(2**40), 2**40)), max_size=30))
@settings(max_examples=12, deadline=None)
def test_a_part_comes_back_as_it_was(values: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = ledger_at(Path(folder))
        table = pa.table(
            {
                "id": pa.array([i for i, _ in values], pa.string()),
                "key": pa.array(["k"] * len(values), pa.string()),
                "n": pa.array([n for _, n in values], pa.int64()),
            }
        )
        part = ledger.write_part(table, "k")
        assert part.rows == len(values)
        assert ledger.read([part]).equals(table)
        assert ledger.read([part], ["n", "id"]).equals(table.select(["n", "id"]))
        snapshot = ledger.commit(ledger.snapshot(), [part])
        assert ledger.snapshot() == snapshot
        ids = [i for i, _ in values] or [""]
        assert (snapshot.parts[0].low, snapshot.parts[0].high) == (min(ids), max(ids))
        assert snapshot.of_key("k") == (part,)
        assert snapshot.of_key("other") == ()


def test_results_of_every_kind_of_value_come_back(tmp_path: Path) -> None:
    objects = pa.schema([("v", pa.float64()), ("ok", pa.bool_()), ("name", pa.string())])
    ledger = Ledger(open_store(tmp_path), "r", result_schema(objects), "key")
    row = {"image_id": "a", "key": "k", "inputs": "i", "block": None, "status": "done"}
    many = [{"v": v, "ok": v > 0, "name": str(v)} for v in (0.0, -1.5, float("inf"), 1e-300)]
    table = pa.Table.from_pylist(
        [{**row, "objects": many}, {**row, "image_id": "b", "objects": []}], schema=ledger.schema
    )
    part = ledger.write_part(table, "k")
    assert ledger.read([part]).equals(table)


@pytest.mark.parametrize(
    "name", ["é", "🙂", "𠀀", 'quote"back\\slash', "\x7f", *"\x0b\x1c\x85\u2028"]
)
def test_bounds_of_a_part_hold_every_character(tmp_path: Path, name: str) -> None:
    """An image's name may hold anything; slices choose their parts by these bounds."""
    ledger = ledger_at(tmp_path)
    part = ledger.write_part(rows(name, "a"), "k")
    assert ledger.commit(ledger.snapshot(), [part]) == ledger.snapshot()
    (found,) = ledger.snapshot().parts
    assert (found.low, found.high) == (min("a", name), max("a", name))
    # The log holds the name as it is; who reads its lines must not end one there.
    after = ledger.commit(ledger.snapshot(), [ledger.write_part(rows(name), "k")], [found])
    assert ledger.snapshot() == after
    assert list(check_log(ledger, after)) == []


@pytest.mark.parametrize("seed", range(25))
def test_every_flipped_bit_of_a_part_is_named(tmp_path: Path, seed: int) -> None:
    ledger = ledger_at(tmp_path)
    part = ledger.write_part(rows(*(f"i{n}" for n in range(50))), "k")
    path = tmp_path / "ledger" / part.path
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(seed)
    data[random.integers(len(data))] ^= 1 << random.integers(8)
    path.write_bytes(data)
    with pytest.raises(CorruptStore, match=part.path):
        ledger.read_part(part)
    path.write_bytes(data[:-1])
    with pytest.raises(CorruptStore):
        ledger.read_part(part)
    path.unlink()
    with pytest.raises(MissingObject):
        ledger.read_part(part)
