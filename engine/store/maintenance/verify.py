"""Check a whole cohort, and report all problems. Changes nothing."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import CorruptStore, MissingObject
from engine.store.backend.base import Store
from engine.store.catalog.annotations import PATH as ANNOTATIONS
from engine.store.catalog.tables import ShardRow, images_ledger, read_images, shards_ledger
from engine.store.catalog.unnamed import unnamed_images
from engine.store.config import JSON, TOML, read_config, read_identity
from engine.store.delta.integrity import read_head
from engine.store.delta.ledger import Ledger, Snapshot
from engine.store.digests import digest_bytes
from engine.store.maintenance.problems import (
    CORRUPT,
    INCONSISTENT,
    MISSING,
    STALE,
    Problem,
    report_errors,
)
from engine.store.maintenance.unreferenced import ReferencedFiles, all_ledgers, list_managed_files
from engine.store.maintenance.verify_log import check_log, key_changed_since
from engine.store.maintenance.verify_parts import (
    PartFacts,
    check_keys,
    check_parts,
    check_schema,
    check_unknown,
    hash_rows,
    known_images,
)
from engine.store.maintenance.verify_pictures import check_pictures
from engine.store.maintenance.verify_pixels import (
    PLACE,
    Level,
    check_files,
    check_indexes,
    check_places,
)
from engine.store.pictures import folders_there
from engine.store.rows import rows_of
from engine.store.tables import FOLDER, parse_record, record_path, table_names_there, table_path

THREADS = 4
"""Concurrent reads. Each holds one file in memory, a few tens of megabytes."""

IDENTITY = {
    "catalog/images": ("image_id", "version"),
    "catalog/shards": ("path", "digest"),  # the old and the new state of a shard of labels
    ANNOTATIONS: ("image_id", "annotation", "structure", "source", "version"),
}
"""Columns that identify a row, by ledger; for results, see `RESULT_IDENTITY`."""

RESULT_IDENTITY = ("image_id", "inputs", "block")

_RESULTS = re.compile(r"results/([^/]+)/v(\d+)")

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Problems of a cohort.

    Attributes
    ----------
    problems
        By path. Those of kind ``stale`` are warnings: the next run resolves them.
    leftovers
        Unreferenced files: harmless, and removed by gc.
    checked
        Numbers of checked objects, by kind.
    """

    problems: tuple[Problem, ...]
    leftovers: tuple[str, ...]
    checked: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """True if there are no problems but warnings."""
        return all(problem.kind == STALE for problem in self.problems)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {
            "ok": self.ok,
            "problems": [problem.as_json() for problem in self.problems],
            "leftovers": list(self.leftovers),
            "checked": dict(self.checked),
        }


