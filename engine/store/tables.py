"""Tables for people: one Parquet file each, replaced whole, never by an older one."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import CorruptStore, MissingObject, NoTable
from engine.store.digests import DIGEST_CHARS, digest_bytes, digest_of
from engine.store.parquet import read_parquet, write_parquet
from engine.store.root.base import Root

FOLDER = "tables"
FRAGMENTS = f"{FOLDER}/.fragments"

VERSIONS = ("catalog", "results", "annotations")
"""Entries of a table's origin that only ever grow."""

PARQUET_END = b"PAR1"

CHECK_BYTES = 8 * 1024**2
"""Bytes that are read at once where a table is checked and not kept."""

MOST_COMING = 8
"""Announced tables that a note keeps; writers of one table at one moment are one or two."""


def table_path(name: str) -> str:
    """Return the path of a table, relative to the cohort."""
    return f"{FOLDER}/{name}.parquet"


def note_path(name: str) -> str:
    """Return the path of what is noted beside a table."""
    return f"{FOLDER}/.origin/{name}.json"


@dataclass(frozen=True, slots=True)
class Note:
    """What is noted beside a table: digests of its bytes, and what it was made of.

    ``coming`` are the digests and origins that writers announced who have not said yet that theirs
    is in place; they may be, so ``digests`` are those that are valid beside the settled one.
    """

    settled: tuple[str, ...] = ()
    origin: dict[str, Any] | None = None
    coming: tuple[tuple[str, dict[str, Any]], ...] = ()

    @property
    def digests(self) -> tuple[str, ...]:
        """All digests that the table may have."""
        return (*(digest for digest, _ in self.coming), *self.settled)

    def is_newer(self, origin: Mapping[str, Any]) -> bool:
        """Tell whether somebody made, or is about to place, a table of newer versions."""
        return any(_newer(o, origin) for o in (self.origin, *(o for _, o in self.coming)))

    def announce(self, digest: str, origin: Mapping[str, Any]) -> Note:
        """Return the note that also allows a table that is about to be placed."""
        others = tuple(one for one in self.coming if one[0] != digest)
        return Note(self.settled, self.origin, ((digest, dict(origin)), *others))

    def settle(self, digest: str, origin: Mapping[str, Any]) -> Note:
        """Return the note of a table that was placed.

        Older ones that were announced before see it, and give way; others may come still.
        """
        coming = ((d, o) for d, o in self.coming if d != digest and not _newer(origin, o))
        return Note((digest,), dict(origin), tuple(coming)[:MOST_COMING])

    def withdraw(self) -> Note:
        """Return the note of a table that is about to be removed, and may be there or not."""
        settled = ((digest, dict(self.origin or {})) for digest in self.settled)
        return Note(coming=(*self.coming, *settled))

    def without_origin(self) -> Note:
        """Return the note of a table that stays readable, and that the next run makes again."""
        return Note(self.digests)

    def as_bytes(self) -> bytes:
        """Return the note's file, the same bytes for the same note."""
        coming = [[digest, origin] for digest, origin in self.coming]
        values = {"digests": list(self.settled), "origin": self.origin, "coming": coming}
        return json.dumps({**values, "check": digest_of(values)}).encode()


def parse_note(raw: bytes, path: str) -> Note:
    """Check and return a note.

    Raises
    ------
    CorruptStore
        If it has not the bytes that the engine wrote.
    """
    try:
        values = json.loads(raw)
        origin = values["origin"]
        coming = tuple((str(digest), dict(made_of)) for digest, made_of in values["coming"])
        note = Note(tuple(values["digests"]), None if origin is None else dict(origin), coming)
        intact = note.as_bytes() == raw
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise CorruptStore(path, "is not the JSON that the engine wrote")
    return note


def read_note(root: Root, name: str) -> Note:
    """Return what is noted beside a table.

    Raises
    ------
    MissingObject, CorruptStore
    """
    path = note_path(name)
    return parse_note(root.read(path), path)


