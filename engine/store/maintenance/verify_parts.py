"""Check the parts of ledgers: their bytes, their metadata, and that no row occurs twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.errors import CorruptStore, MissingObject
from engine.store.backend.base import Store
from engine.store.delta.ledger import Ledger, Snapshot
from engine.store.delta.parts import Part
from engine.store.digests import digest_of
from engine.store.maintenance.problems import (
    CORRUPT,
    INCONSISTENT,
    MISSING,
    STALE,
    Problem,
    report_errors,
)
from engine.store.results import DONE, FAILED, key_path, result_schema

Apply = Callable[[Callable[[Part], "PartFacts"], Iterable[Part]], Iterator["PartFacts"]]

NAMED_ROWS = 20
"""Maximum number of rows listed in one problem, of duplicate rows or of unknown images."""


@dataclass(frozen=True, slots=True)
class PartFacts:
    """Problems of one part, and a 64-bit hash of each row's identity."""

    part: Part
    problems: tuple[Problem, ...]
    rows: NDArray[np.uint64]
    images: NDArray[np.uint64]


def hash_rows(table: pa.Table, names: Iterable[str]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each row: equal rows have equal hashes.

    Examples
    --------
    >>> table = pa.table({"a": ["x", "y", "x"], "b": [1, 1, None]})
    >>> hashes = hash_rows(table, ["a", "b"])
    >>> len(set(hashes.tolist())), len(set(hash_rows(table, ["a"]).tolist()))
    (3, 2)
    """
    import pandas as pd

    frame = pd.DataFrame(
        {
            name: pc.fill_null(pc.cast(table[name], pa.string()), "\0").to_numpy(
                zero_copy_only=False
            )
            for name in names
        },
        dtype=object,
    )
    hashes = pd.util.hash_pandas_object(frame, index=False)
    return np.asarray(hashes, np.uint64)


def check_parts(
    ledger: Ledger, snapshot: Snapshot, identity: tuple[str, ...], apply: Apply
) -> Iterator[Problem | PartFacts]:
    """Yield the problems of a ledger's parts, and the facts of each part.

    Parameters
    ----------
    identity
        Columns that identify a row; the first one is the ledger's first column.
    apply
        Like the built-in ``map``; may work in threads. Each call holds one part in memory.
    """
    by_key: dict[str | None, list[PartFacts]] = {}
    for facts in apply(lambda part: _facts(ledger, part, identity), snapshot.parts):
        yield from facts.problems
        yield facts
        by_key.setdefault(facts.part.key, []).append(facts)
    for key, members in by_key.items():
        hashes, counts = np.unique(np.concatenate([f.rows for f in members]), return_counts=True)
        suspects = hashes[counts > 1]
        if len(suspects):
            yield from _named_twice(ledger, key, members, identity, suspects)


def _facts(ledger: Ledger, part: Part, identity: tuple[str, ...]) -> PartFacts:
    path = f"{ledger.path}/{part.path}"
    empty = np.empty(0, np.uint64)
    found: list[NDArray[np.uint64]] = [empty, empty]

    def check() -> Iterator[Problem]:
        if ledger.store.size(path) not in (None, part.size):
            text = f"has {ledger.store.size(path)} bytes, but the ledger says {part.size}"
            raise CorruptStore(path, text)
        rows = ledger.read_part(part)
        if rows.num_rows != part.rows:
            text = f"has {rows.num_rows} rows, but the ledger says {part.rows}"
            yield Problem(path, INCONSISTENT, text)
        ids = rows[identity[0]]
        bounds = pc.min_max(ids) if rows.num_rows else {"min": pa.scalar(""), "max": pa.scalar("")}
        if (bounds["min"].as_py(), bounds["max"].as_py()) != (part.low, part.high):
            text = f"its least and greatest {identity[0]} differ from the ledger's"
            yield Problem(path, INCONSISTENT, text)
        if ledger.partition and not part.path.startswith(f"{ledger.partition}={part.key}/"):
            yield Problem(path, INCONSISTENT, f"is filed under another key than {part.key}")
        if "status" in rows.column_names:
            odd = set(pc.unique(rows["status"]).to_pylist()) - {DONE, FAILED}
            if odd:
                text = f"has rows that are neither {DONE} nor {FAILED}"
                yield Problem(path, INCONSISTENT, text)
        found[:] = [hash_rows(rows, identity), hash_rows(rows, identity[:1])]

    problems = tuple(report_errors(path, check))
    if ledger.path.startswith("results/"):
        problems = tuple(_told(problem) for problem in problems)
    return PartFacts(part, problems, found[0], found[1])


def _told(problem: Problem) -> Problem:
    if problem.kind != MISSING:
        return problem
    return replace(problem, text="is not there; the next run computes again what it held")


def _named_twice(
    ledger: Ledger,
    key: str | None,
    members: Iterable[PartFacts],
    identity: tuple[str, ...],
    suspects: NDArray[np.uint64],
) -> Iterator[Problem]:
    """Report duplicate rows; rows that only share a hash are not duplicates."""
    rows: Counter[tuple[object, ...]] = Counter()
    for facts in members:
        if not np.isin(facts.rows, suspects).any():
            continue
        table = ledger.read_part(facts.part, identity)
        kept = table.filter(pa.array(np.isin(facts.rows, suspects)))
        rows.update(zip(*(kept[name].to_pylist() for name in identity), strict=True))
    twice = sorted((row for row, count in rows.items() if count > 1), key=str)
    if twice:
        where = f"{ledger.path}/{ledger.partition}={key}" if ledger.partition else ledger.path
        listed = "; ".join(
            ", ".join(str(value) for value in row if value is not None)
            for row in twice[:NAMED_ROWS]
        )
        yield Problem(where, INCONSISTENT, f"{len(twice)} rows are there more than once: {listed}")


def check_schema(ledger: Ledger, snapshot: Snapshot, objects: pa.Schema) -> Iterator[Problem]:
    """Yield the parts without the columns of an operation's results."""
    expected = result_schema(objects)
    for part in snapshot.parts[:1] + snapshot.parts[-1:]:
        path = f"{ledger.path}/{part.path}"

        def check(part: Part = part, path: str = path) -> Iterator[Problem]:
            found = ledger.read_part(part).schema
            if {f.name: f.type for f in found} != {f.name: f.type for f in expected}:
                yield Problem(
                    path, INCONSISTENT, "does not have the columns that the operation declares"
                )

        # `check_parts` reports unreadable parts.
        yield from (p for p in report_errors(path, check) if p.kind == INCONSISTENT)


def check_unknown(
    ledger: Ledger, facts: Iterable[PartFacts], known: NDArray[np.uint64], repaired: bool
) -> Iterator[Problem]:
    """Yield the parts with results of images that are not in the catalog.

    Parameters
    ----------
    known
        Hashes of all image_ids in the catalog.
    repaired
        True if a repair has taken commits out of the catalog. Then rows of images whose source is
        gone are expected: no table shows them, and they count again once the source is back.
    """
    kind, text = INCONSISTENT, "has rows of images that the catalog does not know"
    if repaired:
        kind = STALE
        text = "has rows of images that only an ingest of their sources brings back to the catalog"
    for one in facts:
        strangers = ~np.isin(one.images, known)
        if strangers.any():
            ids = ledger.read_part(one.part, ["image_id"])["image_id"].to_pylist()
            named = sorted({i for i, odd in zip(ids, strangers, strict=True) if odd})[:NAMED_ROWS]
            yield Problem(f"{ledger.path}/{one.part.path}", kind, f"{text}: {'; '.join(named)}")


def check_keys(
    store: Store, operation: str, version: int, used: Iterable[str | None]
) -> Iterator[Problem]:
    """Yield the problems of the key files."""
    prefix = key_path(operation, version, "").removesuffix(".json")
    there = set()
    for entry in store.list(prefix):
        name = entry.path.removeprefix(prefix)
        if not name.endswith(".json") or "/" in name:
            continue
        there.add(name.removesuffix(".json"))

        def check(
            path: str = entry.path, key: str = name.removesuffix(".json")
        ) -> Iterator[Problem]:
            raw = store.read(path)
            identity: Mapping[str, object] = dict(json.loads(raw))
            if digest_of(identity) != key:
                raise CorruptStore(path, "does not match the key, which is its digest")
            if (identity.get("operation"), identity.get("version")) != (operation, version):
                yield Problem(path, INCONSISTENT, "is the key of another operation or version")
            if json.dumps(identity, indent=2, sort_keys=True).encode() != raw:
                yield Problem(path, CORRUPT, "its bytes differ from those that the engine wrote")

        yield from report_errors(entry.path, check)
    for key in sorted({key for key in used if key is not None} - there):
        text = "is not there, so the parameters and inputs of this key's results are unknown"
        yield Problem(key_path(operation, version, key), MISSING, text)


def known_images(ledger: Ledger, snapshot: Snapshot) -> NDArray[np.uint64] | None:
    """Return hashes of all image_ids in the catalog, or None if some can't be read."""
    hashes = [np.empty(0, np.uint64)]
    try:
        for rows in ledger.read_parts(snapshot.parts, ["image_id"]):
            hashes.append(hash_rows(rows, ["image_id"]))
    except (CorruptStore, MissingObject):
        return None
    return np.unique(np.concatenate(hashes))
