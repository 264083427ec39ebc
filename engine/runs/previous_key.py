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
    return expand_recorded(store, identity), frozenset(images)


def expand_recorded(store: Store, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded identity with those of the operations that it reads, as recorded."""
    if "upstream" not in identity:
        return dict(identity)
    found = {}
    for parameter, of in identity["upstream"].items():
        recorded = read_key(store, of["operation"], of["version"], of["key"])
        if recorded is not None:
            found[parameter] = expand_recorded(store, recorded)
    return {**identity, "upstream": found}


def expand_identity(operation: Operation) -> dict[str, Any]:
    """Return an operation's identity with those of the operations that it reads."""
    if not operation.upstream:
        return operation.identity
    reads = {parameter: expand_identity(one) for parameter, one in operation.upstream.items()}
    return {**operation.identity, "upstream": reads}
