"""Tables for users: one Parquet file each, replaced atomically, never by an older one."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import CorruptStore, MissingObject, NoTable
from engine.range_file import RangeFile
from engine.store.backend.base import Store
from engine.store.digests import DIGEST_CHARS, digest_bytes
from engine.store.parquet import read_parquet, write_parquet
from engine.store.sealed_json import seal, unseal

FOLDER = "tables"
FRAGMENTS = f"{FOLDER}/.fragments"

VERSIONS = ("catalog", "results", "annotations")
"""Versions in a table's provenance; they only ever grow."""

PARQUET_END = b"PAR1"

CHECK_BYTES = 8 * 1024**2
"""Bytes read at once to check a table without keeping it."""

MAX_PENDING = 8
"""Maximum number of announced tables in a record; a table has one or two writers at a time."""


def table_path(name: str) -> str:
    """Return the path of a table, relative to the cohort."""
    return f"{FOLDER}/{name}.parquet"


def record_path(name: str) -> str:
    """Return the path of a table's sidecar record."""
    return f"{FOLDER}/.origin/{name}.json"


@dataclass(frozen=True, slots=True)
class TableRecord:
    """Sidecar record of a table: content digests and provenance.

    ``pending`` are the digests and provenances that writers announced but did not confirm. Their
    tables may already be in place, so ``digests`` includes them besides the current one.
    """

    current: tuple[str, ...] = ()
    provenance: dict[str, Any] | None = None
    pending: tuple[tuple[str, dict[str, Any]], ...] = ()

    @property
    def digests(self) -> tuple[str, ...]:
        """All digests that the table may have."""
        return (*(digest for digest, _ in self.pending), *self.current)

    def is_newer(self, provenance: Mapping[str, Any]) -> bool:
        """Return True if a table of newer versions was made, or announced."""
        return any(_newer(o, provenance) for o in (self.provenance, *(o for _, o in self.pending)))

    def begin_replace(self, digest: str, provenance: Mapping[str, Any]) -> TableRecord:
        """Return the record that also allows an announced table."""
        others = tuple(one for one in self.pending if one[0] != digest)
        return TableRecord(self.current, self.provenance, ((digest, dict(provenance)), *others))

    def finish_replace(self, digest: str, provenance: Mapping[str, Any]) -> TableRecord:
        """Return the record of a table in place.

        Drop older announced tables: their writers see this one and give way. Others may still come.
        """
        pending = ((d, o) for d, o in self.pending if d != digest and not _newer(provenance, o))
        return TableRecord((digest,), dict(provenance), tuple(pending)[:MAX_PENDING])

    def begin_delete(self) -> TableRecord:
        """Return the record of a table that is about to be removed, and may exist or not."""
        current = ((digest, dict(self.provenance or {})) for digest in self.current)
        return TableRecord(pending=(*self.pending, *current))

    def without_provenance(self) -> TableRecord:
        """Return the record of a table that stays readable, and that the next run makes again."""
        return TableRecord(self.digests)

    def as_bytes(self) -> bytes:
        """Return the bytes of the record, equal for equal records."""
        pending = [[digest, provenance] for digest, provenance in self.pending]
        values = {"digests": list(self.current), "origin": self.provenance, "coming": pending}
        return seal(values)


def parse_record(raw: bytes, path: str) -> TableRecord:
    """Parse and check a sidecar record.

    Raises
    ------
    CorruptStore
        If its bytes differ from those that the engine writes.
    """

    def build(values: dict[str, Any]) -> TableRecord:
        pending = tuple((str(digest), dict(made_of)) for digest, made_of in values["coming"])
        return TableRecord(tuple(values["digests"]), values["origin"], pending)

    return unseal(raw, path, build)


def read_record(store: Store, name: str) -> TableRecord:
    """Return the sidecar record of a table.

    Raises
    ------
    MissingObject, CorruptStore
    """
    path = record_path(name)
    return parse_record(store.read(path), path)


