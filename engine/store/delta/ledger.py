"""Ledger: a Delta table to which writers add durable parts by compare-and-swap commits.

Workers write parts under unique names; a part is invisible until a commit names it. A commit names
the version that it is based on, and fails if another writer committed first (Delta protocol: the
log entry of a version is created once). Each part's name holds the digest of its bytes, and each
log entry the digests of the previous entry and of all parts visible after it, so that a flipped bit
is reported (see `engine.store.delta.integrity`).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from engine.errors import AlreadyExists, CorruptStore, EngineError, MissingObject
from engine.store.arrow import as_table, empty_table, make_array
from engine.store.backend.base import Store
from engine.store.delta.checkpoints import checkpoint_due, write_checkpoint
from engine.store.delta.entries import make_entry
from engine.store.delta.integrity import log_path, read_head, record_head, state_digest, verify_head
from engine.store.delta.parts import Part
from engine.store.delta.torn import REMEDY, TORN, examine
from engine.store.digests import digest_bytes
from engine.store.parquet import read_parquet, write_parquet

MAX_COMMIT_ATTEMPTS = 200
"""Compare-and-swap attempts before giving up; each failed one means that another writer
succeeded."""


class CommitConflict(EngineError):
    """Commit conflict, another writer was first: (path of the ledger,). Reload and decide again."""

    def __str__(self) -> str:
        return f"{self.args[0]} was changed by another writer."


@dataclass(frozen=True)
class Snapshot:
    """State of a ledger at one version. ``version`` is -1 before the first commit."""

    version: int
    parts: tuple[Part, ...]

    @cached_property
    def by_path(self) -> dict[str, Part]:
        """Parts by their path."""
        return {part.path: part for part in self.parts}

    def of_key(self, key: str | None) -> tuple[Part, ...]:
        """Return the parts of one key."""
        return tuple(part for part in self.parts if part.key == key)


@dataclass(frozen=True)
class Ledger:
    """Delta table of a cohort.

    Parameters
    ----------
    store
        Storage of the cohort.
    path
        Folder of the table, relative to the store.
    schema
        Columns; the first one is a string that identifies the row's subject.
    partition
        Name of the partition column (a string column of the schema), or None.
    before
        Folders of the cohort, each with a slash at its end, that are empty before the ledger is
        created. If one has files and the ledger does not exist, the ledger was lost.
    """

    store: Store
    path: str
    schema: pa.Schema
    partition: str | None = None
    guards: tuple[str, ...] = ()

    @property
    def part_schema(self) -> pa.Schema:
        """Columns of the Parquet files: all but the partition column."""
        return pa.schema([field for field in self.schema if field.name != self.partition])

    def _open(self) -> DeltaTable | None:
        uri, options = self.store.delta_location(self.path)
        try:
            try:
                return DeltaTable(uri, storage_options=options)
            except TableNotFoundError:
                if self.store.size(self._log_path(0)) is None:
                    return None
                # Created by another writer since, or a listing failed for a moment: open it again.
                return DeltaTable(uri, storage_options=options)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError, ValueError) as error:
            raise self._unread(error) from error

    def _unread(self, error: Exception) -> EngineError:
        """Return the cause of a failed read: the store, or the log itself."""
        path = f"{self.path}/_delta_log"
        told = f"can't be read ({type(error).__name__})"
        return self.store.as_store_error(error, path, reading=True) or CorruptStore(path, told)

    def snapshot(self) -> Snapshot:
        """Return the ledger's current state.

        Raises
        ------
        CorruptStore
            If the log can't be parsed, is missing, or names other parts than were committed.
        """
        try:
            return self._snapshot()
        except CorruptStore as error:
            if examine(self.store, self.path) is None:
                raise
            told = f"{TORN} its newest entries or notes; {REMEDY}"
            raise CorruptStore(f"{self.path}/_delta_log", told) from error

    def _snapshot(self) -> Snapshot:
        head = read_head(self.store, self.path)  # before the log, which may only be ahead of it
        table = self._open()
        if table is None:
            if head is not None:
                raise CorruptStore(f"{self.path}/_delta_log", "is gone")
            table = self._begun_since()
        if table is None:
            return Snapshot(-1, ())
        try:
            actions = as_table(table.get_add_actions(flatten=True))
        except (DeltaError, OSError, ValueError) as error:
            raise self._unread(error) from error
        first = self.schema.names[0]
        names = set(actions.column_names)

        def column(name: str) -> list[Any]:
            return actions[name].to_pylist() if name in names else [None] * actions.num_rows

        parts = tuple(
            Part(path, size, rows, key, low or "", high or "")
            for path, size, rows, key, low, high in zip(
                column("path"),
                column("size_bytes"),
                column("num_records"),
                column(f"partition.{self.partition}"),
                column(f"min.{first}"),
                column(f"max.{first}"),
                strict=True,
            )
        )
        version = table.version()
        verify_head(self.path, head, version, self.store.read(self._log_path(version)), parts)
        return Snapshot(version, tuple(sorted(parts, key=lambda part: part.path)))

    def _begun_since(self) -> DeltaTable | None:
        """Return the table if the folders of ``before`` have files: it may be newly created."""
        for folder in self.guards:
            if next(iter(self.store.list(folder)), None) is not None:
                table = self._open()
                if table is None:
                    raise CorruptStore(self.path, f"is missing, but {folder} exists; restore it")
                return table
        return None

    def create_if_missing(self) -> None:
        """Create the ledger without parts, if it does not exist.

        Raises
        ------
        CorruptStore
            If it existed and was lost.
        """
        if self.snapshot().version < 0:
            self._create()

    # parts

    def write_part(self, rows: pa.Table, key: str | None = None) -> Part:
        """Write rows durably under a new name; they stay invisible until a commit.

        Parameters
        ----------
        rows
            Columns of `part_schema`.
        key
            Value of the partition column for all rows.
        """
        rows = rows.select(self.part_schema.names).cast(self.part_schema)
        data = write_parquet(rows)
        folder = f"{self.partition}={key}/" if self.partition else ""
        path = f"{folder}{secrets.token_hex(6)}-{digest_bytes(data)}.parquet"
        self.store.create(f"{self.path}/{path}", data)
        first = rows.column(0)
        ids = first.to_pylist() if rows.num_rows else [""]
        return Part(path, len(data), rows.num_rows, key, min(ids), max(ids))

    def read_part(self, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a part, and check all its bytes against the digest in its name.

        Raises
        ------
        MissingObject, CorruptStore
        """
        data = self.store.read(f"{self.path}/{part.path}")
        if digest_bytes(data) != part.path.rsplit("-", 1)[-1].removesuffix(".parquet"):
            raise CorruptStore(f"{self.path}/{part.path}", "its bytes do not match its digest")
        wanted = [n for n in columns if n != self.partition] if columns is not None else None
        rows = read_parquet(data, wanted)
        if self.partition and (columns is None or self.partition in columns):
            rows = rows.append_column(
                self.partition, make_array([part.key] * len(rows), pa.string())
            )
        return rows

    def read_parts(
        self, parts: Sequence[Part], columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """Read parts one after the other."""
        for part in parts:
            yield self.read_part(part, columns)

    def read(self, parts: Sequence[Part], columns: Sequence[str] | None = None) -> pa.Table:
        """Read parts into one table with the ledger's columns, empty if no parts are given."""
        names = list(columns) if columns is not None else self.schema.names
        empty = empty_table(pa.schema([self.schema.field(name) for name in names]))
        tables = [table.select(names) for table in self.read_parts(parts, names)]
        return pa.concat_tables([empty, *tables])

    # commits

    def commit(
        self, snapshot: Snapshot, add: Sequence[Part], remove: Sequence[Part] = ()
    ) -> Snapshot:
        """Add and remove parts in one atomic step, if no other writer committed first.

        Returns
        -------
        The snapshot after the commit.

        Raises
        ------
        Stale
            If the ledger is no longer at ``snapshot``; nothing was changed.
        CorruptStore
            If entries are missing, or the newest one differs from its commit.
        StoreFull, StoreReadOnly
        """
        head = read_head(self.store, self.path)  # before the log, which may only be ahead of it
        version = max(snapshot.version, 0)
        entry = self._entry(version) or (self._create() if snapshot.version <= 0 else None)
        if entry is None:
            raise CorruptStore(f"{self.path}/_delta_log", "its newest entries are gone")
        if self.store.size(self._log_path(version + 1)) is not None:
            raise CommitConflict(self.path)
        gone = {part.path for part in remove}
        kept = [part for part in snapshot.parts if part.path not in gone]
        verify_head(self.path, head, version, entry, snapshot.parts)
        new = make_entry(
            version + 1,
            add,
            remove,
            first=self.schema.names[0],
            partition=self.partition,
            chain=digest_bytes(entry),
            state=state_digest([*kept, *add]),
        )
        try:
            self.store.create(self._log_path(version + 1), new)
        except (EngineError, OSError) as error:
            # The commit may have succeeded: the answer was lost, or a later step failed.
            if self._entry(version + 1) != new:
                if isinstance(error, AlreadyExists):
                    raise CommitConflict(self.path) from error
                raise
        if checkpoint_due(version + 1):
            # The commit is valid without a checkpoint; the next checkpoint reads more entries.
            with contextlib.suppress(EngineError, OSError, DeltaError):
                noted = {} if head is None else head.checkpoints
                write_checkpoint(self.store, self.path, version + 1, noted)
        record_head(self.store, self.path, version + 1)
        return Snapshot(version + 1, tuple(sorted([*kept, *add], key=lambda part: part.path)))

    def _entry(self, version: int) -> bytes | None:
        try:
            return self.store.read(self._log_path(version))
        except MissingObject:
            return None

    def _create(self) -> bytes:
        """Create the first entry, unless another writer does; return the one in place."""
        with contextlib.suppress(AlreadyExists):
            self.store.create(self._log_path(0), self.first_entry())
        return self.store.read(self._log_path(0))

    def first_entry(self) -> bytes:
        """Return the log entry of version 0, which creates the table without parts."""
        # Publish it from a staging folder, by one create: with Delta's own creation of a table, the
        # second of two concurrent writers commits an empty version 1.
        with self.store.staging() as folder:
            DeltaTable.create(
                str(folder / "ledger"),
                self.schema,
                partition_by=[self.partition] if self.partition else None,
                configuration={"delta.dataSkippingNumIndexedCols": "1"},
            )
            return (folder / "ledger" / log_path("", 0).strip("/")).read_bytes()

    def _log_path(self, version: int) -> str:
        return log_path(self.path, version)