def read_origin(root: Root, name: str) -> dict[str, Any] | None:
    """Return what a table was made of, or None where it is not there, or not to its end.

    A copy that was cut short, or the zeros of a file whose disk lost power, are told by the last
    bytes alone; all others are checked by who reads the table.
    """
    path = table_path(name)
    size = root.size(path)
    if size is None or size < len(PARQUET_END):
        return None
    try:
        ends = root.read(path, size - len(PARQUET_END), len(PARQUET_END)) == PARQUET_END
        return read_note(root, name).origin if ends else None
    except (MissingObject, CorruptStore):
        return None


def table_names_there(root: Root) -> list[str]:
    """Return the names of the tables that a cohort has."""
    names = (entry.path.removeprefix(f"{FOLDER}/") for entry in root.list(f"{FOLDER}/"))
    return sorted(
        n.removesuffix(".parquet") for n in names if n.endswith(".parquet") and "/" not in n
    )


def read_table(root: Root, name: str) -> pa.Table:
    """Read a table, its bytes checked against the digest that was noted when it was made.

    Raises
    ------
    NoTable
        If it was never made.
    MissingObject, CorruptStore
        If it was made, and is gone or differs.
    """
    there = root.size(table_path(name)) is not None
    try:
        note = read_note(root, name)
    except MissingObject:
        if not there:
            raise NoTable(name, table_names_there(root)) from None
        raise CorruptStore(table_path(name), "has no note of its digest") from None
    if not there and note.origin is None:  # its first writer was killed before it was there
        raise NoTable(name, table_names_there(root))
    data = root.read(table_path(name))
    if digest_bytes(data) not in note.digests:
        # It may just have been replaced: the note is then newer than the one in hand.
        note, data = read_note(root, name), root.read(table_path(name))
    if digest_bytes(data) not in note.digests:
        raise CorruptStore(table_path(name), "its bytes do not match its digest")
    return read_parquet(data)


def write_fragment(root: Root, token: str, name: str, rows: pa.Table) -> str:
    """Write a piece of a table where workers find it, and return its path."""
    path = f"{FRAGMENTS}/{token}/{name}.parquet"
    root.replace(path, write_parquet(rows))
    return path


def read_fragment(root: Root, path: str) -> pa.Table:
    """Read a piece of a table."""
    return read_parquet(root.read(path))


def drop_fragments(root: Root, token: str) -> None:
    """Remove the pieces of one reduction."""
    for entry in list(root.list(f"{FRAGMENTS}/{token}/")):
        root.delete(entry.path)


def write_table(
    root: Root, name: str, pieces: Iterator[pa.Table], origin: Mapping[str, Any]
) -> bool:
    """Replace a table by one made of pieces, unless one of newer versions is there.

    Parameters
    ----------
    pieces
        At least one; all of the columns of the first. One is in memory at a time.
    origin
        What it was made of: ``catalog`` and ``results`` versions, ``key`` and more.

    Returns
    -------
    Whether it was replaced.
    """
    with root.staging() as folder:
        local = folder / "table.parquet"
        first = next(pieces)
        metadata = {b"cohort.origin": json.dumps(dict(origin), sort_keys=True).encode()}
        schema = first.schema.remove_metadata().with_metadata(metadata)
        with pq.ParquetWriter(
            local, schema, compression="zstd", write_page_checksum=True
        ) as writer:
            writer.write_table(first.cast(schema))
            for piece in pieces:
                writer.write_table(piece.select(schema.names).cast(schema))
        data = local.read_bytes()
    digest = digest_bytes(data)
    sidecar = note_path(name)

    def noted(raw: bytes | None) -> Note:
        # A table can always be made again, so a broken note is replaced like none.
        with contextlib.suppress(CorruptStore):
            if raw is not None:
                note = parse_note(raw, sidecar)
                there = root.size(table_path(name)) is not None
                return note if there else Note(coming=note.coming)
        return Note()

    def announce(raw: bytes | None) -> bytes | None:
        note = noted(raw)
        return None if note.is_newer(origin) else note.announce(digest, origin).as_bytes()

    def place(_: bytes | None) -> bytes | None:
        # Called after the table in place was read, and its put fails if that was replaced since:
        # so whoever places a newer one is seen here, or makes this one ask again.
        note = noted(root.read(sidecar))
        return None if note.is_newer(origin) else data

    def settle(raw: bytes | None) -> bytes | None:
        note = noted(raw)
        return None if note.is_newer(origin) else note.settle(digest, origin).as_bytes()

    placed = root.update(sidecar, announce) and root.update(table_path(name), place)
    if placed:
        root.update(sidecar, settle)
    return placed