def read_provenance(store: Store, name: str) -> dict[str, Any] | None:
    """Return the provenance of a table, or None if the table is missing or cut short.

    This reads only the last bytes, which reveal a cut copy, or zeros after a power cut; the readers
    of the table check the others.
    """
    path = table_path(name)
    size = store.size(path)
    if size is None or size < len(PARQUET_END):
        return None
    try:
        ends = store.read(path, size - len(PARQUET_END), len(PARQUET_END)) == PARQUET_END
        return read_record(store, name).provenance if ends else None
    except (MissingObject, CorruptStore):
        return None


def table_names_there(store: Store) -> list[str]:
    """Return the names of a cohort's tables."""
    names = (entry.path.removeprefix(f"{FOLDER}/") for entry in store.list(f"{FOLDER}/"))
    return sorted(
        n.removesuffix(".parquet") for n in names if n.endswith(".parquet") and "/" not in n
    )


def read_table(store: Store, name: str) -> pa.Table:
    """Read a table, and check its bytes against the recorded digest.

    Raises
    ------
    NoTable
        If it was never made.
    MissingObject, CorruptStore
        If it was made, and is missing or differs.
    """
    there = store.size(table_path(name)) is not None
    try:
        record = read_record(store, name)
    except MissingObject:
        if not there:
            raise NoTable(name, table_names_there(store)) from None
        raise CorruptStore(table_path(name), "has no note of its digest") from None
    if not there and record.provenance is None:  # its first writer was killed before placing it
        raise NoTable(name, table_names_there(store))
    data = store.read(table_path(name))
    if digest_bytes(data) not in record.digests:
        # It may just have been replaced: the record is then newer than the one in hand.
        record, data = read_record(store, name), store.read(table_path(name))
    if digest_bytes(data) not in record.digests:
        raise CorruptStore(table_path(name), "its bytes do not match its digest")
    return read_parquet(data)


def write_fragment(store: Store, token: str, name: str, rows: pa.Table) -> str:
    """Write a fragment of a table where workers find it, and return its path."""
    path = f"{FRAGMENTS}/{token}/{name}.parquet"
    store.replace(path, write_parquet(rows))
    return path


def read_fragment(store: Store, path: str) -> pa.Table:
    """Read a fragment of a table."""
    return read_parquet(store.read(path))


def drop_fragments(store: Store, token: str) -> None:
    """Remove the fragments of one reduction."""
    for entry in list(store.list(f"{FRAGMENTS}/{token}/")):
        store.delete(entry.path)


def write_table(
    store: Store, name: str, pieces: Iterator[pa.Table], provenance: Mapping[str, Any]
) -> bool:
    """Replace a table by one made of pieces, unless a table of newer versions exists.

    Parameters
    ----------
    pieces
        Pieces of the table, at least one, with the columns of the first. Only one at a time is in
        memory.
    provenance
        Provenance: ``catalog`` and ``results`` versions, ``key`` and more.

    Returns
    -------
    True if the table was replaced.
    """
    with store.staging() as folder:
        local = folder / "table.parquet"
        first = next(pieces)
        metadata = {b"cohort.origin": json.dumps(dict(provenance), sort_keys=True).encode()}
        schema = first.schema.remove_metadata().with_metadata(metadata)
        with pq.ParquetWriter(
            local, schema, compression="zstd", write_page_checksum=True
        ) as writer:
            writer.write_table(first.cast(schema))
            for piece in pieces:
                writer.write_table(piece.select(schema.names).cast(schema))
        data = local.read_bytes()
    digest = digest_bytes(data)
    sidecar = record_path(name)

    def current_record(raw: bytes | None) -> TableRecord:
        # A table can always be made again, so replace a broken record like a missing one.
        with contextlib.suppress(CorruptStore):
            if raw is not None:
                record = parse_record(raw, sidecar)
                there = store.size(table_path(name)) is not None
                return record if there else TableRecord(pending=record.pending)
        return TableRecord()

    def begin(raw: bytes | None) -> bytes | None:
        record = current_record(raw)
        return (
            None
            if record.is_newer(provenance)
            else record.begin_replace(digest, provenance).as_bytes()
        )

    def place(_: bytes | None) -> bytes | None:
        # Called after reading the table in place, and the put fails if that was replaced since: so
        # a newer table is either seen here, or makes this writer retry.
        record = current_record(store.read(sidecar))
        return None if record.is_newer(provenance) else data

    def finish(raw: bytes | None) -> bytes | None:
        record = current_record(raw)
        return (
            None
            if record.is_newer(provenance)
            else record.finish_replace(digest, provenance).as_bytes()
        )

    placed = store.update(sidecar, begin) and store.update(table_path(name), place)
    if placed:
        store.update(sidecar, finish)
    return placed