def verify_cohort(
    store: Store, *, operations: Mapping[tuple[str, int], pa.Schema] | None = None
) -> VerifyReport:
    """Check everything that a cohort holds; report every flipped bit and every lost file.

    The exception is cohort.toml, which people edit: only its validity can be checked.

    Parameters
    ----------
    store
        Storage of the cohort.
    operations
        Object columns of the installed operations, by (name, version). Results of other operations
        are checked without them.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return _Verification(store, dict(operations or {}), pool).run()


class _Verification:
    """One check of a cohort; later steps use the intact objects of earlier ones."""

    def __init__(
        self,
        store: Store,
        operations: Mapping[tuple[str, int], pa.Schema],
        pool: ThreadPoolExecutor,
    ) -> None:
        self._store = store
        self._operations = operations
        self._pool = pool
        self._checked: Counter[str] = Counter()
        self._snapshots: dict[str, Snapshot] = {}
        self._rows: list[ShardRow] | None = None
        self._facts: dict[str, list[PartFacts]] = {}
        self._shown: dict[str, frozenset[str] | None] = {}
        self._spared: frozenset[str] | None = None

    def run(self) -> VerifyReport:
        there = list_managed_files(self._store)  # before the ledgers are read; see `find_leftovers`
        problems = [*self._files_of_people()]
        ledgers = list(all_ledgers(self._store))
        for ledger in ledgers:
            problems += self._ledger(ledger)
        problems += report_errors("catalog/shards", self._pixels)
        for ledger in ledgers:
            problems += report_errors(ledger.path, partial(self._results, ledger))
        problems += self._tables()
        problems += self._pictures()
        named = self._named(ledgers)
        leftovers = sorted(entry.path for entry in there if named.is_unreferenced(entry.path))
        return VerifyReport(tuple(sorted(set(problems))), tuple(leftovers), dict(self._checked))

    def _files_of_people(self) -> Iterator[Problem]:
        def identity() -> Iterator[Problem]:
            if self._store.size(JSON) is None:
                raise MissingObject(JSON)
            read_identity(self._store)
            yield from ()

        def config() -> Iterator[Problem]:
            read_config(self._store)
            yield from ()

        self._checked["files"] += 2
        yield from report_errors(JSON, identity)
        yield from report_errors(TOML, config)

    def _map(self, function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        return self._pool.map(function, items)

    # ledgers

    def _ledger(self, ledger: Ledger) -> Iterator[Problem]:
        snapshot: Snapshot | None = None
        refused: list[Problem] = []

        def read() -> Iterator[Problem]:
            nonlocal snapshot
            snapshot = ledger.snapshot()
            yield from ()

        refused += report_errors(f"{ledger.path}/_delta_log", read)
        causes = list(
            report_errors(f"{ledger.path}/_delta_log", lambda: check_log(ledger, snapshot))
        )
        yield from causes or refused  # the log's own check is more precise
        if snapshot is None:
            return
        self._snapshots[ledger.path] = snapshot
        self._checked["log_entries"] += snapshot.version + 1
        self._checked["parts"] += len(snapshot.parts)
        identity = IDENTITY.get(ledger.path, RESULT_IDENTITY)
        facts = self._facts.setdefault(ledger.path, [])
        for found in check_parts(ledger, snapshot, identity, self._map):
            if isinstance(found, Problem):
                yield found
            else:
                facts.append(found)
                self._checked["rows"] += found.part.rows

    def _results(self, ledger: Ledger) -> Iterator[Problem]:
        if ledger.path == ANNOTATIONS and ledger.path in self._snapshots:
            known = self._known()
            if known is not None:
                no_image = hash_rows(pa.table({"image_id": [""]}), ["image_id"])
                known = np.append(known, no_image)
                yield from check_unknown(ledger, self._facts[ledger.path], known, self._repaired())
        match = _RESULTS.fullmatch(ledger.path)
        snapshot = self._snapshots.get(ledger.path)
        if match is None or snapshot is None:
            return
        operation, version = match[1], int(match[2])
        objects = self._operations.get((operation, version))
        if objects is not None:
            yield from check_schema(ledger, snapshot, objects)
        yield from check_keys(
            self._store, operation, version, {part.key for part in snapshot.parts}
        )
        known = self._known()
        if known is not None:
            yield from check_unknown(ledger, self._facts[ledger.path], known, self._repaired())

    def _repaired(self) -> bool:
        with contextlib.suppress(CorruptStore):  # the check of the ledger reports it
            head = read_head(self._store, images_ledger(self._store).path)
            return head is not None and head.repaired
        return False

    def _known(self) -> NDArray[np.uint64] | None:
        # Read after the results: an image is in the catalog before it has a result.
        ledger = images_ledger(self._store)
        try:
            return known_images(ledger, ledger.snapshot())
        except (CorruptStore, MissingObject):
            return None

    # pixels

    def _pixels(self) -> Iterator[Problem]:
        images_there = self._intact("catalog/images")
        images = read_images(self._store, [*PLACE])[1] if images_there else None
        if not self._intact("catalog/shards"):
            return
        # Read after the images: an ingest commits the shards first.
        ledger = shards_ledger(self._store)
        table = ledger.read(ledger.snapshot().parts)
        self._rows = rows_of(table, ShardRow)
        self._checked["pixel_files"] += len(self._rows)
        levels: dict[tuple[str, int], Level] = {}
        yield from check_files(self._store, self._rows, levels, self._map)
        yield from check_indexes(self._store, self._rows)
        if images is not None:
            self._checked["images"] += images.num_rows
            self._spared = frozenset(unnamed_images(images, table)["stack"].to_pylist())
            yield from check_places(images, self._rows, levels)

    def _intact(self, path: str) -> bool:
        """Return True if all parts of a ledger can be read; if not, that is already reported."""
        return path in self._snapshots and not any(f.problems for f in self._facts[path])

    def _named(self, ledgers: Iterable[Ledger]) -> ReferencedFiles:
        parts = {}
        for ledger in ledgers:
            there = self._snapshots.get(ledger.path)
            paths = None if there is None else {f"{ledger.path}/{p.path}" for p in there.parts}
            parts[ledger.path] = None if paths is None else frozenset(paths)
        rows = self._rows
        pixels = None if rows is None else frozenset(row.path for row in rows)
        return ReferencedFiles(pixels, parts, self._shown, self._spared)

    # pictures

    def _pictures(self) -> Iterator[Problem]:
        for folder in folders_there(self._store):
            found: set[str] = set()
            self._shown[folder] = frozenset()
            check = partial(check_pictures, self._store, folder, self._pool.map, found)
            yield from report_errors(folder, check, partial(self._shown.__setitem__, folder, None))
            if self._shown[folder] is not None:
                self._shown[folder] = frozenset(found)
            self._checked["pictures"] += len(found)

    # tables

    def _tables(self) -> Iterator[Problem]:
        prefix = record_path("").removesuffix(".json")
        noted = {
            e.path.removeprefix(prefix).removesuffix(".json") for e in self._store.list(prefix)
        }
        for name in sorted({*table_names_there(self._store), *noted}):
            self._checked["tables"] += 1
            yield from report_errors(table_path(name), partial(self._table, name))

    def _table(self, name: str) -> Iterator[Problem]:
        path, sidecar = table_path(name), record_path(name)
        for last in (False, True):  # it may be replaced during the check
            note = parse_record(self._store.read(sidecar), sidecar)
            if self._store.size(path) is None:
                if note.provenance is not None:
                    yield Problem(path, MISSING, "is not there; the next run makes it again")
                return
            data = self._store.read(path)
            if digest_bytes(data) in note.digests:
                break
            if last:
                raise CorruptStore(path, "its bytes do not match its digest")
        metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
        origin = json.loads(metadata[b"cohort.origin"])
        # Two digests mean that the table was being replaced, and the record still has the old
        # origin; none means that it was being made for the first time. The next run makes it again.
        made = note.provenance is not None and len(note.digests) == 1
        if made and origin != note.provenance:
            yield Problem(sidecar, INCONSISTENT, f"has another origin than {FOLDER}/{name}")
        yield from self._origin(path, origin, outdated=note.provenance is None)

    def _origin(self, path: str, origin: Mapping[str, Any], outdated: bool) -> Iterator[Problem]:
        results = f"results/{origin['operation']}/v{origin['version']}"
        for ledger, made_of, key in (
            ("catalog/images", int(origin["catalog"]), None),
            (results, int(origin["results"]), str(origin["key"])),
            (ANNOTATIONS, int(origin.get("annotations", -1)), None),
        ):
            if made_of < 0 and ledger == ANNOTATIONS:  # of an operation that reads no annotations
                continue
            snapshot = self._snapshots.get(ledger)
            if snapshot is None:
                if self._store.size(f"{ledger}/_delta_log/{0:020d}.json") is None and made_of >= 0:
                    yield Problem(path, INCONSISTENT, f"is made of {ledger}, which is not there")
                continue
            if made_of > snapshot.version and outdated:  # marked by the repair of the ledger
                text = f"is made of commits of {ledger} that are lost; the next run makes it again"
                yield Problem(path, STALE, text)
            elif made_of > snapshot.version:
                text = f"is made of version {made_of} of {ledger}, which has {snapshot.version}"
                yield Problem(path, INCONSISTENT, text)
            elif key_changed_since(self._store, ledger, key, made_of, snapshot.version):
                text = f"is older than {ledger}; the next run makes it again"
                yield Problem(path, STALE, text)


__all__ = [
    "CORRUPT",
    "INCONSISTENT",
    "MISSING",
    "STALE",
    "Problem",
    "VerifyReport",
    "verify_cohort",
]
