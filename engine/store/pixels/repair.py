"""Stored pixels that are not as catalogued: which they are, and how they are put right.

A shard is put right where it lies, so images, labels and results that point to it stay valid. Its
new bytes are those it had whenever all of its sources are still there, and then the catalog need
not change. Where they differ, one commit names them, and the file follows at once; whoever dies in
between leaves a damaged shard, as it was before, and the next to come puts it right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.errors import MissingObject
from engine.record import Record
from engine.store.catalog.tables import SHARDS, ShardRow, commit_rows, shard_table, shards_ledger
from engine.store.delta.ledger import Snapshot
from engine.store.delta.parts import Part
from engine.store.digests import digest_bytes
from engine.store.pixels.shard_codec import LOST, unpack_chunks
from engine.store.pixels.stacks import StackWriter
from engine.store.root.base import Root

Place = tuple[int, int | None]
"""Where a plane is in its stack: t, and z in a series."""


@dataclass(frozen=True, slots=True)
class Mend(Record):
    """A shard to put right.

    Attributes
    ----------
    old, new
        The catalog's row as it is, and as it will be: None where no image needs the shard, and the
        catalog forgets it.
    aside
        Where the new bytes are.
    seen
        Digest of what the file was when the new bytes were made; None where it was not there.
    """

    old: ShardRow
    new: ShardRow | None
    aside: str = ""
    seen: str | None = None


def lost_places(root: Root, row: ShardRow) -> frozenset[Place] | None:
    """Return where a file below ``pixels/`` lacks planes, as a former mending left it.

    Returns
    -------
    None where the file is not as catalogued; nothing where it is whole.
    """
    size = root.size(row.path) or 0
    if size != row.size:
        return None
    data = root.read(row.path) if size else b""  # one that is all blank has no file
    if data and digest_bytes(data) != row.digest:
        return None
    if row.level or row.shard < 0 or LOST not in data:
        return frozenset()
    writer = StackWriter(root, row.stack)
    first = np.unravel_index(row.shard, writer.grid) * np.array(writer.shard)
    found = set()
    for chunk, piece in enumerate(unpack_chunks(data, writer.chunks)):
        if piece == LOST:
            t, _, *z, _, _ = (first + np.array(np.unravel_index(chunk, writer.inner))).tolist()
            found.add((t, z[0] if z else None))
    return frozenset(found)


def chunk_of(writer: StackWriter, t: int, z: int | None) -> int:
    """Return which chunk of its shard, in C order, holds a plane of a stack or series."""
    place = [t % writer.shard[0], 0, *([] if z is None else [z % writer.shard[2]]), 0, 0]
    return int(np.ravel_multi_index(place, writer.inner))


def publish_mends(root: Root, mends: Sequence[Mend]) -> list[Mend]:
    """Put shards right, each if it is still what it was; return those that are.

    Another ingest that put one right first is not undone: what it made stays.

    Raises
    ------
    Conflict, StoreFull, StoreReadOnly
    """
    # What gc removed meanwhile (it can't know that we live) is left to the next ingest.
    there = [m for m in mends if m.new is None or root.size(m.aside) is not None]
    changes = {(m.old.path, m.old.digest): m.new for m in there
               if m.new is None or m.new.digest != m.old.digest}  # fmt: skip
    named = _rename(root, changes)
    done, undone = [], {}
    for mend in there:
        new = mend.new
        place = mend.old.path, mend.old.digest
        if place in changes and place not in named:
            continue
        if new is not None and not _put(root, mend, new):
            if new.digest != mend.old.digest:  # the other one's bytes are the catalogued ones
                undone[new.path, new.digest] = mend.old
            continue
        done.append(mend)
    if undone:
        _rename(root, undone)
    for mend in mends:
        if mend.aside:
            root.delete(mend.aside)
    return done


def _put(root: Root, mend: Mend, new: ShardRow) -> bool:
    """Write the bytes of a shard, unless another ingest did meanwhile; tell whether they are it."""
    try:
        data = root.read(mend.aside)
    except MissingObject:
        return False
    there = True

    def swap(now: bytes | None) -> bytes | None:
        nonlocal there
        found = None if now is None else digest_bytes(now)
        there = found in (mend.seen, new.digest)
        return data if there and found != new.digest else None

    root.update(new.path, swap)
    return there


def _rename(root: Root, changes: Mapping[tuple[str, str], ShardRow | None]) -> set[tuple[str, str]]:
    """Replace rows of the catalog by (path, digest) in one commit; return which there were."""
    found: set[tuple[str, str]] = set()
    if not changes:
        return found
    ledger = shards_ledger(root)

    def prepare(snapshot: Snapshot) -> tuple[Sequence[Part], Sequence[Part]]:
        found.clear()
        added: list[Part] = []
        removed: list[Part] = []
        for part in snapshot.parts:
            table = ledger.read_part(part).select(SHARDS.names)
            names = zip(table["path"].to_pylist(), table["digest"].to_pylist(), strict=True)
            places = list(names)
            here = changes.keys() & places
            if here:
                found.update(here)
                removed.append(part)
                kept = table.filter(pa.array([p not in here for p in places], pa.bool_()))
                rows = [ShardRow(**row) for row in kept.to_pylist()]
                rows += [new for place in sorted(here) if (new := changes[place]) is not None]
                if rows:
                    added.append(ledger.write_part(shard_table(rows)))
        return added, removed

    commit_rows(ledger, ledger.snapshot(), prepare)
    return found