def drop_tables(store: Store, names: Iterable[str]) -> None:
    """Remove tables that exist. Deletion is atomic: after a crash a table is intact or absent."""

    def begin_delete(raw: bytes | None) -> bytes | None:
        with contextlib.suppress(CorruptStore):
            return None if raw is None else parse_record(raw, sidecar).begin_delete().as_bytes()
        return None

    for name in sorted({*names} & {*table_names_there(store)}):
        sidecar = record_path(name)
        store.update(sidecar, begin_delete)
        store.delete(table_path(name))
        store.delete(sidecar)


def outdate_tables(store: Store, made_of: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Mark tables as outdated, regardless of their versions, so that the next run makes them again.

    Parameters
    ----------
    made_of
        Predicate of a table's provenance that selects tables.

    Returns
    -------
    Names of the marked tables. They stay readable.
    """
    found = []
    for name in table_names_there(store):

        def change(raw: bytes | None, sidecar: str = record_path(name)) -> bytes | None:
            with contextlib.suppress(CorruptStore):  # a broken record outdates the table anyway
                record = TableRecord() if raw is None else parse_record(raw, sidecar)
                provenances = (record.provenance, *(provenance for _, provenance in record.pending))
                if any(
                    provenance is not None and made_of(provenance) for provenance in provenances
                ):
                    return record.without_provenance().as_bytes()
            return None

        if store.update(record_path(name), change):
            found.append(name)
    return found


def _newer(there: Mapping[str, Any] | None, mine: Mapping[str, Any]) -> bool:
    """Return True if the existing table was made of newer versions of the same key."""
    if not there or there.get("key") != mine.get("key"):
        return False
    return any(there.get(name, -1) > mine.get(name, -1) for name in VERSIONS)


def concat_fragments(store: Store, paths: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the fragments of a table, one at a time."""
    for path in paths:
        yield read_fragment(store, path)


class _Ranged(RangeFile):
    """Object of a store as a seekable file."""

    def __init__(self, store: Store, path: str) -> None:
        size = store.size(path)
        if size is None:
            raise MissingObject(path)
        super().__init__(size)
        self._store, self._path = store, path

    def read_range(self, start: int, stop: int) -> bytes:
        return self._store.read(self._path, start, stop - start)


@contextlib.contextmanager
def open_table(store: Store, name: str) -> Iterator[pq.ParquetFile]:
    """Open a table for reading in parts, after checking all its bytes.

    Raises
    ------
    NoTable, MissingObject, CorruptStore
    """
    path = table_path(name)
    if store.size(path) is None:
        raise NoTable(name, table_names_there(store))
    with _Ranged(store, path) as raw:
        hashed = hashlib.sha256()
        while data := raw.read(CHECK_BYTES):
            hashed.update(data)
        if hashed.hexdigest()[:DIGEST_CHARS] not in read_record(store, name).digests:
            raise CorruptStore(path, "its bytes do not match its digest")
        raw.seek(0)
        with pq.ParquetFile(
            pa.PythonFile(raw, "r"), page_checksum_verification=True, pre_buffer=False
        ) as file:
            yield file
