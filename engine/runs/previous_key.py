"""Find an operation's most used other key, to tell "new" from "parameters changed"."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from engine.operations.base import Operation
from engine.store.backend.base import Store
from engine.store.results import read_key, read_there, results_ledger, versions_there


def find_previous_key(
    store: Store, operation: Operation
) -> tuple[Mapping[str, Any], frozenset[str]] | None:
    """Return the identity and images of the key with the most rows, other than the current key.

    Earlier versions of the operation count too. On a tie, the newer version wins.
    """
    rows: Counter[tuple[int, str]] = Counter()
    for version in versions_there(store, operation.name):
        ledger = results_ledger(store, operation.name, version, operation.object_schema)
        for part in ledger.snapshot().parts:
            if part.key is not None and part.key != operation.key:
                rows[version, part.key] += part.rows
    if not rows:
        return None
    version, key = max(rows, key=lambda pair: (rows[pair], pair))
    identity = read_key(store, operation.name, version, key)
    if identity is None:
        return None
    ledger = results_ledger(store, operation.name, version, operation.object_schema)
    parts = ledger.snapshot().of_key(key)
    images = read_there(ledger, parts, ["image_id"])[0]["image_id"].to_pylist()
    return identity, frozenset(images)
