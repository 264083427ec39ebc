"""Invariants after any fault (faults.md, I1 to I6), checked by reading the disk."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

import engine
from engine.operations.registry import operations
from engine.runs.input_digests import image_inputs
from engine.store.backend.open import open_store
from engine.store.catalog.tables import read_images, shards_ledger
from engine.store.digests import digest_bytes
from engine.store.maintenance.problems import STALE
from tests.support.operations import Probe

VARYING = ["elapsed_s", "attempts", "worker", "device"]
"""Columns that depend on the run, not on the image."""


def ledger_rows(place: Path, path: str) -> list[dict[str, Any]]:
    """Return the rows of a ledger from Delta's own log and plain Parquet files."""
    if not any((place / path / "_delta_log").glob("*.json")):  # killed before the first commit
        return []
    files = DeltaTable(str(place / path)).file_uris()
    rows: list[dict[str, Any]] = []
    for file in files:
        key = [part[4:] for part in Path(file).parts if part.startswith("key=")]
        values = pq.ParquetFile(file).read().to_pylist()
        rows += [{**row, "key": key[0]} for row in values] if key else values
    return rows


def result_rows(
    place: Path, key: str | None = None, *, operation: str = "probe"
) -> list[dict[str, Any]]:
    """Return the rows of an operation's key, by image; by default of its only key."""
    versions = sorted((place / "results" / operation).glob("v*"))
    assert len(versions) <= 1, versions
    rows = [row for each in versions for row in ledger_rows(place, str(each.relative_to(place)))]
    keys = {row["key"] for row in rows}
    if key is None:
        assert len(keys) <= 1, f"{len(keys)} keys"
    return sorted(
        (row for row in rows if key is None or row["key"] == key),
        key=lambda row: (row["image_id"], row["inputs"]),
    )


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows without run-specific columns."""
    return [{k: v for k, v in row.items() if k not in VARYING} for row in rows]


def pixels_by_image(place: Path) -> dict[str, tuple[str, str]]:
    """Return state and content of each image in the catalog, computed from its pixels."""
    cohort = engine.open(place)
    found = {}
    _, images = read_images(open_store(place))
    for row in images.to_pylist():
        found[row["image_id"]] = (row["state"], row["content"])
    assert len(cohort.images()) == sum(state == "ready" for state, _ in found.values())
    for image in cohort.images():
        image.load()  # the engine's reader raises if a chunk is torn or missing
    return found


def tables(place: Path, name: str = "probe") -> dict[str, pd.DataFrame]:
    """Return the tables of an operation, rows in order, without run-specific columns."""
    found = {}
    for suffix in ("", "_by_image", "_by_experiment"):
        frame = pd.read_parquet(place / "tables" / f"{name}{suffix}.parquet")
        found[suffix] = frame.drop(columns=[c for c in frame.columns if c in VARYING])
    return found


def check_once(place: Path, key: str | None = None, *, operation: str = "probe") -> None:
    """I1: every image of the catalog has exactly one row for the key; there are no other rows."""
    rows = result_rows(place, key, operation=operation)
    counted = Counter((row["image_id"], row["inputs"]) for row in rows)
    assert set(counted.values()) <= {1}, "rows twice"
    assert {row["status"] for row in rows} <= {"done", "failed"}
    _, images = read_images(open_store(place))
    ready = images.filter(pc.equal(images["state"], "ready"))
    inputs = ready["content"].to_pylist()
    kind = operations().get(operation)
    if kind is not None and kind.inputs != ("content",):  # circles also reads the spacing
        inputs = image_inputs(kind(), ready)
    assert dict(counted.keys()) == dict(zip(ready["image_id"].to_pylist(), inputs, strict=True))


def check_catalog_once(place: Path, images: int) -> None:
    """I1 of ingest: each image has one current row, and each version exists once."""
    rows = ledger_rows(place, "catalog/images")
    assert max(Counter((r["image_id"], r["version"]) for r in rows).values()) == 1
    assert len({row["image_id"] for row in rows}) == images
    assert {row["state"] for row in rows} == {"ready"}


def check_files(place: Path, *, settled: bool = True) -> None:
    """I3: files match the ledgers, and digests match; then check the report of ``verify``.

    Parameters
    ----------
    settled
        Whether a run completed; otherwise tables may be older than the results.
    """
    store = open_store(place)
    ledger = shards_ledger(store)
    for row in ledger.read(ledger.snapshot().parts).to_pylist():
        file = place / row["path"]
        data = file.read_bytes() if file.exists() else b""
        assert (len(data), digest_bytes(data)) == (row["size"], row["digest"]), row["path"]
    for log in place.glob("**/_delta_log"):
        if not any(log.glob("*.json")):  # killed before the first commit
            continue
        for uri in DeltaTable(str(log.parent)).file_uris():
            data = Path(uri).read_bytes()
            assert digest_bytes(data) == Path(uri).stem.rsplit("-", 1)[-1]
    cohort = engine.open(place)
    for name in cohort.tables():
        cohort.table(name)
    problems = cohort.verify().problems
    assert [p for p in problems if settled or p.kind != STALE] == []


@dataclass
class Calls:
    """File to which the test operation appends each of its calls."""

    path: Path

    def all(self) -> list[str]:
        """Return the computed sources, in order, with repetitions."""
        return self.path.read_text().splitlines() if self.path.exists() else []


def check_outside(folder: Path, before: set[str]) -> None:
    """I6: nothing was written outside the cohort."""
    assert listing(folder) == before


def listing(folder: Path) -> set[str]:
    """Return all files below a folder."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def probe_key(**parameters: Any) -> str:
    """Return the key of the test operation."""
    return Probe(**parameters).key


def write_sick(path: Path, harm: dict[str, str]) -> Path:
    """Configure the images on which the operation fails, and the kind of failure."""
    path.write_text(json.dumps(harm))
    return path
