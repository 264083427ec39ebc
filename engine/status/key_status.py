"""Status of one operation with one set of parameters: coverage and failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engine.execution.memory_limit import OUT_OF_MEMORY
from engine.operations.base import Operation
from engine.runs.input_digests import image_inputs
from engine.runs.plan import Plan, plan_run
from engine.runs.retry_pixels import failed_on_pixels, find_retryable
from engine.runs.worker import RowId
from engine.store.arrow import empty_table, is_any, make_array
from engine.store.backend.base import Store
from engine.store.delta.ledger import Ledger, Snapshot
from engine.store.maintenance.verify_log import key_changed_since
from engine.store.results import DONE, FAILED, read_key, read_there
from engine.store.tables import read_provenance
from engine.tables.build import table_names

READ = {
    "image_id": pa.string(),
    "inputs": pa.string(),
    "block": pa.int32(),
    "status": pa.string(),
    "reason": pa.string(),
    "attempts": pa.int32(),
    "worker": pa.string(),
}
"""Result columns that a status reads."""

NAMED_MISSING = 1_000
"""Maximum number of images without a result that are listed; all are counted."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed image, source or annotation.

    ``operation`` is "ingest" for an unreadable source, and "annotations" for an unusable
    annotation, which also has a ``structure``. ``attempts`` is None for sources and annotations:
    their attempts are not counted. ``detail`` adds information, such as the memory that an image
    needs and that its worker had.
    """

    image_id: str
    source: str
    operation: str
    key: str | None
    reason: str
    attempts: int | None
    structure: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class TableState:
    """A table of an operation: whether it exists, and whether it is older than its inputs."""

    name: str
    there: bool
    stale: bool


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """Status of one operation with one set of parameters.

    Attributes
    ----------
    declared
        Whether cohort.toml declares these parameters; otherwise they are a trial.
    done, failed
        Number of images with a current result; number of rows if there is a ``note``.
    missing
        Number of images in the catalog without a current result, or None if unknown.
    missing_images
        The first `NAMED_MISSING` of them.
    rows
        Number of rows in the ledger, including those for former inputs.
    note
        Reason why images can't be counted: the operation, or its version, is not installed.
    gone
        Missing files of results that the ledger refers to; the next run computes their images
        again.
    """

    operation: str
    version: int
    key: str
    declared: bool
    parameters: Mapping[str, Any]
    done: int
    failed: int
    missing: int | None
    missing_images: tuple[str, ...] = ()
    rows: int = 0
    tables: tuple[TableState, ...] = ()
    note: str | None = None
    gone: tuple[str, ...] = ()


def empty_key_status(store: Store, operation: Operation, images: pa.Table) -> KeyStatus:
    """Return the status of a declared operation without any result."""
    empty = empty_table(pa.schema(READ))
    plan = plan_run(operation, images, empty)
    return KeyStatus(
        operation.name,
        operation.version,
        operation.key,
        declared=True,
        parameters=operation.parameters,
        done=0,
        failed=0,
        missing=_count_missing(plan),
        missing_images=_missing(plan),
        tables=tuple(
            TableState(name, read_provenance(store, name) is not None, stale=True)
            for name in table_names(operation).values()
        ),
    )


def _count_missing(plan: Plan) -> int:
    """Return the number of images without a result: to compute, or waiting for another one."""
    return plan.to_compute + plan.settled.get("waiting", 0)


def _missing(plan: Plan) -> tuple[str, ...]:
    ids = {name for item in plan.items for name in item.image_ids}
    return tuple(sorted(ids | {copy.image_id for copy in plan.copies})[:NAMED_MISSING])


@dataclass(frozen=True)
class KeyResults:
    """The rows of one key of one ledger, for counting."""

    store: Store
    ledger: Ledger
    snapshot: Snapshot
    key: str
    version: int
    declared: bool
    operation: Operation | None
    note: str | None
    annotations_version: int = -1

    def read(
        self, catalog_version: int, images: pa.Table, sources: Mapping[str, str]
    ) -> tuple[KeyStatus, list[Failure]]:
        """Return the status of the key, and the failed images."""
        rows, gone = read_there(self.ledger, self.snapshot.of_key(self.key), list(READ))
        paths = tuple(f"{self.ledger.path}/{part.path}" for part in gone)
        name = self.ledger.path.split("/")[1]
        if self.operation is None:
            states = Counter(rows["status"].to_pylist())
            state = KeyStatus(
                name, self.version, self.key, self.declared, self._parameters(name),
                states[DONE], states[FAILED], None, rows=rows.num_rows, note=self.note, gone=paths,
            )  # fmt: skip
            return state, self._failures(name, rows, sources)
        lost = failed_on_pixels(rows)
        restored = find_retryable(self.store, self.operation, images, lost)
        plan = plan_run(self.operation, images, rows, restored=restored, gone=gone)
        current = set(
            zip(images["image_id"].to_pylist(), image_inputs(self.operation, images), strict=True)
        )
        pairs = zip(rows["image_id"].to_pylist(), rows["inputs"].to_pylist(), strict=True)
        kept = rows.filter(make_array([pair in current for pair in pairs], pa.bool_()))
        state = KeyStatus(
            name, self.version, self.key, self.declared, self.operation.parameters,
            plan.settled.get("done", 0), plan.settled.get("failed", 0), _count_missing(plan),
            _missing(plan), rows.num_rows,
            self._tables(self.operation, catalog_version), gone=paths,
        )  # fmt: skip
        return state, self._failures(name, kept, sources, restored)

    def _parameters(self, name: str) -> Mapping[str, Any]:
        identity = read_key(self.store, name, self.version, self.key)
        return dict(identity.get("parameters", {})) if identity else {}

    def _failures(
        self,
        name: str,
        rows: pa.Table,
        sources: Mapping[str, str],
        restored: Set[RowId] = frozenset(),
    ) -> list[Failure]:
        failed = rows.filter(is_any(rows["status"], [FAILED])).to_pylist()
        return [
            Failure(
                row["image_id"], sources.get(row["image_id"], row["image_id"]), name, self.key,
                row["reason"] or "", row["attempts"], detail=_need(row),
            )
            for row in failed if (row["image_id"], row["inputs"], row["block"]) not in restored
        ]  # fmt: skip

    def _tables(self, operation: Operation, catalog_version: int) -> tuple[TableState, ...]:
        suffix = "" if self.declared else f"@{self.key[:8]}"
        return tuple(
            TableState(name, *self._age(name, catalog_version))
            for name in table_names(operation, suffix).values()
        )

    def _age(self, name: str, catalog_version: int) -> tuple[bool, bool]:
        """Return whether a table exists, and whether it is older than its inputs."""
        origin = read_provenance(self.store, name)
        if origin is None or origin.get("key") != self.key:
            return origin is not None, True
        if int(origin["catalog"]) < catalog_version:
            return True, True
        reads = self.operation is not None and "annotation" in self.operation.inputs
        if reads and int(origin.get("annotations", -1)) < self.annotations_version:
            return True, True
        made_of, newest = int(origin["results"]), self.snapshot.version
        return True, key_changed_since(self.store, self.ledger.path, self.key, made_of, newest)


def _need(row: Mapping[str, Any]) -> str | None:
    """Return the memory need, recorded beside the worker, of an image that ran out of memory."""
    if row["reason"] != OUT_OF_MEMORY:
        return None
    return str(row["worker"] or "").partition(" (")[2].removesuffix(")") or None
