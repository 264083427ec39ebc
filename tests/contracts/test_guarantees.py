"""Guarantees for every operation: one suite for built-in, packaged and notebook operations."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from numpy.typing import NDArray

import engine
from engine.errors import (
    ColumnsChanged,
    CorruptStore,
    MissingPackage,
    NoWorkerForResource,
    UsageError,
)
from engine.operations.base import Operation
from engine.runs.worker import ledger_of
from tests.contracts.cases import BAD, CASES, Case
from tests.support.images import LAYOUT, connect_quietly, grey, put
from tests.support.operations import count_call, register

IMAGES = 10

FAILING = frozenset({3, 7})

EMPTY = frozenset({0, 4})
"""Images without objects."""

VARYING = ["elapsed_s", "attempts", "worker", "device"]

GIANT = 9


def plane(number: int) -> NDArray[np.uint8]:
    """Return an image with some bright pixels; for some numbers none, or a bad first pixel.

    The last one is so tall that it is stored and computed in blocks.
    """
    shape = (2100, 40) if number == GIANT else (40, 48)
    pixels = grey(number, shape) // 2
    random = np.random.default_rng(number)
    if number not in EMPTY:
        places = random.integers(1, np.array(shape), (number + 3, 2))
        pixels[places[:, 0], places[:, 1]] = 230
    if number in FAILING:
        pixels[0, 0] = BAD
    return pixels


PLANES = {f"i{n}": plane(n) for n in range(IMAGES)}


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Path:
    """Cohort without any results."""
    folder = tmp_path_factory.mktemp("guarantees")
    for number, (name, pixels) in enumerate(PLANES.items()):
        put(folder / "data" / "d1" / f"s{number % 2}" / "e1" / f"{name}.png", pixels)
    cohort = engine.create(folder / "cohort", layout=LAYOUT)
    with (folder / "cohort" / "cohort.toml").open("a") as toml:
        toml.write("\n[limits]\ngiant_bytes = 50000\nshard_images = 3\n")
    cohort.ingest(folder / "data", client=client)
    return folder / "cohort"


@pytest.fixture
def cohort(ingested: Path, tmp_path: Path) -> engine.Cohort:
    shutil.copytree(ingested, tmp_path / "cohort")
    return engine.open(tmp_path / "cohort")


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Return a case, installed under its name if a package could offer it."""
    found: Case = request.param
    if found.installed and found.name != "circles":
        register(monkeypatch, found.name, found.make)
    return found


@pytest.fixture
def operation(case: Case) -> Operation:
    return case.make(**case.given)


def rows_of(cohort: engine.Cohort, operation: Operation) -> list[dict[str, Any]]:
    ledger = ledger_of(cohort.store, operation)
    rows = ledger.read(ledger.snapshot().of_key(operation.key))
    return sorted(rows.to_pylist(), key=lambda row: (row["image_id"], row["block"] or 0))


def right_count(case: Case, name: str) -> int | None:
    """Return the expected number of objects; blocks of a giant image have separate results."""
    assert case.count is not None
    found = case.count(PLANES[name])
    return 2 * found if case.name == "counting" and name == f"i{GIANT}" and found else found


def test_one_row_an_image_and_no_call_twice(
    cohort: engine.Cohort, operation: Operation, case: Case, staffed: Client
) -> None:
    """I1, I2, resume, quarantine and resources."""
    first = cohort.run(operation, client=staffed, limit=4)
    assert (first.selected, first.published, first.trial) == (4, 4, True)
    second = cohort.run(operation, client=staffed)
    assert second.up_to_date + second.failed_before == 4
    assert second.planned == IMAGES - 4
    before = ledger_of(cohort.store, operation).snapshot()
    third = cohort.run(operation, client=staffed)
    assert (third.planned, third.published) == (0, 0)
    assert ledger_of(cohort.store, operation).snapshot() == before
    rows = rows_of(cohort, operation)
    counted = Counter((row["image_id"], row["block"]) for row in rows)
    assert set(counted.values()) == {1}
    assert len(counted) == IMAGES + 1  # the giant one has two blocks
    failed = {row["image_id"][-6:-4]: row["reason"] for row in rows if row["status"] == "failed"}
    if case.count is not None:
        bad = {name for name in PLANES if case.count(PLANES[name]) is None}
        assert failed == dict.fromkeys(bad, "bad_first_pixel")
    assert first.failed + second.failed == len(failed) == third.failed_before
    if operation.resources:
        assert {row["worker"] for row in rows} == {"with-gpu"}
    else:
        assert {row["worker"] for row in rows} <= {"with-gpu", "without"}
    assert cohort.verify().ok  # the table of the first four is older, and said to be


