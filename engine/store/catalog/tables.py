"""Catalog: ledgers of all images and all stored shards of a cohort.

``catalog/images`` holds one row per image version; the row with the greatest ``version`` is
current. ``catalog/shards`` holds one row per file below ``pixels/``. An ingest commits shards first
and images second: images become visible by the commit to images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import Conflict, StoreFailed
from engine.store.arrow import fill_null, is_any, make_array, make_scalar
from engine.store.backend.base import Store
from engine.store.catalog.derived import DERIVED, derive_columns
from engine.store.delta.ledger import MAX_COMMIT_ATTEMPTS, CommitConflict, Ledger, Snapshot
from engine.store.delta.parts import Part
from engine.store.path_pattern import FIELDS
from engine.store.rows import Int32, rows_of, schema_of, table_of

AGAIN_S = (0.5, 0.1)
"""Waits before a commit is retried after a disk fault, seconds, last first: a network share that
lost its server for a moment recovers in this time."""

LOOK_THREADS = 16
"""Concurrent look-ups of file sizes: an object store answers each after some milliseconds."""

READY, FAILED, ORPHANED, RETIRED = "ready", "failed", "orphaned", "retired"
"""States of an image: has pixels; can't be read; has pixels, but its source is missing; removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRow:
    """One version of one image, or of one unreadable source: the columns of ``catalog/images``."""

    image_id: str
    version: Int32 = 1
    state: str
    reason: str | None = None
    detail: str | None = None
    source: str
    fields: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    etag: str | None = None  # always None: an object's tag is in ctime_ns; format 1 has it
    content: str | None = None
    channels: Int32 | None = None
    height: Int32 | None = None
    width: Int32 | None = None
    dtype: str | None = None
    spacing_y_um: float | None = None
    spacing_x_um: float | None = None
    stack: str | None = None
    shard: Int32 | None = None
    t: Int32 | None = None
    z: Int32 | None = None
    giant: bool = False
    noise_sd: tuple[float, ...] = ()
    duplicate_of: str | None = None
    ingest: str | None = None
    # Additional columns of medical images.
    series: str | None = None
    instance: Int32 | None = None
    time_ms: float | None = None
    spacing_z_um: float | None = None
    position_mm: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    rescale_slope: float | None = None
    rescale_intercept: float | None = None
    header: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One file below ``pixels/``: a shard or the metadata of an array or group.

    ``path`` is relative to the cohort. ``level`` is that of the pyramid (-1 for the group's own
    metadata) and ``shard`` the C-order index in its shard grid (-1 for metadata). ``chunks`` counts
    the stored chunks (-1 for metadata); a shard with only blank chunks has size 0 and no file.
    """

    path: str
    stack: str
    level: Int32
    shard: Int32
    digest: str
    size: int
    chunks: Int32


IMAGES, SHARDS = schema_of(ImageRow), schema_of(ShardRow)
"""Columns of the ledgers."""

AFTER = ("pixels/", "results/")
"""Folders that are empty until both ledgers exist."""


def images_ledger(store: Store) -> Ledger:
    """Return the ledger of images."""
    return Ledger(store, "catalog/images", IMAGES, guards=AFTER)


def shards_ledger(store: Store) -> Ledger:
    """Return the ledger of shards."""
    return Ledger(store, "catalog/shards", SHARDS, guards=AFTER)


def create_catalog(store: Store) -> None:
    """Create both ledgers, before any file is written that they reference.

    From then on a missing catalog means that it was lost; files are neither taken for new ones nor
    for unreferenced ones.

    Raises
    ------
    CorruptStore
        If one was lost.
    """
    images_ledger(store).create_if_missing()
    shards_ledger(store).create_if_missing()


def read_shards(store: Store, stacks: Collection[str] | None = None) -> list[ShardRow]:
    """Return the rows of files below ``pixels/``: of all stacks, or of the given ones."""
    ledger = shards_ledger(store)
    rows = ledger.read(ledger.snapshot().parts)
    if stacks is not None:
        rows = rows.filter(is_any(rows["stack"], stacks))
    return rows_of(rows, ShardRow)


def image_table(rows: Sequence[ImageRow]) -> pa.Table:
    """Convert rows to a table of `IMAGES`."""
    return table_of(rows, ImageRow)


def shard_table(rows: Sequence[ShardRow]) -> pa.Table:
    """Convert rows to a table of `SHARDS`."""
    return table_of(rows, ShardRow)


def latest_versions(versions: pa.Table) -> pa.Table:
    """Return the newest version of each image, sorted by image_id.

    Parameters
    ----------
    versions
        Rows with at least ``image_id`` and ``version``, in any order.

    Examples
    --------
    >>> rows = pa.table({"image_id": ["b", "a", "b"], "version": [1, 1, 2], "n": [0, 1, 2]})
    >>> latest_versions(rows).to_pydict()["n"]
    [1, 2]
    """
    if versions.num_rows == 0:
        return versions
    keys = versions.select(["image_id", "version"])
    order = pc.sort_indices(keys, sort_keys=[("image_id", "ascending"), ("version", "ascending")])
    ids = pc.dictionary_encode(keys["image_id"]).combine_chunks().indices.take(order)
    ends = pc.not_equal(ids[1:], ids[:-1])
    last = pa.concat_arrays([ends, make_array([True], pa.bool_())])
    # Take once and column by column: with a million images each copy counts.
    return versions.take(order.filter(last)).combine_chunks()


def read_images(store: Store, columns: Sequence[str] | None = None) -> tuple[Snapshot, pa.Table]:
    """Return the catalog's snapshot and the current version of each image.

    Parameters
    ----------
    columns
        Columns to read besides ``image_id`` and ``version``; by default all of `IMAGES` and of
        `DERIVED`.
    """
    ledger = images_ledger(store)
    snapshot = ledger.snapshot()
    derived = DERIVED.names if columns is None else [n for n in DERIVED.names if n in columns]
    names = None
    if columns is not None:
        wanted = {*columns, "image_id", "version", *(["header"] if derived else [])}
        names = [n for n in IMAGES.names if n in wanted]
    images = derive_columns(latest_versions(ledger.read(snapshot.parts, names)), derived)
    pa.default_memory_pool().release_unused()  # sorting needed twice the catalog's size
    return snapshot, images


def field_column(images: pa.Table, name: str) -> pa.ChunkedArray:
    """Return a field of the path pattern as a column, with empty text for images that lack it."""
    found = pc.map_lookup(images["fields"], make_scalar(name, pa.string()), "first")
    return fill_null(found, "")


ORIENTATION = "shown_as"
"""Key of the column ``header``: the value of a TIFF's field 274."""


