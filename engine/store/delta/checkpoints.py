"""Checkpoints of a ledger's log: written by deltalake in a staging folder, published when durable.

A checkpoint sums up all entries before it in one file, so that a reader opens at most
`CHECKPOINT_EVERY` entries. All entries are kept, so any checkpoint can be rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping

from deltalake import DeltaTable

from engine.errors import MissingObject
from engine.store.backend.base import Store
from engine.store.delta.integrity import checkpoint_name, log_path
from engine.store.digests import digest_bytes

CHECKPOINT_EVERY = 100
"""Commits between two checkpoints, the default of deltalake."""

LAST = "_last_checkpoint"
"""File that names the newest checkpoint."""


def checkpoint_due(version: int) -> bool:
    """Return True if a checkpoint is written after this version."""
    return (version + 1) % CHECKPOINT_EVERY == 0


def write_checkpoint(store: Store, ledger: str, version: int, noted: Mapping[str, str]) -> None:
    """Write the checkpoint of a version; make it durable before the pointer file names it.

    Parameters
    ----------
    ledger
        Path of the ledger.
    noted
        Digests of earlier checkpoints by name; the newest intact one is the starting point.

    Raises
    ------
    MissingObject
        If an entry is missing.
    StoreFull, StoreReadOnly
    """
    folder = f"{ledger}/_delta_log"
    with store.staging() as temporary:
        log = temporary / "ledger" / "_delta_log"
        log.mkdir(parents=True)
        first = 0
        for before in range(version - 1, -1, -1):
            name = checkpoint_name(before)
            if name in noted and (data := _whole(store, f"{folder}/{name}", noted[name])):
                (log / name).write_bytes(data)
                first = before + 1
                break
        for number in range(first, version + 1):
            path = log_path(ledger, number)
            (log / path.rsplit("/", 1)[-1]).write_bytes(store.read(path))
        DeltaTable(str(log.parent)).create_checkpoint()
        made = (log / checkpoint_name(version)).read_bytes()
        last = (log / LAST).read_bytes()
    store.replace(f"{folder}/{checkpoint_name(version)}", made)
    store.replace(f"{folder}/{LAST}", last)


def _whole(store: Store, path: str, digest: str) -> bytes | None:
    try:
        data = store.read(path)
    except MissingObject:
        return None
    return data if digest_bytes(data) == digest else None