def test_the_tables_say_what_was_found(
    cohort: engine.Cohort, operation: Operation, case: Case, staffed: Client
) -> None:
    report = cohort.run(operation, client=staffed)
    objects, images, experiments = (cohort.table(name) for name in report.tables)
    images = images.set_index("name")
    shown = set(operation.object_schema.names) - operation.hidden_columns
    assert {*shown, operation.object_name} <= set(objects.columns)
    assert len(images) == IMAGES
    found = objects.groupby("name").size().reindex(images.index, fill_value=0)
    done = images["status"] == "done"
    assert (images["count"][done] == found[done]).all()
    assert images["count"][~done].isna().all()
    assert (experiments["images"].sum(), experiments["count"].sum()) == (IMAGES, len(objects))
    assert experiments["images_failed"].sum() == (~done).sum()
    if case.count is not None:
        for name in PLANES:
            right = right_count(case, name)
            assert images["status"][name] == ("failed" if right is None else "done")
            assert right is None or found[name] == right, name
    if {"y", "x"} == set(operation.object_schema.names):
        for name, members in objects.groupby("name"):
            places = np.stack(np.nonzero(PLANES[str(name)] > 195), axis=1)
            assert np.array_equal(members[["y", "x"]].to_numpy(), places)  # in the whole image
            assert members[operation.object_name].tolist() == list(range(1, len(members) + 1))


def test_another_key_is_a_trial_and_leaves_the_first_alone(
    cohort: engine.Cohort, operation: Operation, case: Case, staffed: Client
) -> None:
    first = cohort.run(operation, client=staffed)
    assert first.declared == case.installed
    assert (first.tables[0] == operation.name) == case.installed
    other = case.make(**{**case.given, **case.other})
    plan = cohort.plan(other)
    assert (plan.causes, set(plan.changes)) == ({"parameters": IMAGES}, set(case.other))
    before = rows_of(cohort, operation)
    second = cohort.run(other, client=staffed)
    assert (second.published, second.declared, second.trial) == (IMAGES + 1, False, True)
    assert second.tables[0] == f"{operation.name}@{other.key[:8]}"
    assert rows_of(cohort, operation) == before
    assert set(first.tables).isdisjoint(second.tables)
    if case.installed:
        third = cohort.run(other, client=staffed, declare=True)
        assert (third.published, third.trial, third.tables[0]) == (0, False, operation.name)
        assert [run.operation for run in cohort.run(client=staffed)] == [operation.name]
    else:
        with pytest.raises(UsageError, match="can't be declared"):
            cohort.run(other, client=staffed, declare=True)
    assert cohort.verify().ok


def test_failures_are_tried_again_only_when_asked(
    cohort: engine.Cohort, operation: Operation, case: Case, staffed: Client
) -> None:
    if case.count is None or all(case.count(p) is not None for p in PLANES.values()):
        pytest.skip(f"{case.name} fails on none of these images")
    first = cohort.run(operation, client=staffed)
    assert first.failed == len(FAILING)
    again = cohort.run(operation, client=staffed, retry_failed=True)
    assert (again.planned, again.published, again.failed) == (len(FAILING),) * 3
    rows = rows_of(cohort, operation)
    assert len(rows) == len({(row["image_id"], row["block"]) for row in rows}) == IMAGES + 1
    assert {f.reason for f in cohort.status().failures} == {"bad_first_pixel"}