def drop_tables(root: Root, names: Iterable[str]) -> None:
    """Remove tables, where they are; one whose removal was killed half way is whole or gone."""

    def withdraw(raw: bytes | None) -> bytes | None:
        with contextlib.suppress(CorruptStore):
            return None if raw is None else parse_note(raw, sidecar).withdraw().as_bytes()
        return None

    for name in sorted({*names} & {*table_names_there(root)}):
        sidecar = note_path(name)
        root.update(sidecar, withdraw)
        root.delete(table_path(name))
        root.delete(sidecar)


def outdate_tables(root: Root, made_of: Callable[[Mapping[str, Any]], bool]) -> list[str]:
    """Have the next run make tables again, whatever versions they say they are of.

    Parameters
    ----------
    made_of
        Tells by a table's origin whether it is one of these.

    Returns
    -------
    Their names. They can be read until then.
    """
    found = []
    for name in table_names_there(root):

        def change(raw: bytes | None, sidecar: str = note_path(name)) -> bytes | None:
            with contextlib.suppress(CorruptStore):  # a broken note makes the table anew anyway
                note = Note() if raw is None else parse_note(raw, sidecar)
                origins = (note.origin, *(origin for _, origin in note.coming))
                if any(origin is not None and made_of(origin) for origin in origins):
                    return note.without_origin().as_bytes()
            return None

        if root.update(note_path(name), change):
            found.append(name)
    return found


def _newer(there: Mapping[str, Any] | None, mine: Mapping[str, Any]) -> bool:
    """Tell whether the table that is there was made of newer versions of the same key."""
    if not there or there.get("key") != mine.get("key"):
        return False
    return any(there.get(name, -1) > mine.get(name, -1) for name in VERSIONS)


def concat_fragments(root: Root, paths: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the pieces of a table, one at a time."""
    for path in paths:
        yield read_fragment(root, path)


class _Ranged(io.RawIOBase):
    """An object of a store as a file that can be read from anywhere."""

    def __init__(self, root: Root, path: str) -> None:
        super().__init__()
        self._root, self._path, self._at = root, path, 0
        size = root.size(path)
        if size is None:
            raise MissingObject(path)
        self._size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        data = self._root.read(self._path, self._at, left if size < 0 else min(size, left))
        self._at += len(data)
        return data


@contextlib.contextmanager
def open_table(root: Root, name: str) -> Iterator[pq.ParquetFile]:
    """Open a table to be read a part at a time, once all of its bytes were checked.

    Raises
    ------
    NoTable, MissingObject, CorruptStore
    """
    path = table_path(name)
    if root.size(path) is None:
        raise NoTable(name, table_names_there(root))
    with _Ranged(root, path) as raw:
        hashed = hashlib.sha256()
        while data := raw.read(CHECK_BYTES):
            hashed.update(data)
        if hashed.hexdigest()[:DIGEST_CHARS] not in read_note(root, name).digests:
            raise CorruptStore(path, "its bytes do not match its digest")
        raw.seek(0)
        with pq.ParquetFile(
            pa.PythonFile(raw, "r"), page_checksum_verification=True, pre_buffer=False
        ) as file:
            yield file
