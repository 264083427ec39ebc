"""Fault 28: an object store that fails one put, in five ways, or ignores conditions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from distributed import Client

import engine
from engine.errors import EngineError, NoConditionalPuts, StoreError
from tests.contracts.failing_server import CONDITIONS, FAULTS, Failing, between
from tests.contracts.object_server import serve, settings
from tests.support.images import Counting, catalog, computed, night

IMAGES = 4
FEW = 121
"""Sampling interval of the points in `make test`; each fault starts at a different point."""

VARYING = ["elapsed_s", "attempts", "worker", "device"]


@dataclass
class Store:
    """A bucket behind a failing proxy; each cohort has its own prefix."""

    failing: Failing
    sources: Path
    client: Client
    log: str
    numbers: Iterator[int]

    def url(self) -> str:
        """Return a new place: a store is opened once, with the settings of that moment."""
        return f"s3://faults/c{next(self.numbers)}"

    def work(self, url: str) -> dict[str, pd.DataFrame]:
        """Do all that puts objects: create, ingest, run and reduce; return the tables."""
        cohort = engine.create(url)
        report = cohort.ingest(self.sources, client=self.client)
        assert (report.failed, report.left) == (0, 0)
        asked = Counting(log=self.log)
        run = cohort.run(asked, client=self.client)
        assert run.failed == 0
        return {name: cohort.table(name).drop(columns=VARYING, errors="ignore")
                for name in run.tables}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("requests")
    night(folder / "data", IMAGES)
    patch = pytest.MonkeyPatch()
    with serve(folder, "faults") as port, between(port) as failing:
        for name, value in settings(failing.port).items():
            patch.setenv(name, value)
        yield Store(failing, folder / "data", client, f"{folder}/log", itertools.count())
    patch.undo()


@pytest.fixture(scope="module")
def right(store: Store) -> tuple[int, dict[str, pd.DataFrame]]:
    """Return the number of puts, and the tables without a fault."""
    store.failing.begin()
    tables = store.work(store.url())
    return store.failing.puts, tables


def check(store: Store, right: dict[str, pd.DataFrame], point: int, fault: str) -> str:
    """Fail a put, resume, and check the invariants; return the output."""
    url, told = store.url(), ""
    computed(store.log)
    store.failing.begin(point, fault)
    caught: EngineError | None = None
    try:
        store.work(url)
    except EngineError as error:
        caught, told = error, str(error)
    if caught is not None:  # I5
        assert isinstance(caught, StoreError), repr(caught)
        assert caught.exit_code == 1
        assert "\x1b" not in told
        assert "s3://faults/c" in told
    first = computed(store.log)
    store.failing.begin()
    tables = store.work(url)
    if not told:
        assert computed(store.log) == []  # what came to its end was whole (I2)
        assert len(first) == IMAGES
    cohort = engine.open(url)
    assert len(catalog(cohort)) == IMAGES  # I1
    report = cohort.verify()
    assert report.problems == ()  # I3
    for name, table in right.items():  # I4
        pd.testing.assert_frame_equal(tables[name], table)
    store.work(url)
    computed(store.log)
    return told


def sweep(store: Store, right: Any, points: Any) -> dict[str, list[str]]:
    puts, tables = right
    told: dict[str, list[str]] = {fault: [] for fault in FAULTS}
    for point, fault in points(puts):
        try:
            told[fault].append(check(store, tables, point, fault))
        except Exception as error:
            raise AssertionError(
                f"put {point} of {puts}, {fault}: {store.failing.failed}"
            ) from error
    return told


@pytest.mark.timeout(900)
def test_a_put_that_fails_once_costs_nothing(store: Store, right: Any) -> None:
    def some(puts: int) -> Iterator[tuple[int, str]]:
        for start, fault in enumerate(FAULTS):
            for point in range(1 + 4 * start, puts + 1, FEW):
                yield point, fault

    print(f"{right[0]} puts")
    told = sweep(store, right, some)
    assert any(told["403"])  # nobody tries again who is not let in
    assert all("permission" in text for text in told["403"] if text)


@pytest.mark.faults
@pytest.mark.every_point
@pytest.mark.timeout(4 * 3600)
def test_each_put_may_fail(store: Store, right: Any) -> None:
    def all_of_them(puts: int) -> Iterator[tuple[int, str]]:
        yield from itertools.product(range(1, puts + 1), FAULTS)

    told = sweep(store, right, all_of_them)
    for fault, texts in told.items():
        print(f"{fault}: {sum(map(bool, texts))} of {len(texts)} ended by an error")


@pytest.mark.parametrize("ignored", [CONDITIONS, ("if-none-match",), ("if-match",)])
def test_a_store_that_ignores_conditions_is_refused(store: Store, ignored: tuple[str, ...]) -> None:
    store.failing.begin()
    store.failing.ignored = ignored
    try:
        with pytest.raises(NoConditionalPuts, match="conditional puts") as told:
            engine.create(store.url())
    finally:
        store.failing.ignored = ()
    assert ("If-None-Match" if "if-none-match" in ignored else "If-Match") in str(told.value)