def test_other_workers_give_the_same_rows(
    cohort: engine.Cohort, ingested: Path, operation: Operation, client: Client, staffed: Client,
    tmp_path: Path,
) -> None:  # fmt: skip
    shutil.copytree(ingested, tmp_path / "other")
    other = engine.open(tmp_path / "other")
    one = cohort.run(operation, client=staffed)
    if operation.resources:
        without = {"workers": 1, "processes": False, "resources": {"OTHER": 1}}
        with (
            connect_quietly(where="local", **without) as nobody,
            pytest.raises(NoWorkerForResource, match="GPU"),
        ):
            other.run(operation, client=nobody)
    for part in ("subject == 's1'", None):  # in other units, in another order
        two = other.run(operation, client=client, where=part)
    for left, right in zip(one.tables, two.tables, strict=True):
        frames = [c.table(n) for c, n in ((cohort, left), (other, right))]
        frames = [f.drop(columns=VARYING, errors="ignore") for f in frames]
        pd.testing.assert_frame_equal(*frames)


def test_what_quality_control_draws(operation: Operation) -> None:
    found = operation.measure(engine.Image(PLANES["i8"][None]))
    drawn = operation.outlines({name: np.asarray(values) for name, values in found.items()})
    places = len(found["y"]) if "y" in found else 0
    assert len(drawn) == places
    assert all(one.points.shape[1] == 2 for one in drawn)


# a function that somebody maps


def test_map_counts_calls_and_versions(
    cohort: engine.Cohort, client: Client, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"

    def mean(image: NDArray[Any], factor: float = 1.0) -> dict[str, Any]:
        count_call(str(calls), "called")
        return {"mean": float(image.mean()) * factor, "bright": int((image > 195).sum())}

    def ask(**how: Any) -> tuple[Any, int]:
        calls.write_text("")
        schema = {"mean": float, "bright": "uint16"}
        report = cohort.map(mean, name="means", schema=schema, client=client, **how)
        return report, len(calls.read_text().splitlines())

    report, called = ask(limit=4)
    assert (report.published, called) == (4, 4)
    report, called = ask()
    assert called == IMAGES + 1 - 4
    table = cohort.table(report.tables[0]).set_index("name")
    assert table.loc["i5", "mean"] == pytest.approx(PLANES["i5"].mean())
    assert table["bright"].dtype == np.int32  # Delta Lake has no unsigned numbers
    first = mean

    def mean(image: NDArray[Any], factor: float = 1.0) -> dict[str, Any]:  # type: ignore[no-redef]
        return {**first(image, factor), "mean": -1.0}

    assert ask()[1] == 0, "the key is never made of source"
    report, called = ask(version=2)
    assert called == IMAGES + 1
    assert set(cohort.table(report.tables[0])["mean"]) == {-1.0}
    assert ask(parameters={"factor": 1.0})[1] == 0, "a default counts as if it were given"
    assert ask(parameters={"factor": 2.0})[1] == IMAGES + 1
    with pytest.raises(
        ColumnsChanged, match=r"mean .double., bright .int32.; .* mean .double.. Oth"
    ):
        cohort.map(mean, name="means", schema={"mean": float}, client=client)


def test_what_the_workers_lack_fails_no_image(cohort: engine.Cohort, client: Client) -> None:
    def needy(image: NDArray[Any]) -> dict[str, Any]:
        import nowhere  # type: ignore[import-not-found]

        return {"one": nowhere.one(image)}

    with pytest.raises(MissingPackage, match="can't import nowhere"):
        cohort.map(needy, name="needy", schema={"one": float}, client=client)
    assert cohort.plan(engine.from_function(needy, name="needy", schema={"one": float})).causes == {
        "new": IMAGES
    }


def test_a_flipped_bit_in_a_schema_is_no_change_of_columns(
    cohort: engine.Cohort, client: Client
) -> None:
    case = next(case for case in CASES if case.name == "counting")
    operation = case.make(**case.given)
    cohort.run(operation, client=client)
    entry = Path(cohort.store.url, "results/counting/v1/_delta_log", f"{0:020d}.json")
    whole = entry.read_bytes()
    for old, new in ((b"worker", b"vorker"), (b'mean\\"', b'meam\\"'), (b"double", b"dnuble")):
        assert old in whole
        entry.write_bytes(whole.replace(old, new))
        with pytest.raises(CorruptStore, match="_delta_log"):
            cohort.plan(operation)
    entry.write_bytes(whole)
    assert cohort.plan(operation).to_compute == 0
