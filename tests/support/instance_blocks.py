"""Instances of an image that is computed in blocks, as a run does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.geometry import plan_tiles
from engine.operations.base import LABELS, Image
from engine.operations.instances import InstanceOperation


def in_blocks(
    made: InstanceOperation,
    pixels: NDArray[Any],
    side: int,
    noise_sd: tuple[float, ...] = (),
) -> tuple[NDArray[np.uint32], pa.Table]:
    """Return the label image and the merged objects of an image that was computed in blocks."""
    shape = pixels.shape[1:]
    tables, stored = [], []
    for tile in plan_tiles(shape, (side, side), made.halo_px):
        image = Image(
            np.ascontiguousarray(pixels[:, *tile.read.slices]), noise_sd, origin=tile.read.start,
            core_region=tile.write, full_shape=shape,
        )  # fmt: skip
        found = dict(made.measure(image))
        stored.append((tile.write, found.pop(LABELS)))
        columns = [pa.array(found[f.name], f.type) for f in made.object_schema]
        tables.append(pa.table(columns, made.object_schema))
    whole = np.zeros(shape, np.uint32)
    for (region, labels), numbers in zip(stored, made.number_blocks(tables), strict=True):
        whole[region.slices] = made.label_objects(labels, numbers)
    rows = pa.concat_tables(tables)
    return whole, made.merge_objects(np.zeros(rows.num_rows, np.int64), rows)
