"""Publication of label shards by workers' staged parts, atomic and safe for concurrent drivers.

A shard of labels changes when images of it are computed later, again or for the first time. New
chunks are merged with the existing ones and published by compare-and-swap on the bytes, so two
drivers never lose each other's images. The catalog comes first: a commit names the shard's old and
new state, then the shard is replaced, and the next commit drops the old state. So at any moment,
even if a driver dies, each shard is in a state that the catalog names.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import AlreadyExists, Conflict, CorruptStore, EngineError, MissingObject
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
from engine.store.labels.images import (
    LABELS,
    LabelImage,
    create_label_image,
    index_path,
    is_index_short,
    note_index,
)
from engine.store.pixels.shard_codec import count_chunks, merge_shards
from engine.store.pixels.stacks import label_stack, stack_path
from engine.store.rows import rows_of

THREADS = 8
"""Concurrent reads and writes of shards: small files, limited by the store's latency."""

TRIES = 50
"""Attempts per shard if other drivers win."""

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class StagedLabelShard:
    """Staged part of one shard of labels from a worker, durable and not yet visible."""

    row: ShardRow
    """Catalog row of the shard; digest and size are those of the part."""
    staged_path: str
    """Path of the staged part."""
    in_shard: int
    """Chunks per shard."""
    chunks: tuple[int, ...] | None = None
    """Chunks that the part replaces, including blank ones; None means all."""


@dataclass(frozen=True, slots=True)
class _Change:
    parts: tuple[StagedLabelShard, ...]
    old: ShardRow | None  # current state of the file
    new: ShardRow
    data: bytes
    damaged: bool = False  # its current state is never catalogued: it was never published


