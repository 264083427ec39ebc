"""Check of a ledger's schema against the columns to write."""

from __future__ import annotations

import pyarrow as pa
from deltalake import Schema

from engine.errors import ColumnsChanged, CorruptStore, MissingObject
from engine.store.delta.integrity import PREVIOUS_DIGEST, actions, commit_info, log_path
from engine.store.delta.ledger import Ledger
from engine.store.digests import digest_bytes


def check_schema(ledger: Ledger) -> None:
    """Check that an existing ledger has the columns of its current schema.

    The stored schema is that of the log's first entry, which the engine writes once. Before
    reporting changed columns, check that entry against the digest in the next one: a flipped bit
    may look the same.

    Raises
    ------
    ColumnsChanged, CorruptStore
    """
    path = log_path(ledger.path, 0)
    try:
        entry = ledger.store.read(path)
    except MissingObject:  # missing or corrupt: the next reader reports it
        return
    there = _schema_of(entry, path)
    if there == Schema.from_arrow(ledger.schema):
        return
    following = log_path(ledger.path, 1)
    if ledger.store.size(following) is not None:
        noted = commit_info(ledger.store.read(following), following).get(PREVIOUS_DIGEST)
        if noted != digest_bytes(entry):
            raise CorruptStore(path, "its bytes do not match the digest in the entry after it")
    raise ColumnsChanged(ledger.path, _described(there), _described(ledger.schema))


def _schema_of(entry: bytes, path: str) -> Schema:
    try:
        (metadata,) = (action["metaData"] for action in actions(entry) if "metaData" in action)
        return Schema.from_json(metadata["schemaString"])
    except (ValueError, TypeError, KeyError):
        raise CorruptStore(path, "is not a log entry as it was written") from None


def _described(schema: pa.Schema | Schema) -> str:
    """Format columns for people; of results, the columns of the objects."""
    columns = pa.schema(schema)
    if "objects" in columns.names:
        columns = pa.schema(list(columns.field("objects").type.value_type))
    return ", ".join(f"{field.name} ({field.type})" for field in columns)
