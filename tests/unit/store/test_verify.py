"""Whatever is changed or lost is named, and no reader gives wrong data."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import engine
from engine.errors import ConfigError, CorruptStore, MissingObject, NoTable
from engine.runs.worker import ledger_of
from engine.store.backend.open import open_store
from engine.store.catalog.tables import images_ledger, read_images
from engine.store.delta.integrity import PREVIOUS_DIGEST, STATE_DIGEST
from engine.store.delta.ledger import Ledger
from engine.store.maintenance.problems import Problem
from engine.store.maintenance.verify import VerifyReport, verify_cohort
from engine.store.maintenance.verify_log import check_log
from engine.store.maintenance.verify_parts import hash_rows
from engine.store.tables import read_table

SEED = 20260801
TRIALS = 3

KINDS = {
    "shard": "pixels/*.zarr/*/c/**/*",
    "array metadata": "pixels/*.zarr/*/zarr.json",
    "group metadata": "pixels/*.zarr/zarr.json",
    "images part": "catalog/images/*.parquet",
    "shards part": "catalog/shards/*.parquet",
    "results part": "results/*/*/key=*/*.parquet",
    "first log entry": "**/_delta_log/00000000000000000000.json",
    "inner log entry": "results/*/*/_delta_log/00000000000000000001.json",
    "newest log entry": "**/_delta_log/*.json",
    "note of the head": "**/_head.json",
    "key": "results/*/*/_keys/*.json",
    "table": "tables/*.parquet",
    "note of a table": "tables/.origin/*.json",
    "identity": "cohort.json",
}
"""Every kind of file that the engine writes and keeps."""

CAN_BE_MADE_AGAIN = ("note of the head",)
"""Losing one loses nothing, and is no problem: a killed writer may not have come to it."""


def files_of(small: Any, kind: str) -> list[Path]:
    """Return the files of a kind."""
    found = small.files(KINDS[kind])
    if kind == "newest log entry":
        return sorted({path.parent: path for path in found}.values())  # the last of each log
    return found


def flip(path: Path, random_: random.Random) -> int:
    """Flip one bit of a file, and return where."""
    data = bytearray(path.read_bytes())
    bit = random_.randrange(len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return bit


def verify(path: Path) -> VerifyReport:
    objects = {("circles", 1): engine.circles.object_schema}
    return verify_cohort(open_store(path), operations=objects)


def names(report: VerifyReport, path: Path, root: Path) -> bool:
    """Tell whether a report says that something is wrong with a file, or with its own log."""
    relative = path.relative_to(root).as_posix()
    own = {relative, relative.split("/_delta_log/")[0] + "/_delta_log"}
    return any(p.path in own and p.kind in ("corrupt", "missing") for p in report.problems)


Read = Callable[[engine.Cohort], Any]


def readers(small: Any) -> dict[str, Read]:
    """Return all that reads a cohort; each gives a value that can be compared by its text."""

    def pixels(cohort: engine.Cohort) -> Any:
        return [(image.attrs["image_id"], image.values.tobytes()) for image in cohort.images()]

    def table(name: str) -> Read:
        return lambda cohort: cohort.table(name).drop(columns="elapsed_s", errors="ignore").to_csv()

    suffix = f"@{small.trial.key[:8]}"
    tables = [
        f"circles{kind}{s}" for kind in ("", "_by_image", "_by_experiment") for s in ("", suffix)
    ]
    return {
        "images": pixels,
        "plan": lambda cohort: cohort.plan(small.declared).as_json(),
        "trial plan": lambda cohort: cohort.plan(small.trial).as_json(),
        "other plan": lambda cohort: cohort.plan(engine.circles(radius_px=(5, 9))).as_json(),
        "status": lambda cohort: cohort.status().as_json()["failed"],
        **{name: table(name) for name in tables},
    }


def raises_or_equals(small: Any, truth: dict[str, Any], what: str) -> int:
    """Check that no reader gives wrong data; return how many refused."""
    try:
        cohort = small.cohort
    except CorruptStore:
        return len(truth)
    refused = 0
    for name in truth:
        try:
            value = readers(small)[name](cohort)
        except (CorruptStore, MissingObject):
            refused += 1
            continue
        assert value == truth[name], f"{name} is wrong after {what}"
    return refused


@pytest.fixture(scope="session")
def truth(made: Any) -> dict[str, Any]:
    return {name: read(made.cohort) for name, read in readers(made).items()}


def test_a_whole_cohort_is_clean(made: Any) -> None:
    report = made.cohort.verify()
    assert report.problems == ()
    assert report.leftovers == ()
    assert report.ok
    assert report.checked["images"] == 8
    assert report.checked["tables"] == 6
    files = [path for path in (made.path / "pixels").rglob("*") if path.is_file()]
    blank = [row for row in made.cohort._files() if row.chunks == 0]
    assert blank, "a blank shard has a row and no file"
    assert report.checked["pixel_files"] == len(files) + len(blank)
    json.dumps(report.as_json())


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_named_and_never_read(
    kind: str, small: Any, truth: dict[str, Any]
) -> None:
    random_ = random.Random(f"{SEED} {kind}")
    for _ in range(TRIALS):
        path = random_.choice(files_of(small, kind))
        whole = path.read_bytes()
        bit = flip(path, random_)
        what = f"bit {bit} of {path.relative_to(small.path)}"
        report = verify(small.path)
        assert names(report, path, small.path), (what, report.problems)
        assert not report.ok
        raises_or_equals(small, truth, what)
        path.write_bytes(whole)
    assert verify(small.path).ok


CHANGED_BY_LOSS = {
    "key": ("other plan",),  # it can't say what changed, only that the rest is new
    "results part": ("plan", "trial plan", "other plan", "status"),  # to be computed again
}
"""What truly changes if a file of a kind is lost."""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in CAN_BE_MADE_AGAIN])
def test_a_lost_file_is_named_and_never_read(kind: str, small: Any, truth: dict[str, Any]) -> None:
    path = random.Random(f"{SEED} {kind}").choice(files_of(small, kind))
    path.unlink()
    report = verify(small.path)
    assert names(report, path, small.path), report.problems
    if kind == "identity":
        return
    truth = {
        name: value for name, value in truth.items() if name not in CHANGED_BY_LOSS.get(kind, ())
    }
    if kind == "results part":
        plans = [small.cohort.plan(one).causes for one in (small.declared, small.trial)]
        assert sum(bool(causes) for causes in plans) == 1
        assert sum(bool(key.gone) for key in small.cohort.status().keys) == 1
    raises_or_equals(small, truth, f"the loss of {path.relative_to(small.path)}")


@pytest.mark.parametrize(
    "kind", ["shard", "images part", "results part", "newest log entry", "table"]
)
def test_a_torn_file_is_named_and_never_read(kind: str, small: Any, truth: dict[str, Any]) -> None:
    path = files_of(small, kind)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert names(verify(small.path), path, small.path)
    raises_or_equals(small, truth, f"{path.relative_to(small.path)} was torn")


def test_readers_refuse_and_do_not_fill(small: Any, truth: dict[str, Any]) -> None:
    """The other tests let right data pass; here the file that is read is surely the broken one."""
    shard = max(small.files(KINDS["shard"]), key=lambda p: p.stat().st_size)
    shard.unlink()
    with pytest.raises(MissingObject):
        list(small.cohort.images())
    (small.path / "tables/circles.parquet").unlink()
    with pytest.raises(MissingObject):
        small.cohort.table("circles")
    with pytest.raises(NoTable):
        small.cohort.table("squares")
    for part in small.files("results/*/*/key=*/*.parquet"):
        part.unlink()
    ledger = ledger_of(small.cohort.store, small.declared)
    with pytest.raises(MissingObject):
        ledger.read(ledger.snapshot().parts)
    assert "results" in small.cohort.plan(small.declared).causes


@pytest.mark.parametrize("entry", ["inner log entry", "newest log entry"])
def test_every_byte_of_the_log_counts(entry: str, small: Any) -> None:
    """Also times and names of libraries, which no reader looks at."""
    path = files_of(small, entry)[0]
    folder = path.parent.parent.relative_to(small.path).as_posix()
    ledger = Ledger(open_store(small.path), folder, pa.schema([("image_id", pa.string())]))
    if "results" in folder:
        ledger = Ledger(ledger.store, folder, ledger.schema, "key")
    whole = path.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        assert list(check_log(ledger, None)), (place, whole[place - 20 : place + 20])
        if entry == "newest log entry":
            with pytest.raises(CorruptStore):
                ledger.snapshot()
    path.write_bytes(whole)


def test_the_newest_entry_is_checked_without_the_note_too(small: Any) -> None:
    """A writer killed before its note leaves none: what readers see is then still checked."""
    ledger = images_ledger(open_store(small.path))
    (small.path / "catalog/images/_head.json").unlink()
    assert verify(small.path).ok
    newest = small.files("catalog/images/_delta_log/*.json")[-1]
    whole = newest.read_bytes()
    for old, new in ((b'"add"', b'"aed"'), (b"exp", b"exq"), (b"numRecords", b"numRecordt")):
        if old not in whole:
            continue
        newest.write_bytes(whole.replace(old, new, 1))
        with pytest.raises(CorruptStore):
            ledger.snapshot()
    info = json.loads(whole.splitlines()[0])["commitInfo"]
    assert {PREVIOUS_DIGEST, STATE_DIGEST} <= set(info)


def test_lost_newest_entries_are_noticed(small: Any) -> None:
    newest = small.files("catalog/images/_delta_log/*.json")[-1]
    newest.unlink()
    with pytest.raises(CorruptStore, match="newest entries are gone"):
        read_images(open_store(small.path))
    assert names(verify(small.path), newest, small.path)


def test_checkpoints_are_checked(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    schema = pa.schema([("image_id", pa.string()), ("key", pa.string())])
    ledger = Ledger(store, "results/x/v1", schema, "key")
    snapshot = ledger.snapshot()
    for n in range(101):
        part = ledger.write_part(pa.table({"image_id": [f"image {n}"]}), "ab")
        snapshot = ledger.commit(snapshot, [part], snapshot.parts[:1] if n % 3 == 0 else [])
    assert ledger.snapshot() == snapshot
    assert list(check_log(ledger, snapshot)) == []
    random_ = random.Random(SEED)
    log = tmp_path / "results/x/v1/_delta_log"
    for path in [*log.glob("*.checkpoint.parquet"), log / "_last_checkpoint"]:
        whole = path.read_bytes()
        for _ in range(20):
            bit = flip(path, random_)
            try:
                seen = ledger.snapshot()
                assert seen == snapshot
            except CorruptStore:
                seen = None
            found = {problem.path for problem in check_log(ledger, seen)}
            assert path.relative_to(tmp_path).as_posix() in found, (path.name, bit)
            path.write_bytes(whole)


def test_blank_images_are_not_reported(small: Any) -> None:
    cohort = small.cohort
    blank = [image for image in cohort.images() if "blank" in image.attrs["image_id"]]
    assert [int(image.max()) for image in blank] == [0, 0]
    assert verify(small.path).ok
    row = next(row for row in cohort._files() if row.shard >= 0 and row.chunks == 0)
    path = small.path / row.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"what is this")
    problem = Problem(row.path, "inconsistent", "is there, but the catalog says it is blank")
    assert verify(small.path).problems == (problem,)


def test_rows_that_are_there_twice_are_named(small: Any) -> None:
    store = open_store(small.path)
    ledger = engine.runs.worker.ledger_of(store, small.declared)
    snapshot = ledger.snapshot()
    part = snapshot.of_key(small.declared.key)[0]
    rows = ledger.read_part(part)
    ledger.commit(snapshot, [ledger.write_part(rows, small.declared.key)])
    (problem,) = (p for p in verify(small.path).problems if p.kind == "inconsistent")
    assert problem.path == f"results/circles/v3/key={small.declared.key}"
    assert rows["image_id"][0].as_py() in problem.text


def test_images_and_results_that_nothing_backs_are_named(small: Any) -> None:
    store = open_store(small.path)
    ledger = images_ledger(store)
    snapshot, images = read_images(store)
    ready = images.filter(pa.array([s == "ready" for s in images["state"].to_pylist()])).slice(0, 2)
    moved = ready.set_column(
        ready.column_names.index("t"), "t", pa.array([99, 99], pa.int32())
    ).set_column(ready.column_names.index("version"), "version", pa.array([5, 5], pa.int32()))
    ledger.commit(snapshot, [ledger.write_part(moved)])
    results = engine.runs.worker.ledger_of(store, small.declared)
    before = results.snapshot()
    rows = results.read_part(before.parts[0]).slice(0, 1)
    stranger = rows.set_column(0, "image_id", pa.array(["nobody"]))
    results.commit(before, [results.write_part(stranger, small.declared.key)])
    report = verify(small.path)
    texts = [p.text for p in report.problems if p.kind == "inconsistent"]
    assert sum("does not lie inside its stack" in text for text in texts) == 2
    assert sum("the catalog does not know: nobody" in text for text in texts) == 1
    stale = [p.path for p in report.problems if p.kind == "stale"]
    assert "tables/circles.parquet" in stale
    assert not report.ok


def test_older_tables_are_a_warning_and_newer_ones_an_error(small: Any) -> None:
    store = open_store(small.path)
    results = engine.runs.worker.ledger_of(store, small.declared)
    snapshot = results.snapshot()
    part = snapshot.of_key(small.declared.key)[0]
    rows = results.read_part(part)
    results.commit(snapshot, [results.write_part(rows, small.declared.key)], [part])
    report = verify(small.path)
    assert report.ok
    assert {p.path for p in report.problems} == {
        f"tables/{name}.parquet"
        for name in ("circles", "circles_by_image", "circles_by_experiment")
    }, "the trial's tables are not older: only the other key changed"
    assert f"results/circles/v3/{part.path}" in report.leftovers


def test_results_of_operations_that_are_not_installed_are_checked(small: Any) -> None:
    (small.path / "results/circles").rename(small.path / "results/squares")
    report = verify(small.path)
    assert any("/_keys/" in p.path for p in report.problems)
    assert all("squares" in p.path or p.path.startswith("tables/") for p in report.problems)


def test_a_config_that_is_no_config_is_named(small: Any) -> None:
    (small.path / "cohort.toml").write_text("layout = 3")
    assert [p.path for p in verify(small.path).problems] == ["cohort.toml"]
    with pytest.raises(ConfigError):
        small.cohort.config  # noqa: B018 - it is read when asked for


def test_a_table_is_read_by_its_own_digest(small: Any) -> None:
    path = small.path / "tables/circles.parquet"
    pd.read_parquet(path).head(1).to_parquet(path)
    with pytest.raises(CorruptStore):
        read_table(open_store(small.path), "circles")


def test_row_hashes_tell_none_from_a_number() -> None:
    table = pa.table({"image_id": ["a", "a"], "block": pa.array([None, 0], pa.int32())})
    assert len(np.unique(hash_rows(table, ["image_id", "block"]))) == 2
