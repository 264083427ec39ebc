"""Convert giant images to tiled pyramids, streamed in bands to bound memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import Conflict, SourceUnreadable
from engine.geometry import Region
from engine.ingest.tasks import PlaneResult, ShardResult, ShardTask
from engine.ingest.worker import change_of, noise_windows, open_source_file
from engine.kernels.noise import merge_noise
from engine.sources import OpenSource
from engine.store.backend.base import Store
from engine.store.catalog.tables import ShardRow
from engine.store.digests import BLOCK_PX, digest_block, digest_content
from engine.store.pixels.layout import GIANT_SHARD_PX, IncomingPlane, StackLayout, level_shapes
from engine.store.pixels.stacks import StackReader, StackWriter


def write_pyramid(store: Store, task: ShardTask) -> ShardResult:
    """Write a giant image band by band, then each level of its pyramid from the one below it.

    One task owns all shards of the image, so no level has to wait for another task.
    """
    arrival = task.plan.slots[0].arrival
    file = task.files[arrival.source]
    place = (task.plan.name, task.shard)
    try:
        with open_source_file(file, task.max_decoded_bytes) as source:
            index = next(
                (n for n, p in enumerate(source.planes) if p.fragment == arrival.fragment), None
            )
            if index is None or source.planes[index].shape != arrival.shape:
                return ShardResult(place, (), (PlaneResult(arrival),))
            taken, rows = _write_base(store, task.plan, source, index, arrival)
        if (changed := change_of(file)) is not None:
            return ShardResult(place, (), (changed(arrival),))
        for level in range(1, len(level_shapes(task.plan.shape))):
            rows += _write_level(store, task.plan, level, rows)
    except SourceUnreadable as error:
        failed = PlaneResult(arrival, reason=error.reason, detail=str(error.args[1]))
        return ShardResult(place, (), (failed,))
    except Conflict:  # an earlier attempt read other pixels: the source changed in between
        return ShardResult(place, (), (PlaneResult(arrival),))
    return ShardResult(place, tuple(rows), (taken,))


def _write_base(
    store: Store, plan: StackLayout, source: OpenSource, index: int, arrival: IncomingPlane
) -> tuple[PlaneResult, list[ShardRow]]:
    plane = source.planes[index]
    _, height, width = plane.shape
    writer = StackWriter(store, plan.name)
    whole = None if plane.streams else source.read(index)
    rows: list[ShardRow] = []
    digests: list[str] = []
    windows: list[list[NDArray[np.float32]]] = []
    side = GIANT_SHARD_PX  # equals BLOCK_PX, so one pass over the pixels makes digests and shards
    for top in range(0, height, side):
        band = Region((top, 0), (min(top + side, height), width))
        pixels = source.read_region(index, band) if whole is None else whole[:, band.slices[0]]
        for left in range(0, width, side):
            block = np.ascontiguousarray(pixels[:, :, left : left + side])
            digests.append(digest_block(block))
            windows.append(noise_windows(block, plane.separate))
            rows.append(writer.write(len(rows), block[None]))
    content = digest_content(plane.dtype, plane.shape, digests)
    noise = tuple(
        merge_noise(*(one.ravel() for one in channel)) for channel in zip(*windows, strict=True)
    )
    return PlaneResult(arrival, content, noise), rows


def _write_level(
    store: Store, plan: StackLayout, level: int, below: list[ShardRow]
) -> list[ShardRow]:
    """Make one level from the one below it, shard by shard."""
    metadata = [StackWriter(store, plan.name, n).describe() for n in (level - 1, level)]
    reader = StackReader(store, {row.path: row for row in [*below, *metadata]})
    writer = StackWriter(store, plan.name, level)
    return [
        writer.write(index, read_downsampled_block(reader, writer, plan.name, level, index))
        for index in range(math.prod(writer.grid))
    ]


def read_downsampled_block(
    reader: StackReader, writer: StackWriter, stack: str, level: int, index: int
) -> NDArray[Any]:
    """Return the pixels (1, c, y, x) of one shard of a level, downsampled from the level below.

    Raises
    ------
    MissingObject, CorruptStore
    """
    _, channels, height, width = reader.array(stack, level - 1).shape
    top, left = (int(i) * GIANT_SHARD_PX for i in np.unravel_index(index, writer.grid)[2:])
    rows = slice(2 * top, min(2 * (top + GIANT_SHARD_PX), height))
    columns = slice(2 * left, min(2 * (left + GIANT_SHARD_PX), width))
    return downsample_2x(reader.read(stack, (0, slice(0, channels), rows, columns), level - 1))[
        None
    ]


def downsample_2x(pixels: NDArray[Any]) -> NDArray[Any]:
    """Downsample a plane by 2 x 2 means; an odd last row or column is repeated.

    Parameters
    ----------
    pixels
        (c, y, x), any numeric type; integers are rounded to the nearest.

    Examples
    --------
    >>> downsample_2x(np.array([[[0, 2, 9], [4, 6, 9]]], np.uint8))
    array([[[3, 9]]], dtype=uint8)
    """
    _, height, width = pixels.shape
    even = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    wide: NDArray[Any] = even.astype(np.float64 if pixels.dtype.itemsize > 2 else np.float32)
    mean = (wide[:, ::2, ::2] + wide[:, 1::2, ::2] + wide[:, ::2, 1::2] + wide[:, 1::2, 1::2]) / 4
    if pixels.dtype.kind in "iub":
        mean = np.floor(mean + 0.5)
    return mean.astype(pixels.dtype)


if BLOCK_PX != GIANT_SHARD_PX:
    raise RuntimeError("digests and shards of giant images must have the same blocks")
