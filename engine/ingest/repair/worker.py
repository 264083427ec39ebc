"""Repair damaged shards from their readable chunks and from sources, on workers.

Pixels from a source are used only if their digest matches the catalog, so an image's pixels, inputs
and results stay the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import CorruptStore, MissingObject, SourceUnreadable
from engine.geometry import Region
from engine.ingest.pyramid import read_downsampled_block
from engine.ingest.tasks import SourceFile
from engine.ingest.worker import change_of, open_source_file, read_planes_of
from engine.record import Record
from engine.store.backend.base import STAGING, Store
from engine.store.catalog.tables import ShardRow
from engine.store.digests import digest_block, digest_bytes, digest_content, digest_plane
from engine.store.pixels.layout import GIANT_SHARD_PX, IncomingPlane
from engine.store.pixels.read_planes import PlaneIndex
from engine.store.pixels.repair import ShardRepair, chunk_of
from engine.store.pixels.shard_codec import LOST_CHUNK, count_chunks, pack_chunks, unpack_chunks
from engine.store.pixels.stacks import StackReader, StackWriter


@dataclass(frozen=True, slots=True)
class PlaneToRestore(Record):
    """A plane that a damaged shard must hold, and the sources that had it in this ingest."""

    place: PlaneIndex
    content: str
    arrivals: tuple[IncomingPlane, ...] = field(repr=False)
    files: tuple[SourceFile, ...] = field(repr=False)
    shape: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class RepairTask(Record):
    """Shards to repair: one of a stack or series, or those of one level of a giant image.

    ``files`` are catalog rows of the further input: the level below.
    """

    rows: tuple[ShardRow, ...]
    wanted: tuple[PlaneToRestore, ...]
    giant: bool
    max_decoded_bytes: int
    files: Mapping[str, ShardRow] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class RepairResult(Record):
    """Repaired shards; planes restored from sources, and planes still lost."""

    repairs: tuple[ShardRepair, ...] = ()
    healed: tuple[PlaneIndex, ...] = ()
    lost: tuple[PlaneIndex, ...] = ()


def repair_shards(store: Store, task: RepairTask) -> RepairResult:
    """Stage repaired shards; they are visible once the driver publishes them."""
    if not task.giant:
        return _repair_planes(store, task)
    return _repair_blocks(store, task) if task.rows[0].level == 0 else _repair_level(store, task)


def _repair_planes(store: Store, task: RepairTask) -> RepairResult:
    (row,) = task.rows
    writer = StackWriter(store, row.stack)
    due = {chunk_of(writer, *wanted.place): wanted for wanted in task.wanted}
    data = _data_of(store, row.path)
    pieces = _what_is_left(writer, row.shard, data, due)
    missing = {chunk: due[chunk] for chunk in due if chunk not in pieces}
    found = _from_sources(list(missing.values()), task.max_decoded_bytes)
    block = np.zeros(writer.shape_of(row.shard), writer.metadata["data_type"])
    for (t, z), pixels in found.items():
        channels, height, width = pixels.shape
        at = [t % writer.shard[0], slice(0, channels)]
        at += [] if z is None else [z % writer.shard[2]]
        block[(*at, slice(0, height), slice(0, width))] = pixels
    made = unpack_chunks(writer.encode(row.shard, block), writer.chunks)
    for chunk, wanted in missing.items():
        pieces[chunk] = made[chunk] if wanted.place in found else LOST_CHUNK
    lost = tuple(w.place for w in missing.values() if w.place not in found)
    if lost and not found:  # the new shard would not be better than the old one
        return RepairResult(lost=lost)
    new = pack_chunks([pieces.get(chunk) for chunk in range(writer.chunks)])
    return RepairResult((_stage_repair(store, row, new, writer, data),), tuple(found), lost)


def _data_of(store: Store, path: str) -> bytes | None:
    try:
        return store.read(path)
    except MissingObject:
        return None


def _what_is_left(
    writer: StackWriter, shard: int, data: bytes | None, due: Mapping[int, PlaneToRestore]
) -> dict[int, bytes | None]:
    """Return the encoded chunks of a damaged shard that are intact."""
    if data is None:
        return {}
    try:
        chunks = unpack_chunks(data, writer.chunks)
    except (CorruptStore, ValueError):  # the index of its chunks is damaged
        return {}
    size = tuple(s // n for s, n in zip(writer.shard, writer.inner, strict=True))
    left: dict[int, bytes | None] = {}
    with writer.open_bytes(data) as array:
        for chunk, piece in enumerate(chunks):
            at = np.unravel_index(chunk, writer.inner)
            box = tuple(slice(int(i) * s, int(i) * s + s) for i, s in zip(at, size, strict=True))
            try:
                pixels = np.asarray(array[box])[0]
            except MemoryError:
                raise
            except Exception:  # zarr and zarrs raise many types for bad checksums
                continue
            wanted = due.get(chunk)
            if wanted is not None:
                channels, height, width = wanted.shape
                plane = pixels if wanted.place[1] is None else pixels[:, 0]
                if digest_plane(plane[:channels, :height, :width]) != wanted.content:
                    continue
            left[chunk] = piece
    return left


def _from_sources(wanted: Sequence[PlaneToRestore], limit: int) -> dict[PlaneIndex, NDArray[Any]]:
    """Read planes from their sources, each file once; try the next source if one fails."""
    found: dict[PlaneIndex, NDArray[Any]] = {}
    for turn in range(max((len(w.files) for w in wanted), default=0)):
        by_file: dict[SourceFile, list[PlaneToRestore]] = {}
        for one in wanted:
            if one.place not in found and turn < len(one.files):
                by_file.setdefault(one.files[turn], []).append(one)
        for file, members in by_file.items():
            planes = read_planes_of(file, [m.arrivals[turn] for m in members], limit)
            for member, (pixels, taken) in zip(members, planes, strict=True):
                if pixels is not None and taken.content == member.content:
                    found[member.place] = pixels
    return found


def _stage_repair(
    store: Store, row: ShardRow, new: bytes, writer: StackWriter, seen: bytes | None
) -> ShardRepair:
    path = f"{STAGING}/{secrets.token_hex(8)}"
    store.create(path, new, durable=False)
    chunks = count_chunks(new, writer.chunks)
    changed = replace(row, digest=digest_bytes(new), size=len(new), chunks=chunks)
    return ShardRepair(row, changed, path, None if seen is None else digest_bytes(seen))


def _repair_blocks(store: Store, task: RepairTask) -> RepairResult:
    """Repair blocks of a giant image from its source."""
    (wanted,) = task.wanted
    for arrival, file in zip(wanted.arrivals, wanted.files, strict=True):
        try:
            repairs = _blocks_of(store, task, wanted, arrival, file)
        except SourceUnreadable:
            continue
        if repairs:
            return RepairResult(repairs, (wanted.place,))
    return RepairResult(lost=(wanted.place,))


def _blocks_of(
    store: Store, task: RepairTask, wanted: PlaneToRestore, arrival: IncomingPlane, file: SourceFile
) -> tuple[ShardRepair, ...]:
    writer = StackWriter(store, task.rows[0].stack)
    side = GIANT_SHARD_PX
    _, height, width = wanted.shape
    rows = {row.shard: row for row in task.rows}
    repairs: list[ShardRepair] = []
    digests: list[str] = []
    with open_source_file(file, task.max_decoded_bytes) as source:
        index = next((n for n, p in enumerate(source.planes) if p.fragment == arrival.fragment), -1)
        if index < 0 or source.planes[index].shape != wanted.shape:
            return ()
        whole = None if source.planes[index].streams else source.read(index)
        for top in range(0, height, side):
            band = Region((top, 0), (min(top + side, height), width))
            pixels = source.read_region(index, band) if whole is None else whole[:, band.slices[0]]
            for left in range(0, width, side):
                block = np.ascontiguousarray(pixels[:, :, left : left + side])
                if (row := rows.get(len(digests))) is not None:
                    data = writer.encode(row.shard, block[None])
                    repairs.append(
                        _stage_repair(store, row, data, writer, _data_of(store, row.path))
                    )
                digests.append(digest_block(block))
    content = digest_content(writer.metadata["data_type"], wanted.shape, digests)
    if content != wanted.content or change_of(file) is not None:
        for repair in repairs:
            store.delete(repair.staged_path)
        return ()
    return tuple(repairs)


def _repair_level(store: Store, task: RepairTask) -> RepairResult:
    """Repair shards of a pyramid level from the level below."""
    level, stack = task.rows[0].level, task.rows[0].stack
    reader, writer = StackReader(store, task.files), StackWriter(store, stack, level)
    repairs: list[ShardRepair] = []
    lost: tuple[PlaneIndex, ...] = ()
    for row in task.rows:
        try:
            block = read_downsampled_block(reader, writer, stack, level, row.shard)
        except (MissingObject, CorruptStore):
            lost = tuple(wanted.place for wanted in task.wanted)
            continue
        data = writer.encode(row.shard, block)
        repairs.append(_stage_repair(store, row, data, writer, _data_of(store, row.path)))
    return RepairResult(tuple(repairs), () if lost else tuple(w.place for w in task.wanted), lost)
