"""Check the pixels: every catalogued file against its row, and every image against its stack."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from engine.errors import CorruptStore
from engine.store.backend.base import Store
from engine.store.catalog.tables import ORPHANED, READY, ShardRow
from engine.store.digests import digest_bytes
from engine.store.labels.images import (
    BLOCKS,
    LABELS,
    image_stack,
    index_path,
    is_label,
    names_in_index,
)
from engine.store.maintenance.problems import (
    CORRUPT,
    INCONSISTENT,
    MISSING,
    STALE,
    Problem,
    report_errors,
)
from engine.store.pixels.shard_codec import LOST_CHUNK, count_chunks
from engine.store.pixels.stacks import stack_path

PLACE = ("state", "channels", "height", "width", "dtype", "stack", "shard", "t", "z", "giant")
"""Columns of the catalog that locate an image's pixels."""

AGAIN = "an ingest was torn; this takes it again: cohort ingest COHORT --rehash"
"""Remedy for an image without catalogued shards."""

GONE_TOO = (
    "an ingest was torn, and its source is gone: put that back in its place, then this takes it "
    "again: cohort ingest COHORT --rehash"
)
"""Remedy for such an image with a missing source (orphaned): no command can take it again."""

_Apply = Callable[
    [Callable[[ShardRow], list[Problem]], Iterable[ShardRow]], Iterator[list[Problem]]
]


