"""Detection and repair of stored pixels that differ from the catalog.

A shard is repaired in place, so images, labels and results that refer to it stay valid. If all its
sources still exist, its new bytes equal the old ones, and the catalog need not change. If they
differ, one commit names them, and the file follows at once; a process that dies in between leaves a
damaged shard, as before, and the next ingest repairs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.errors import MissingObject
from engine.record import Record
from engine.store.backend.base import Store
from engine.store.catalog.tables import (
    ShardRow,
    commit_with_retry,
    shard_table,
    shards_ledger,
)
from engine.store.delta.ledger import Snapshot
from engine.store.delta.parts import Part
from engine.store.digests import digest_bytes
from engine.store.pixels.read_planes import PlaneIndex
from engine.store.pixels.shard_codec import LOST_CHUNK, unpack_chunks
from engine.store.pixels.stacks import StackWriter
from engine.store.rows import rows_of


@dataclass(frozen=True, slots=True)
class ShardRepair(Record):
    """Repair of one shard."""

    old: ShardRow
    """Catalog row before the repair."""
    new: ShardRow | None
    """Catalog row after it; None if no image needs the shard, and the catalog drops it."""
    staged_path: str = ""
    """Path of the new bytes."""
    seen: str | None = None
    """Digest of the file when the new bytes were made; None if it did not exist."""


def missing_planes(store: Store, row: ShardRow) -> frozenset[PlaneIndex] | None:
    """Return the positions of planes that an earlier repair marked as lost in a file.

    Returns
    -------
    None if the file differs from the catalog; an empty set if it is complete.
    """
    size = store.size(row.path) or 0
    if size != row.size:
        return None
    data = store.read(row.path) if size else b""  # an all-blank shard has no file
    if data and digest_bytes(data) != row.digest:
        return None
    if row.level or row.shard < 0 or LOST_CHUNK not in data:
        return frozenset()
    writer = StackWriter(store, row.stack)
    first = np.unravel_index(row.shard, writer.grid) * np.array(writer.shard)
    found = set()
    for chunk, piece in enumerate(unpack_chunks(data, writer.chunks)):
        if piece == LOST_CHUNK:
            t, _, *z, _, _ = (first + np.array(np.unravel_index(chunk, writer.inner))).tolist()
            found.add((t, z[0] if z else None))
    return frozenset(found)


def chunk_of(writer: StackWriter, t: int, z: int | None) -> int:
    """Return the C-order index, within its shard, of the chunk of a plane of a stack or series."""
    place = [t % writer.shard[0], 0, *([] if z is None else [z % writer.shard[2]]), 0, 0]
    return int(np.ravel_multi_index(place, writer.inner))


def publish_repairs(store: Store, repairs: Sequence[ShardRepair]) -> list[ShardRepair]:
    """Replace damaged shards, unless they changed since; return the repairs in effect.

    A repair published by another ingest first is kept.

    Raises
    ------
    Conflict, StoreFull, StoreReadOnly
    """
    # gc may have removed these files (it can't know that this ingest is alive): leave their repair
    # to the next ingest.
    there = [m for m in repairs if m.new is None or store.size(m.staged_path) is not None]
    changes = {(m.old.path, m.old.digest): m.new for m in there
               if m.new is None or m.new.digest != m.old.digest}  # fmt: skip
    named = _rename(store, changes)
    done, undone = [], {}
    for repair in there:
        new = repair.new
        place = repair.old.path, repair.old.digest
        if place in changes and place not in named:
            continue
        if new is not None and not _put(store, repair, new):
            if new.digest != repair.old.digest:  # the other ingest's bytes are the catalogued ones
                undone[new.path, new.digest] = repair.old
            continue
        done.append(repair)
    if undone:
        _rename(store, undone)
    for repair in repairs:
        if repair.staged_path:
            store.delete(repair.staged_path)
    return done


def _put(store: Store, repair: ShardRepair, new: ShardRow) -> bool:
    """Write the bytes of a shard unless another ingest changed it; return True if it has them."""
    try:
        data = store.read(repair.staged_path)
    except MissingObject:
        return False
    there = True

    def swap(now: bytes | None) -> bytes | None:
        nonlocal there
        found = None if now is None else digest_bytes(now)
        there = found in (repair.seen, new.digest)
        return data if there and found != new.digest else None

    store.update(new.path, swap)
    return there


def _rename(
    store: Store, changes: Mapping[tuple[str, str], ShardRow | None]
) -> set[tuple[str, str]]:
    """Replace catalog rows by (path, digest) in one commit; return the keys that were found."""
    found: set[tuple[str, str]] = set()
    if not changes:
        return found
    ledger = shards_ledger(store)

    def prepare(snapshot: Snapshot) -> tuple[Sequence[Part], Sequence[Part]]:
        found.clear()
        added: list[Part] = []
        removed: list[Part] = []
        for part in snapshot.parts:
            table = ledger.read_part(part)
            names = zip(table["path"].to_pylist(), table["digest"].to_pylist(), strict=True)
            places = list(names)
            here = changes.keys() & places
            if here:
                found.update(here)
                removed.append(part)
                kept = table.filter(pa.array([p not in here for p in places], pa.bool_()))
                rows = rows_of(kept, ShardRow)
                rows += [new for place in sorted(here) if (new := changes[place]) is not None]
                if rows:
                    added.append(ledger.write_part(shard_table(rows)))
        return added, removed

    commit_with_retry(ledger, ledger.snapshot(), prepare)
    return found
