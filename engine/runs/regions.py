"""Regions of images that items cover."""

from __future__ import annotations

from engine.geometry import Region
from engine.runs.plan import PlanItem
from engine.store.pixels.layout import GIANT_SHARD_PX


def region_of(item: PlanItem) -> tuple[Region, int]:
    """Return an item's core region, and the number of blocks across its image."""
    _, height, width = item.shape
    across = -(-width // GIANT_SHARD_PX)
    if item.block is None:
        return Region((0, 0), (height, width)), across
    y, x = (side * GIANT_SHARD_PX for side in divmod(item.block, across))
    stop = min(y + GIANT_SHARD_PX, height), min(x + GIANT_SHARD_PX, width)
    return Region((y, x), stop), across
