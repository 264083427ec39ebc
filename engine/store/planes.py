"""Several planes of one shard at once: reading a shard whole costs little more than one plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from engine.store.pixels import StackReader

Place = tuple[int, int | None]
"""Where a plane is in its stack: t, and z in a series."""

WASTE_BYTES = 512 * 1024
"""So much may be decoded and thrown away to save a call: a call of zarr's takes 0.5 ms, in which
zstd gives half a megabyte of noisy pixels."""


def read_planes(
    reader: StackReader, stack: str, places: Sequence[Place], level: int | str = 0
) -> list[NDArray[Any]]:
    """Read planes, in as few calls as pays.

    Parameters
    ----------
    reader
        Of the cohort.
    stack
        Name of the stack.
    places
        Places within one shard, each once.
    level
        Of the pyramid, or the path of a label image's.

    Returns
    -------
    Arrays (c, y, x) of the stack's size in the order of ``places``, each with memory of its own, so
    that keeping one keeps no other.

    Raises
    ------
    MissingObject, CorruptStore
    """
    shape = reader.array(stack, level).shape
    dtype = reader.array(stack, level).dtype
    nbytes = dtype.itemsize * shape[1] * shape[-2] * shape[-1]
    found: dict[Place, NDArray[Any]] = {}

    def read(some: Sequence[Place]) -> None:
        first, last = some[0][0], some[-1][0]
        depths = [z for _, z in some if z is not None]
        low, high = (min(depths), max(depths)) if depths else (0, 0)
        waste = (last - first + 1) * (high - low + 1) - len(some)
        if len(some) > 1 and waste * nbytes > WASTE_BYTES:
            middle = len(some) // 2
            read(some[:middle])
            read(some[middle:])
            return
        y, x = slice(0, shape[-2]), slice(0, shape[-1])
        channels = slice(0, shape[1])
        if depths:
            whole = (slice(first, last + 1), channels, slice(low, high + 1), y, x)
            box = reader.read(stack, whole, level)
            found.update(
                {(t, z): box[t - first, :, z - low].copy() for t, z in some if z is not None}
            )
        else:
            box = reader.read(stack, (slice(first, last + 1), channels, y, x), level)
            for t, z in some:
                found[t, z] = box[t - first].copy()

    if places:
        read(sorted(places))
    return [found[place] for place in places]
