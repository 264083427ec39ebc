"""Label shards of a unit, staged by the worker for publication by the driver."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.operations.base import Operation
from engine.runs.plan import PlanItem
from engine.runs.rows import ImageResult
from engine.store.backend.base import STAGING, Store
from engine.store.catalog.tables import ShardRow
from engine.store.digests import digest_bytes
from engine.store.labels.images import LabelImage
from engine.store.labels.publisher import StagedLabelShard
from engine.store.pixels.layout import level_shapes
from engine.store.pixels.shard_codec import count_chunks
from engine.store.pixels.stacks import StackWriter, label_stack


def write_labels(
    store: Store, operation: Operation, answers: Sequence[ImageResult]
) -> tuple[StagedLabelShard, ...]:
    """Stage the labels of some images; they are visible once the driver publishes them.

    A failed image gets blank labels, which replace any earlier ones.

    Raises
    ------
    StoreFull, StoreReadOnly
    """
    if not operation.has_labels:
        return ()
    parts: list[StagedLabelShard] = []
    shards: dict[tuple[str, int], list[ImageResult]] = {}
    for answer in answers:
        item = answer.item
        if item.block is not None:  # objects are numbered once all blocks have rows
            parts += write_block(store, operation.measured_image, item, answer.labels)
        else:
            shards.setdefault((item.stack, item.shard), []).append(answer)
    for members in shards.values():
        if not operation.has_instances:
            parts.append(
                _write_images(store, operation.measured_image, members, lambda labels: labels)
            )
        if operation.has_object_labels:
            parts.append(
                _write_images(store, operation.object_image, members, operation.label_objects)
            )
    return tuple(parts)


def _write_images(
    store: Store,
    image: LabelImage,
    members: Sequence[ImageResult],
    of: Callable[[NDArray[Any]], NDArray[Any]],
) -> StagedLabelShard:
    """Stage the labels of images in one shard of a stack or series."""
    first = members[0].item
    stack, shard = label_stack(first.stack, image.name), first.shard
    writer = StackWriter(store, stack)
    pixels = np.zeros(writer.shape_of(shard), image.dtype)
    corner = np.unravel_index(shard, writer.grid)
    taken = []
    for answer in members:
        item = answer.item
        t = item.t - int(corner[0]) * writer.shard[0]
        z = None if item.z is None else item.z - int(corner[2]) * writer.shard[2]
        taken.append(t if z is None else t * writer.shard[2] + z)  # a chunk holds one image
        if answer.labels is not None:
            height, width = answer.labels.shape
            place = (t, 0) if z is None else (t, 0, z)
            pixels[(*place, slice(0, height), slice(0, width))] = of(answer.labels)
    return _part(store, writer, stack, 0, shard, pixels, tuple(sorted(taken)))


def write_block(
    store: Store, image: LabelImage, item: PlanItem, labels: NDArray[Any] | None
) -> list[StagedLabelShard]:
    """Stage the labels of one block of a giant image: its shard on each level.

    Downsampling takes the first pixel of each 2 x 2 group. Blocks begin at multiples of 2,048, so
    block borders do not affect the choice. ``None`` writes blank labels.
    """
    stack, shard = label_stack(item.stack, image.name), item.block or 0
    parts = []
    for level in range(len(level_shapes((1, *item.shape)))):
        writer = StackWriter(store, stack, level)
        pixels = np.zeros(writer.shape_of(shard), image.dtype)
        if labels is not None:
            pixels[0, 0] = labels[:: 2**level, :: 2**level]
        parts.append(_part(store, writer, stack, level, shard, pixels, None))
    return parts


def _part(
    store: Store,
    writer: StackWriter,
    stack: str,
    level: int,
    shard: int,
    pixels: NDArray[Any],
    taken: tuple[int, ...] | None,
) -> StagedLabelShard:
    data = writer.encode(shard, pixels)
    digest = digest_bytes(data)
    staged_path = f"{STAGING}/labels-{secrets.token_hex(6)}-{digest}"
    # Not fsynced: the driver reads and checks it before publication
    store.create(staged_path, data, durable=False)
    chunks = count_chunks(data, writer.chunks)
    row = ShardRow(writer.path_of(shard), stack, level, shard, digest, len(data), chunks)
    return StagedLabelShard(row, staged_path, writer.chunks, taken)