def orientations_of(images: pa.Table) -> list[int]:
    """Return how viewers turn each image, see `engine.sources.Plane`; 1 by default."""
    if "header" not in images.column_names:
        return [1] * images.num_rows
    found = pc.map_lookup(images["header"], pa.scalar(ORIENTATION), "first")
    return [1 if value is None else int(value) for value in found.to_pylist()]


def expand_fields(images: pa.Table) -> pa.Table:
    """Replace the column ``fields`` by one column per field, `FIELDS` first."""
    chunks = images["fields"].chunks
    extra = sorted({k for chunk in chunks for k in pc.unique(chunk.keys).to_pylist()} - {*FIELDS})
    columns = {name: field_column(images, name) for name in (*FIELDS, *extra)}
    taken = set(images.column_names)
    for name, column in columns.items():
        images = images.append_column(f"field_{name}" if name in taken else name, column)
    return images.drop_columns(["fields"])


def commit_with_retry(
    ledger: Ledger,
    snapshot: Snapshot,
    prepare: Callable[[Snapshot], tuple[Sequence[Part], Sequence[Part]]],
) -> Snapshot:
    """Commit with retry: prepare the commit again for each newer snapshot.

    Parameters
    ----------
    prepare
        Maps a snapshot to (parts to add, parts to remove). It is called once per attempt, and must
        drop parts that the snapshot already holds and parts that no longer exist.

    Returns
    -------
    The snapshot after the commit.

    Raises
    ------
    Conflict
        If other writers won `MAX_COMMIT_ATTEMPTS` times.
    StoreError
        If the store refuses or fails; for a disk fault only after some retries.
    """
    again = list(AGAIN_S)
    for _ in range(MAX_COMMIT_ATTEMPTS):
        add, remove = prepare(snapshot)
        if not add and not remove:
            return snapshot
        try:
            after = ledger.commit(snapshot, add, remove)
        except CommitConflict:
            snapshot = ledger.snapshot()
            continue
        except StoreFailed:  # an object store's client has already retried
            if not again:
                raise
            time.sleep(again.pop())
            snapshot = ledger.snapshot()  # the commit may have succeeded
            continue
        if not absent(ledger, add):
            return after
        snapshot = _undo(ledger, after, add, remove)
    raise Conflict(ledger.path)


def absent(ledger: Ledger, parts: Sequence[Part]) -> list[Part]:
    """Return the parts whose files do not exist.

    gc never deletes referenced files, so call this after the commit. Before it, gc may take a part
    for a killed writer's leftover if its writer slept or has a slow clock.
    """
    with ThreadPoolExecutor(LOOK_THREADS) as threads:
        sizes = threads.map(ledger.store.size, [f"{ledger.path}/{part.path}" for part in parts])
        return [part for part, size in zip(parts, sizes, strict=True) if size is None]


def _undo(
    ledger: Ledger, snapshot: Snapshot, added: Sequence[Part], removed: Sequence[Part]
) -> Snapshot:
    """Revert a commit with missing parts; return the ledger's state after that."""
    lost = {part.path for part in absent(ledger, removed)}
    back = [part for part in removed if part.path not in lost]
    for _ in range(MAX_COMMIT_ATTEMPTS):
        there = [part for part in added if part.path in snapshot.by_path]
        if not there:
            return snapshot
        try:
            return ledger.commit(snapshot, back, there)
        except CommitConflict:
            snapshot = ledger.snapshot()
    raise Conflict(ledger.path)
