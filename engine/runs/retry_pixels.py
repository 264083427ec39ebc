"""Retry of failures on missing or corrupt pixels, once the pixels are restored."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import pyarrow as pa

from engine.operations.base import Operation
from engine.runs.plan import PlanItem
from engine.runs.worker import RowId, shards_read
from engine.store.arrow import is_any
from engine.store.backend.base import Store
from engine.store.catalog.tables import read_shards
from engine.store.pixels.read_planes import PlaneIndex
from engine.store.pixels.repair import missing_planes

LOST_PIXELS = ("missing_pixels", "corrupt_pixels")
"""Failure reasons caused by the store, not by the image."""

PLACE = ("image_id", "stack", "shard", "t", "z", "giant", "channels", "height", "width",
         "spacing_y_um", "spacing_x_um")  # fmt: skip


def failed_on_pixels(rows: pa.Table) -> list[RowId]:
    """Return the results that failed on missing or corrupt pixels, given rows with reasons."""
    failed = rows.filter(is_any(rows["reason"], LOST_PIXELS))
    columns = (failed[name].to_pylist() for name in ("image_id", "inputs", "block"))
    return list(zip(*columns, strict=True))


def find_retryable(
    store: Store, operation: Operation, images: pa.Table, failed: Collection[RowId]
) -> frozenset[RowId]:
    """Return the failed results whose pixels now match the catalog again.

    Checks only the shards of these images, each once.

    Parameters
    ----------
    images
        Current rows of the catalog that have pixels.
    failed
        From `failed_on_pixels`.
    """
    if not failed:
        return frozenset()
    names = {image_id for image_id, _, _ in failed}
    concerned = images.filter(is_any(images["image_id"], names)).select(PLACE)
    places = {row["image_id"]: row for row in concerned.to_pylist()}
    stacks = {place["stack"] for place in places.values()}
    files = {(f.stack, f.shard): f for f in read_shards(store, stacks) if f.level == 0}

    @cache
    def lost(stack: str, shard: int) -> frozenset[PlaneIndex] | None:
        row = files.get((stack, shard))
        return None if row is None else missing_planes(store, row)

    def readable(image_id: str, block: int | None) -> bool:
        if (place := places.get(image_id)) is None:
            return False
        shape = place["channels"], place["height"], place["width"]
        sides = place["spacing_y_um"], place["spacing_x_um"]
        spacing = None if None in sides else sides
        item = PlanItem(
            (image_id,), "", place["stack"], place["shard"], place["t"], place["z"], shape, "",
            (), None, "", block,
        )  # fmt: skip
        here = [(item.stack, -1), *shards_read(item, operation.halo_of(spacing))]
        gone = [lost(*file) for file in here]
        return all(g is not None and (item.t, item.z) not in g for g in gone)

    return frozenset(row for row in failed if readable(row[0], row[2]))
