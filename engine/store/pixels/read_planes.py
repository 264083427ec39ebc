"""Read several planes of one shard at once, which costs little more than reading one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from engine.store.pixels.stacks import StackReader

PlaneIndex = tuple[int, int | None]
"""Position of a plane in its stack: t, and z in a series."""

WASTE_BYTES = 512 * 1024
"""Limit of bytes decoded in vain to save a call: a call of zarr's takes 0.5 ms, in which zstd
decodes half a megabyte of noisy pixels, and LZ4 more."""


def read_planes(
    reader: StackReader, stack: str, places: Sequence[PlaneIndex], level: int | str = 0
) -> Iterator[tuple[PlaneIndex, NDArray[Any]]]:
    """Read planes of one shard in few calls.

    Parameters
    ----------
    reader
        Reader of the cohort.
    stack
        Name of the stack.
    places
        Positions within one shard, each once.
    level
        Level of the pyramid, or the path of a label image's level.

    Yields
    ------
    Each position, in stored order, and its plane (c, y, x) of the stack's size: a view of the whole
    array that was read, so copy planes to keep them.

    Raises
    ------
    MissingObject, CorruptStore
    """
    array = reader.array(stack, level)
    _, channels, *_, height, width = array.shape
    nbytes = array.dtype.itemsize * channels * height * width
    whole = slice(0, channels), slice(0, height), slice(0, width)
    for some in _runs(sorted(places), nbytes):
        (first, low), (last, _) = some[0], some[-1]
        if low is None:
            box = reader.read(stack, (slice(first, last + 1), *whole), level)
            yield from (((t, z), box[t - first]) for t, z in some)
            continue
        depths = [z or 0 for _, z in some]
        low = min(depths)
        depth = slice(low, max(depths) + 1)
        box = reader.read(stack, (slice(first, last + 1), whole[0], depth, *whole[1:]), level)
        yield from (((t, z), box[t - first, :, (z or 0) - low]) for t, z in some)


def _runs(places: Sequence[PlaneIndex], nbytes: int) -> Iterator[Sequence[PlaneIndex]]:
    """Yield the positions in groups whose bounding boxes contain few other planes."""
    if not places:
        return
    depths = [z or 0 for _, z in places]
    box = (places[-1][0] - places[0][0] + 1) * (max(depths) - min(depths) + 1)
    if len(places) > 1 and (box - len(places)) * nbytes > WASTE_BYTES:
        middle = len(places) // 2
        yield from _runs(places[:middle], nbytes)
        yield from _runs(places[middle:], nbytes)
    else:
        yield places