@dataclass(frozen=True, slots=True)
class Level:
    """Shapes and data type from an array's metadata, for checks of files and positions."""

    shape: tuple[int, ...]
    shard: tuple[int, ...]
    chunks: int  # in a shard
    dtype: str

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of shards along each axis."""
        return tuple(-(-n // s) for n, s in zip(self.shape, self.shard, strict=True))


def parse_level(data: bytes) -> Level:
    """Read an array's metadata (Zarr v3, sharded).

    Raises
    ------
    ValueError, KeyError, TypeError, IndexError
        If they are not the metadata of a sharded array.
    """
    values = json.loads(data)
    shard = tuple(values["chunk_grid"]["configuration"]["chunk_shape"])
    inner = tuple(values["codecs"][0]["configuration"]["chunk_shape"])
    chunks = math.prod(s // i for s, i in zip(shard, inner, strict=True))
    return Level(tuple(values["shape"]), shard, chunks, str(values["data_type"]))


def check_files(
    store: Store, rows: Sequence[ShardRow], levels: dict[tuple[str, int], Level], apply: _Apply
) -> Iterator[Problem]:
    """Yield the problems of the files that the catalog lists.

    Parameters
    ----------
    rows
        Catalog rows of shards and metadata.
    levels
        Filled with the arrays whose metadata match the catalog, by stack and level.
    apply
        Like the built-in ``map``; may work in threads. Each call holds one file in memory.
    """
    by_path: dict[str, list[ShardRow]] = {}
    for row in rows:
        by_path.setdefault(row.path, []).append(row)
    for path, named in by_path.items():
        if len(named) > 1 and not (is_label(named[0].stack) and named[0].shard >= 0):
            yield Problem(path, INCONSISTENT, f"is in the catalog {len(named)} times")
    for row in rows:
        if row.shard < 0:
            yield from report_errors(row.path, partial(_metadata, store, row, levels))
    shards = (_as_it_is(store, named) for named in by_path.values() if named[0].shard >= 0)
    for found in apply(
        lambda row: list(report_errors(row.path, lambda: _shard(store, row, levels))), shards
    ):
        yield from found


def _as_it_is(store: Store, named: Sequence[ShardRow]) -> ShardRow:
    """Return the row of a file; for a shard of labels under replacement, the current one."""
    if len(named) == 1 or store.size(named[0].path) is None:
        return named[0]
    digest = digest_bytes(store.read(named[0].path))
    return next((row for row in named if row.digest == digest), named[0])


def check_indexes(store: Store, rows: Sequence[ShardRow]) -> Iterator[Problem]:
    """Yield the stacks whose list of label images differs from the catalog."""
    names: dict[str, set[str]] = {}
    for row in rows:
        if is_label(row.stack) and row.level < 0 and BLOCKS not in row.stack:
            names.setdefault(image_stack(row.stack), set()).add(row.stack.split(LABELS)[1])
    for stack, due in sorted(names.items()):
        path = index_path(stack)
        data = store.read(path) if store.size(path) is not None else None
        listed = None if data is None else names_in_index(data)
        if data is not None and listed is None:
            yield Problem(path, CORRUPT, "is not the list that the engine wrote")
        elif not due <= set(listed or ()):
            why = "is not there" if data is None else "lacks label images, so remove it"
            yield Problem(path, STALE, f"{why}; the next run of their operation makes it again")


def _read(store: Store, row: ShardRow) -> bytes:
    data = store.read(row.path)
    if len(data) != row.size:
        raise CorruptStore(row.path, f"has {len(data)} bytes, but the catalog says {row.size}")
    if digest_bytes(data) != row.digest:
        raise CorruptStore(row.path, "its bytes do not match the catalog's digest")
    return data


def _metadata(
    store: Store, row: ShardRow, levels: dict[tuple[str, int], Level]
) -> Iterator[Problem]:
    data = _read(store, row)
    if row.level >= 0:
        levels[row.stack, row.level] = parse_level(data)
    yield from ()


def _shard(
    store: Store, row: ShardRow, levels: Mapping[tuple[str, int], Level]
) -> Iterator[Problem]:
    level = levels.get((row.stack, row.level))
    if level is not None and row.shard >= math.prod(level.grid):
        text = f"is shard {row.shard} of an array that has {math.prod(level.grid)}"
        yield Problem(row.path, INCONSISTENT, text)
    if row.size == 0:  # all blank, and blank chunks are not stored
        if store.size(row.path) is not None:
            yield Problem(row.path, INCONSISTENT, "is there, but the catalog says it is blank")
        return
    data = _read(store, row)
    if LOST_CHUNK in data:
        text = f"lacks pixels of {data.count(LOST_CHUNK)} images, which no source gave back"
        yield Problem(row.path, MISSING, text)
    if level is None:  # its metadata are already reported
        return
    stored = count_chunks(data, level.chunks)
    if stored != row.chunks:
        text = f"stores {stored} chunks, but the catalog says {row.chunks}"
        yield Problem(row.path, CORRUPT, text)


def check_places(
    images: pa.Table, rows: Sequence[ShardRow], levels: Mapping[tuple[str, int], Level]
) -> Iterator[Problem]:
    """Yield the images whose pixels are not among the catalogued shards.

    Parameters
    ----------
    images
        Current rows with `PLACE` and ``image_id``.
    rows, levels
        Shards of the catalog, and the arrays with intact metadata; images in others are not
        checked, since their metadata are already reported.
    """
    shards = {(row.stack, row.level, row.shard) for row in rows if row.shard >= 0}
    stacks = {row.stack for row in rows if row.shard < 0 and row.level == 0}
    for batch in images.to_batches(max_chunksize=10_000):
        for image in batch.to_pylist():
            if image["state"] in (READY, ORPHANED):
                text = _misplaced(image, shards, stacks, levels)
                if text is not None:
                    yield Problem("catalog/images", INCONSISTENT, f"{image['image_id']}: {text}")


def _misplaced(
    image: Mapping[str, object],
    shards: set[tuple[str, int, int]],
    stacks: set[str],
    levels: Mapping[tuple[str, int], Level],
) -> str | None:
    """Return the problem of an image's position, or None."""
    stack, shard, t, z = (image[name] for name in ("stack", "shard", "t", "z"))
    again = GONE_TOO if image["state"] == ORPHANED else AGAIN
    if not isinstance(stack, str) or not isinstance(shard, int) or not isinstance(t, int):
        return "has pixels, but no place"
    if stack not in stacks:
        return f"its stack {stack} is not in the catalog of shards; {again}"
    level = levels.get((stack, 0))
    if level is None:
        return None
    place = [t, 0, *([z] if isinstance(z, int) else []), 0, 0]
    size = [1, image["channels"], *([1] if isinstance(z, int) else [])]
    size += [image["height"], image["width"]]
    if len(place) != len(level.shape) or not all(
        isinstance(s, int) and p >= 0 and p + s <= n
        for p, s, n in zip(place, size, level.shape, strict=True)
    ):
        return f"does not lie inside its stack {stack}"
    if image["dtype"] != level.dtype:
        return f"is {image['dtype']}, but its stack {stack} is {level.dtype}"
    wanted = {(stack, 0, shard)}
    if image["giant"]:
        mine = [key for key in levels if key[0] == stack]
        wanted = {(*key, n) for key in mine for n in range(math.prod(levels[key].grid))}
    else:
        index = 0
        for p, s, count in zip(place, level.shard, level.grid, strict=True):
            index = index * count + p // s
        if index != shard:
            return f"has shard {shard} of {stack} in the catalog, but belongs to {index}"
    gone = sorted(wanted - shards)
    if gone:
        where = ", ".join(f"{stack_path(s)} level {lv} shard {n}" for s, lv, n in gone[:3])
        return f"its pixels are not in the catalog of shards: {where}; {again}"
    return None
