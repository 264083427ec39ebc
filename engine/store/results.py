"""Results of an operation: a ledger partitioned by key, and a record of each key."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from engine.errors import AlreadyExists, CorruptStore, MissingObject
from engine.store.backend.base import Store
from engine.store.delta.ledger import Ledger
from engine.store.delta.parts import Part
from engine.store.digests import digest_of

DONE, FAILED = "done", "failed"


def result_schema(objects: pa.Schema) -> pa.Schema:
    """Return the columns of an operation's results.

    One row per image (or block of a giant one), inputs and key; ``objects`` is a list of structs.
    """
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("key", pa.string()),
            ("inputs", pa.string()),
            ("block", pa.int32()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("attempts", pa.int32()),
            ("elapsed_s", pa.float64()),
            ("worker", pa.string()),
            ("device", pa.string()),
            ("objects", pa.list_(pa.struct(list(objects)))),
        ]
    )


PLANNED = pa.schema(
    [result_schema(pa.schema([])).field(n) for n in ("image_id", "inputs", "block", "status")]
)
"""Columns of results needed for a plan."""


def results_ledger(store: Store, operation: str, version: int, objects: pa.Schema) -> Ledger:
    """Return the ledger of one operation's version."""
    return Ledger(store, f"results/{operation}/v{version}", result_schema(objects), "key")


def read_there(
    ledger: Ledger, parts: Sequence[Part], columns: Sequence[str]
) -> tuple[pa.Table, list[Part]]:
    """Return the rows of the existing parts, and the missing parts.

    gc may have removed a part before a commit named it (its writer slept, or a clock was ahead).
    The next run computes its results again.
    """
    there: list[pa.Table] = [ledger.read((), columns)]
    gone = []
    for part in parts:
        try:
            there.append(ledger.read((part,), columns))
        except MissingObject:
            gone.append(part)
    return pa.concat_tables(there), gone


def key_path(operation: str, version: int, key: str) -> str:
    """Return the path of a key's record."""
    return f"results/{operation}/v{version}/_keys/{key}.json"


def record_key(store: Store, identity: Mapping[str, Any], key: str) -> None:
    """Record a key's inputs once, so that a later plan can report changes."""
    path = key_path(identity["operation"], identity["version"], key)
    with contextlib.suppress(AlreadyExists):
        store.create(path, json.dumps(dict(identity), indent=2, sort_keys=True).encode())


def read_key(store: Store, operation: str, version: int, key: str) -> dict[str, Any] | None:
    """Return a key's recorded inputs, or None if they were never recorded.

    Raises
    ------
    CorruptStore
        If the key is not the digest of the record.
    """
    path = key_path(operation, version, key)
    try:
        identity = dict(json.loads(store.read(path)))
    except MissingObject:
        return None
    except (ValueError, TypeError):
        raise CorruptStore(path, "is not the JSON that the engine wrote") from None
    if digest_of(identity) != key:
        raise CorruptStore(path, "does not match the key, which is its digest")
    return identity


def find_key(store: Store, operation: str, version: int, prefix: str) -> str | None:
    """Return the recorded key that begins with a prefix, or None if there isn't exactly one."""
    folder = key_path(operation, version, "").removesuffix(".json")
    keys = [entry.path[len(folder) :].removesuffix(".json") for entry in store.list(folder)]
    found = [key for key in keys if key.startswith(prefix)]
    return found[0] if len(found) == 1 else None


def versions_there(store: Store, operation: str) -> list[int]:
    """Return the versions of an operation with results, oldest first."""
    prefix = f"results/{operation}/"
    found = set()
    for entry in store.list(prefix):
        name = entry.path[len(prefix) :].split("/", 1)[0]
        if name.startswith("v") and name[1:].isdigit():
            found.add(int(name[1:]))
    return sorted(found)
