"""Whole cohort in an object store: ingest, run, tables, pictures, status, verify, gc."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from distributed import Client

import engine
from engine.store.backend.open import open_store
from engine.store.catalog.tables import images_ledger
from engine.store.delta.checkpoints import write_checkpoint
from engine.store.delta.integrity import HEAD, checkpoint_name, record_head
from engine.store.tables import read_record, read_table, record_path, write_table
from tests.support.images import LAYOUT, discs, grey, put
from tests.support.label_operation import Bands, check_labels

IMAGES = 12
VARYING = ["elapsed_s", "attempts", "worker", "device"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with discs, and one unreadable image."""
    folder = tmp_path_factory.mktemp("sources")
    for n in range(IMAGES):
        put(folder / "d1" / f"s{n % 3}" / "e1" / f"i{n}.png", discs(n))
    (folder / "d1" / "s0" / "e1" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture(scope="module")
def workers() -> Iterator[Client]:
    """Cluster of two processes."""
    with engine.cluster(workers=2) as cluster:
        yield cluster.client


def compute(url: str, sources: Path, client: Client) -> engine.Cohort:
    """Create a cohort and compute its circles."""
    cohort = engine.create(url, layout=LAYOUT)
    report = cohort.ingest(sources, client=client)
    assert (report.taken, report.failed, report.left) == (IMAGES, 1, 0)
    run = cohort.run(engine.circles(radius_px=(8, 24)), client=client)
    assert (run.planned, run.published, run.failed) == (IMAGES, IMAGES, 0)
    return cohort


def stable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table without run-specific columns, in a fixed order."""
    kept = table.drop(columns=[name for name in VARYING if name in table.columns])
    return kept.sort_values(list(kept.columns)).reset_index(drop=True)


@pytest.fixture(scope="module")
def plain(sources: Path, client: Client, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Table of the same images in a folder."""
    place = tmp_path_factory.mktemp("plain") / "c"
    return stable(compute(str(place), sources, client).table("circles"))


# tornado leaves a socket open where the dashboard's port is taken by somebody else's cluster.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("cluster", ["client", "workers"], ids=["threads", "processes"])
def test_a_cohort_lives_in_an_object_store(
    cluster: str,
    bucket: str,
    sources: Path,
    plain: pd.DataFrame,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    url = f"{bucket}/{tmp_path.name}"
    connected = request.getfixturevalue(cluster)
    cohort = compute(url, sources, connected)
    pd.testing.assert_frame_equal(stable(cohort.table("circles")), plain)
    assert len(plain) >= IMAGES

    again = engine.open(url)
    report = again.ingest(client=connected)
    assert (report.taken, report.unchanged) == (0, IMAGES + 1)
    run = again.run("circles", client=connected)
    assert (run.planned, run.up_to_date) == (0, IMAGES)

    (shown,) = again.qc(client=connected)
    assert (shown.shown, shown.made, shown.failed) == (IMAGES, IMAGES + 3, 0)
    assert again.store.size("qc/circles/index.html")
    assert again.qc(client=connected)[0].made == 0

    image = again.images()[0]
    assert image.shape == (1, 128, 128)
    assert int(image.max()) > 100
    assert again.verify().problems == ()
    status = again.status().as_json()
    assert "torn.png" in str(status)
    assert again.gc(older_than_s=0) is not None
    assert again.verify().problems == ()
    assert [e.path for e in again.store.list(".staging/")] == []


# tornado leaves a socket open where the dashboard's port is taken by somebody else's cluster.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_logs_in_a_bucket_are_repaired_on_request(
    bucket: str, tmp_path: Path, client: Client
) -> None:
    for n in range(3):
        put(tmp_path / "data" / f"i{n}.png", grey(n))
    cohort = engine.create(f"{bucket}/repaired", layout="{name}")
    cohort.ingest(tmp_path / "data", client=client)
    cohort.run(engine.circles(radius_px=(5, 12)), client=client)
    store, ledger = cohort.store, images_ledger(cohort.store)
    version = ledger.snapshot().version
    write_checkpoint(store, ledger.path, version, {})
    record_head(store, ledger.path, version)
    assert cohort.repair() == ()

    checkpoint = f"{ledger.path}/_delta_log/{checkpoint_name(version)}"
    for path in (checkpoint, f"{ledger.path}/{HEAD}"):
        data = store.read(path)
        store.replace(path, data[:50] + bytes([data[50] ^ 1]) + data[51:])
        assert path in {problem.path for problem in cohort.verify().problems}
        assert cohort.repair(also_gone=False) == ()
        (done,) = cohort.repair()
        assert (done.ledger, done.commits, done.missing) == (ledger.path, 0, 0)
        assert cohort.verify().problems == ()

    results = f"results/circles/v{engine.circles.version}"
    newest = max(e.path for e in store.list(f"{results}/_delta_log/") if e.path.endswith(".json"))
    store.delete(newest)
    assert not cohort.verify().ok
    (done,) = cohort.repair()
    assert (done.ledger, done.commits, done.missing) == (results, 1, 1)
    assert "power cut" not in str(done)
    assert cohort.run("circles", client=client).published == 3
    assert cohort.verify().problems == ()


def test_a_table_is_never_replaced_by_an_older_one(bucket: str, tmp_path: Path) -> None:
    for store in (open_store(tmp_path / "c"), open_store(f"{bucket}/{tmp_path.name}")):
        origin = {"key": "k", "catalog": 2, "results": 2}

        def write(n: int, store=store, **changed: int) -> bool:  # type: ignore[no-untyped-def]
            made_of = {"key": "k", "catalog": 2, "results": 2, **changed}
            return write_table(store, "t", iter([pa.table({"n": [n]})]), made_of)

        assert write(1)
        assert write(2)  # the same versions: the last one stays
        assert not write(3, results=1)
        assert read_table(store, "t")["n"].to_pylist() == [2]
        # A newer one that was announced, and whose writer was killed before it was in place.
        newer = {**origin, "results": 3}
        store.update(
            record_path("t"),
            lambda _, store=store, newer=newer: (  # type: ignore[misc]
                read_record(store, "t").begin_replace("0" * 32, newer).as_bytes()
            ),
        )
        assert read_table(store, "t")["n"].to_pylist() == [2]
        assert not write(4)
        assert write(5, results=3)
        assert read_table(store, "t")["n"].to_pylist() == [5]
        assert write(6, results=4)
        assert len(read_record(store, "t").digests) == 1


# tornado leaves a socket open where the dashboard's port is taken by somebody else's cluster.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_label_images_are_written_and_changed_in_a_bucket(
    bucket: str, tmp_path: Path, client: Client
) -> None:
    for n in range(5):
        put(tmp_path / "data" / f"i{n}.png", grey(n))
    cohort = engine.create(f"{bucket}/labels", layout="{name}")
    cohort.store.replace("cohort.toml", b'layout = "{name}"\n[limits]\nshard_images = 4\n')
    cohort.ingest(tmp_path / "data", client=client)
    cohort.run(Bands(), client=client, limit=2)
    check_labels(cohort, Bands(), "name in ['i0', 'i1']")
    report = cohort.run(Bands(), client=client)
    assert report.planned == 3
    check_labels(cohort, Bands())
    assert not cohort.verify().problems
    assert not [entry for entry in cohort.store.list(".staging/") if "labels" in entry.path]
