"""Labels of a unit: written aside by the worker, one part for each shard that they lie in."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.operations.answers import Answer
from engine.operations.base import Operation
from engine.store.catalog import ShardRow
from engine.store.digests import digest_bytes
from engine.store.label_commits import LabelPart
from engine.store.pixels import StackWriter, label_stack
from engine.store.root import STAGING, Root
from engine.store.shards import count_chunks
from engine.store.stacking import level_shapes


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
        if item.block is not None:
            parts += _write_block(root, operation.label_name, answer)
        else:
            shards.setdefault((item.stack, item.shard), []).append(answer)
    for (stack, shard), members in shards.items():
        writer = StackWriter(root, label_stack(stack, operation.label_name))
        parts.append(_write_images(root, writer, stack, shard, operation.label_name, members))
    return tuple(parts)


def _write_images(
    root: Root, writer: StackWriter, stack: str, shard: int, name: str, members: Sequence[Answer]
) -> LabelPart:
    """Write the labels of images of one shard of a stack or series."""
    pixels = np.zeros(writer.shape_of(shard), np.uint8)
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
            pixels[(*place, slice(0, height), slice(0, width))] = answer.labels
    return _part(root, writer, label_stack(stack, name), 0, shard, pixels, tuple(sorted(taken)))


def _write_block(root: Root, name: str, answer: Answer) -> list[LabelPart]:
    """Write the labels of one block of a giant image: its shard of each level.

    A pixel of a level is the first of those that it covers; blocks begin at multiples of 2,048, so
    that is the same pixel whichever block it is in.
    """
    item = answer.item
    stack, shard = label_stack(item.stack, name), item.block or 0
    parts = []
    for level in range(len(level_shapes((1, *item.shape)))):
        writer = StackWriter(root, stack, level)
        pixels = np.zeros(writer.shape_of(shard), np.uint8)
        if answer.labels is not None:
            pixels[0, 0] = answer.labels[:: 2**level, :: 2**level]
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
