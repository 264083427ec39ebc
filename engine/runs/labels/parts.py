"""Labels of a unit: written aside by the worker, one part for each shard that they lie in."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.operations.base import Operation
from engine.runs.plan import Item
from engine.runs.rows import Answer
from engine.store.catalog.tables import ShardRow
from engine.store.digests import digest_bytes
from engine.store.labels.images import LabelImage
from engine.store.labels.publisher import LabelPart
from engine.store.pixels.layout import level_shapes
from engine.store.pixels.shard_codec import count_chunks
from engine.store.pixels.stacks import StackWriter, label_stack
from engine.store.root.base import STAGING, Root


def write_labels(
    root: Root, operation: Operation, answers: Sequence[Answer]
) -> tuple[LabelPart, ...]:
    """Write the labels of some images aside; nobody sees them before the driver publishes them.

    An image that failed has blank labels, also where it had others before.

    Raises
    ------
    StoreFull, StoreReadOnly
    """
    if not operation.label_classes:
        return ()
    parts: list[LabelPart] = []
    shards: dict[tuple[str, int], list[Answer]] = {}
    for answer in answers:
        item = answer.item
        if item.block is not None:  # its objects are numbered when all blocks are there
            parts += write_block(root, operation.class_image, item, answer.labels)
        else:
            shards.setdefault((item.stack, item.shard), []).append(answer)
    for members in shards.values():
        parts.append(_write_images(root, operation.class_image, members, lambda labels: labels))
        if operation.labels_objects:
            parts.append(
                _write_images(root, operation.object_image, members, operation.label_objects)
            )
    return tuple(parts)


def _write_images(
    root: Root,
    image: LabelImage,
    members: Sequence[Answer],
    of: Callable[[NDArray[np.uint8]], NDArray[Any]],
) -> LabelPart:
    """Write the labels of images of one shard of a stack or series."""
    first = members[0].item
    stack, shard = label_stack(first.stack, image.name), first.shard
    writer = StackWriter(root, stack)
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
    return _part(root, writer, stack, 0, shard, pixels, tuple(sorted(taken)))


def write_block(
    root: Root, image: LabelImage, item: Item, labels: NDArray[Any] | None
) -> list[LabelPart]:
    """Write the labels of one block of a giant image aside: its shard of each level.

    A pixel of a level is the first of those that it covers; blocks begin at multiples of 2,048, so
    that is the same pixel whichever block it is in. No labels are blank ones.
    """
    stack, shard = label_stack(item.stack, image.name), item.block or 0
    parts = []
    for level in range(len(level_shapes((1, *item.shape)))):
        writer = StackWriter(root, stack, level)
        pixels = np.zeros(writer.shape_of(shard), image.dtype)
        if labels is not None:
            pixels[0, 0] = labels[:: 2**level, :: 2**level]
        parts.append(_part(root, writer, stack, level, shard, pixels, None))
    return parts


def _part(
    root: Root,
    writer: StackWriter,
    stack: str,
    level: int,
    shard: int,
    pixels: NDArray[Any],
    taken: tuple[int, ...] | None,
) -> LabelPart:
    data = writer.encode(shard, pixels)
    digest = digest_bytes(data)
    aside = f"{STAGING}/labels-{secrets.token_hex(6)}-{digest}"
    root.create(aside, data, durable=False)  # it is read back and checked before it is published
    chunks = count_chunks(data, writer.chunks)
    row = ShardRow(writer.path_of(shard), stack, level, shard, digest, len(data), chunks)
    return LabelPart(row, aside, writer.chunks, taken)