class LabelPublisher:
    """Publisher of label images, on the driver.

    Parameters
    ----------
    store
        Storage of the cohort.
    damaged
        Paths of shards to discard, because all their images are computed again.
    """

    def __init__(self, store: Store, damaged: Iterable[str] = ()) -> None:
        self._store = store
        self._damaged = set(damaged)
        self._ledger = shards_ledger(store)
        self._snapshot = self._ledger.snapshot()
        self._parts: dict[str, list[ShardRow]] = {}  # rows of label images, by the part's path
        self._place: dict[tuple[str, str], str] = {}  # (path, digest) to the part's path
        self._known: dict[str, dict[str, ShardRow]] = {}  # by path and digest
        # superseded states of shards, to drop from the catalog
        self._superseded: set[tuple[str, str]] = set()
        self._names: dict[str, set[str]] = {}
        self._refreshing = threading.Lock()
        self._update_from(self._snapshot)

    def open(self, wanted: Iterable[tuple[str, LabelImage]], files: Mapping[str, ShardRow]) -> None:
        """Create the label images of some stacks if they do not exist.

        Parameters
        ----------
        wanted
            Stacks, each with a label image.
        files
            Catalog rows by path, of the stacks' metadata.

        Raises
        ------
        MissingObject, CorruptStore, Conflict, StoreFull, StoreReadOnly
        """
        pairs = sorted(set(wanted), key=lambda pair: (pair[0], pair[1].name))
        due = [(stack, i) for stack, i in pairs if i.name not in self._names.get(stack, ())]
        made = self._each(lambda pair: create_label_image(self._store, *pair, files), due)
        rows = [row for rows in made for row in rows]
        self._commit(rows)
        if any(self._store.size(row.path) is None for row in rows):  # gc ran before the commit
            self._each(lambda pair: create_label_image(self._store, *pair, files), due)
        old = [pair for pair in pairs if pair not in due]
        self._each(lambda pair: self._check_metadata(pair, files), old)
        self._note_indexes({stack for stack, _ in pairs}, {stack for stack, _ in due})

    def restore(
        self, undescribed: Iterable[tuple[str, LabelImage]], files: Mapping[str, ShardRow]
    ) -> None:
        """Make missing metadata and indexes again; `cohort verify` names all other damage.

        Parameters
        ----------
        undescribed
            Stacks, each with a label image.
        files
            Catalog rows by path, of the stacks' metadata.
        """

        def mend(pair: tuple[str, LabelImage]) -> None:
            with contextlib.suppress(MissingObject, CorruptStore, Conflict):
                self._check_metadata(pair, files)

        pairs = set(undescribed)
        self._each(mend, pairs)
        self._note_indexes({stack for stack, _ in pairs})

    def _note_indexes(self, stacks: Iterable[str], new: Collection[str] = ()) -> None:
        for stack in sorted(stacks):
            names = self._names[stack]
            if stack in new or is_index_short(self._store.size(index_path(stack)), names):
                note_index(self._store, stack, names)

    def unpublish(self, labels: Iterable[str]) -> None:
        """Drop the shards of some label images, by catalog name, from the catalog and delete them.

        Use this before labels are recomputed, so that none are visible until all of them are done.
        """
        wanted = set(labels)
        rows = [row for known in self._known.values() for row in known.values()]
        gone = [row for row in rows if row.stack in wanted and row.shard >= 0]
        if gone:
            self._superseded |= {(row.path, row.digest) for row in gone}
            self._commit([])
            self._each(self._store.delete, sorted({row.path for row in gone}))

    def publish(self, parts: Sequence[StagedLabelShard]) -> None:
        """Publish parts, each shard atomically, and catalog the shards.

        Raises
        ------
        MissingObject, CorruptStore
            If a shard to merge into differs from the catalog.
        Conflict, StoreFull, StoreReadOnly
        """
        waiting: dict[str, list[StagedLabelShard]] = {}
        for part in parts:
            waiting.setdefault(part.row.path, []).append(part)
        for _ in range(TRIES):
            if not waiting:
                break
            changes = self._each(self._change, waiting.items())
            self._each(self._create, [c for c in changes if c.old is None])
            changes = self._each(self._now, changes)
            before = [c.old for c in changes if c.old is not None and not c.damaged]
            self._commit([*before, *(c.new for c in changes)])
            there = self._each(self._replace, changes)
            waiting = {
                c.new.path: list(c.parts)
                for c, done in zip(changes, there, strict=True)
                if not done
            }
        if waiting:
            raise Conflict(next(iter(waiting)))
        with contextlib.suppress(EngineError):  # gc removes any remaining ones
            self._each(self._store.delete, [part.staged_path for part in parts])

    def finish(self) -> None:
        """Drop the superseded states of replaced shards from the catalog."""
        self._commit([])

    def _check_metadata(self, pair: tuple[str, LabelImage], files: Mapping[str, ShardRow]) -> None:
        """Compare metadata with the catalog; create those that are missing."""
        group = stack_path(label_stack(pair[0], pair[1].name))
        levels = (f"{group}/{level}/zarr.json" for level in itertools.count())
        paths = [f"{group}/zarr.json", *itertools.takewhile(self._known.__contains__, levels)]
        if any(self._store.size(path) is None for path in paths):
            create_label_image(self._store, *pair, files)
        for path in paths:
            if digest_bytes(self._store.read(path)) not in self._known[path]:
                raise CorruptStore(path, "its bytes do not match the catalog's digest")

    # one shard

    def _change(self, item: tuple[str, list[StagedLabelShard]]) -> _Change:
        """Merge new parts with the existing shard."""
        path, parts = item
        known = self._known.get(path, {})
        try:
            there = self._store.read(path)
        except MissingObject:
            there = None
            if known and path not in self._damaged:
                raise
        kept, damaged = there, False
        if there is not None and known and digest_bytes(there) not in known:
            self._refresh()  # another driver catalogued it before it published it
            known = self._known.get(path, {})
        if there is not None and known and digest_bytes(there) not in known:
            if path not in self._damaged:
                raise CorruptStore(path, "its bytes do not match the catalog's digest")
            kept, damaged = None, True
        first = parts[0]
        data = kept
        for part in parts:
            new = self._store.read(part.staged_path)
            if digest_bytes(new) != part.row.digest:
                raise CorruptStore(part.staged_path, "its bytes do not match its digest")
            try:
                data = merge_shards(data, new, part.in_shard, part.chunks)
            except ValueError:
                raise CorruptStore(path, "is not a shard that the engine wrote") from None
        old = None if there is None else _described(first, there)
        return _Change(tuple(parts), old, _described(first, data or b""), data or b"", damaged)

    def _create(self, change: _Change) -> None:
        try:
            self._store.create(change.new.path, change.data)
        except AlreadyExists:  # by another driver: `_now` reads its bytes
            return

    def _now(self, change: _Change) -> _Change:
        """Return a shard's change again, as seen after its creation."""
        if change.old is not None:
            return change
        there = self._store.read(change.new.path)
        if there == change.data:
            return change
        return self._change((change.new.path, list(change.parts)))

    def _replace(self, change: _Change) -> bool:
        """Replace a shard by compare-and-swap; return True if it holds the new bytes.

        A newly created shard is checked again, too: another driver may have replaced it before it
        was catalogued, and then its stale row would stay.
        """
        path, digest = change.new.path, change.new.digest
        before = None if change.old is None else change.old.digest
        there = True

        def swap(now: bytes | None) -> bytes | None:
            nonlocal there
            found = None if now is None else digest_bytes(now)
            there = found in (before, digest)
            return change.data if found == before != digest else None

        self._store.update(path, swap)
        if not there:
            self._superseded.add((path, digest))  # it was catalogued, but another driver won
            return False
        if before is not None:
            self._superseded.add((path, before))
        if path in self._damaged:
            self._superseded |= {(path, known) for known in list(self._known[path])}
            self._damaged.discard(path)
        self._superseded.discard((path, digest))
        return True

    def _each(self, function: Callable[[A], B], items: Iterable[A]) -> list[B]:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="labels") as pool:
            return list(pool.map(function, items))

    # the catalog

    def _commit(self, rows: Sequence[ShardRow]) -> None:
        """Add rows to the catalog, and drop the superseded states of shards."""
        named = {(row.path, row.digest): row for row in rows}

        def prepare(snapshot: Snapshot) -> tuple[Sequence[Part], Sequence[Part]]:
            self._update_from(snapshot)
            added = [row for place, row in named.items() if place not in self._place]
            # Drop only this driver's superseded states: another driver catalogues states that it is
            # about to publish.
            gone = {
                place for place in self._superseded if place in self._place and place not in named
            }
            removed = [snapshot.by_path[path] for path in {self._place[place] for place in gone}]
            left = [self._without(part, gone) for part in removed]
            parts = [part for part in left if part is not None]
            if added:
                parts.append(self._ledger.write_part(shard_table(added)))
            return parts, removed

        self._snapshot = commit_with_retry(self._ledger, self._snapshot, prepare)
        self._update_from(self._snapshot)
        self._superseded.clear()

    def _without(self, part: Part, gone: set[tuple[str, str]]) -> Part | None:
        rows = self._ledger.read_part(part)
        places = zip(rows["path"].to_pylist(), rows["digest"].to_pylist(), strict=True)
        left = rows.filter(pa.array([place not in gone for place in places], pa.bool_()))
        return self._ledger.write_part(left) if left.num_rows else None

    def _refresh(self) -> None:
        with self._refreshing:
            self._snapshot = self._ledger.snapshot()
            self._update_from(self._snapshot)

    def _update_from(self, snapshot: Snapshot) -> None:
        """Update the indexes with the commits and removals since the last call."""
        for path in self._parts.keys() - snapshot.by_path.keys():
            for row in self._parts.pop(path):
                if self._place.get((row.path, row.digest)) == path:
                    del self._place[row.path, row.digest]
                    del self._known[row.path][row.digest]
        for part in snapshot.parts:
            if part.path in self._parts:
                continue
            table = self._ledger.read_part(part)
            labels = table.filter(pc.match_substring(table["stack"], LABELS))
            kept = self._parts[part.path] = rows_of(labels, ShardRow)
            for row in kept:
                stack, _, name = row.stack.partition(LABELS)
                self._names.setdefault(stack, set()).add(name)
                self._place[row.path, row.digest] = part.path
                self._known.setdefault(row.path, {})[row.digest] = row


def _described(part: StagedLabelShard, data: bytes) -> ShardRow:
    """Return the catalog row of a shard with the given bytes."""
    try:
        chunks = count_chunks(data, part.in_shard)
    except ValueError:  # damaged, and about to be replaced
        chunks = 0
    return replace(part.row, digest=digest_bytes(data), size=len(data), chunks=chunks)
