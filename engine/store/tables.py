"""Tables for people: one Parquet file each, replaced whole, never by an older one."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.errors import CorruptStore, MissingObject, NoTable
from engine.store.digests import digest_bytes
from engine.store.root import Root

FOLDER = "tables"
FRAGMENTS = f"{FOLDER}/.fragments"

VERSIONS = ("catalog", "results")
"""Entries of a table's origin that only ever grow."""


def table_path(name: str) -> str:
    """Return the path of a table, relative to the cohort."""
    return f"{FOLDER}/{name}.parquet"


def _sidecar_path(name: str) -> str:
    return f"{FOLDER}/.origin/{name}.json"


def read_origin(root: Root, name: str) -> dict[str, Any] | None:
    """Return what a table was made of, or None where it is not there."""
    if root.size(table_path(name)) is None:
        return None
    try:
        return dict(json.loads(root.read(_sidecar_path(name)))["origin"])
    except (MissingObject, ValueError, KeyError, TypeError):
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
    NoTable, CorruptStore
    """
    try:
        data = root.read(table_path(name))
        noted = json.loads(root.read(_sidecar_path(name)))["digests"]
    except MissingObject:
        if root.size(table_path(name)) is None:
            raise NoTable(name, table_names_there(root)) from None
        raise CorruptStore(table_path(name), "has no note of its digest") from None
    except (ValueError, KeyError, TypeError):
        raise CorruptStore(_sidecar_path(name), "is not the JSON that the engine wrote") from None
    if digest_bytes(data) not in noted:
        raise CorruptStore(table_path(name), "its bytes do not match its digest")
    return pq.read_table(pa.BufferReader(data))


def write_fragment(root: Root, token: str, name: str, rows: pa.Table) -> str:
    """Write a piece of a table where workers find it, and return its path."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd", write_page_checksum=True)
    path = f"{FRAGMENTS}/{token}/{name}.parquet"
    root.replace(path, buffer.getvalue())
    return path


def read_fragment(root: Root, path: str) -> pa.Table:
    """Read a piece of a table."""
    return pq.read_table(pa.BufferReader(root.read(path)), page_checksum_verification=True)


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
        digest = digest_bytes(local.read_bytes())
        sidecar = _sidecar_path(name)

        def change(raw: bytes | None) -> bytes | None:
            old: dict[str, Any] = {}
            if raw is not None and root.size(table_path(name)) is not None:
                old = json.loads(raw)
            if _newer(old.get("origin", {}), origin):
                return None
            # Both digests are valid until the table is replaced, should we be killed in between.
            both = [digest, *old.get("digests", [])[:1]]
            root.replace(
                sidecar, json.dumps({"digests": both, "origin": old.get("origin")}).encode()
            )
            root.replace_from(table_path(name), local)
            return json.dumps({"digests": [digest], "origin": dict(origin)}).encode()

        return root.update(sidecar, change)


def _newer(there: Mapping[str, Any] | None, mine: Mapping[str, Any]) -> bool:
    """Tell whether the table that is there was made of newer versions of the same key."""
    if not there or there.get("key") != mine.get("key"):
        return False
    return any(there.get(name, -1) > mine.get(name, -1) for name in VERSIONS)


def concat_fragments(root: Root, paths: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the pieces of a table, one at a time."""
    for path in paths:
        yield read_fragment(root, path)
