"""Regions of a slide at a resolution between its levels, by area means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.geometry import YX, Region, plan_tiles

SAME = 0.01
"""Relative difference up to which resolutions count as equal: scanners round theirs."""

READ_PX = 2048
"""Side of the blocks read from a level, pixels."""

CUT_PX = 64
"""Tiles are aligned to multiples of this, pixels of the plane, so that all are rounded alike."""


def read_scaled(
    region: Region, scale: float, level: YX, read: Callable[[Region], NDArray[Any]]
) -> NDArray[Any]:
    """Return a region of a plane (c, y, x) by area means over the pixels of a level.

    Values do not depend on the division of the plane into regions.

    Parameters
    ----------
    region
        Region in pixels of the plane.
    scale
        Side of the plane's pixels in pixels of the level, at least 1.
    level
        Size of the level (y, x), pixels.
    read
        Function that returns a region of the level, (c, y, x).
    """
    pixels: NDArray[Any] | None = None
    side = max(CUT_PX, int(READ_PX / scale) // CUT_PX * CUT_PX)
    top, left = (start // CUT_PX * CUT_PX for start in region.start)
    for tile in plan_tiles((region.stop[0] - top, region.stop[1] - left), (side, side), 0):
        begin = (tile.write.start[0] + top, tile.write.start[1] + left)
        stop = (tile.write.stop[0] + top, tile.write.stop[1] + left)
        found = _read_tile(Region(begin, stop), scale, level, read)
        start = (max(begin[0], region.start[0]), max(begin[1], region.start[1]))
        if pixels is None:
            pixels = np.empty((len(found), *region.shape), found.dtype)
        place = Region(
            (start[0] - region.start[0], start[1] - region.start[1]),
            (stop[0] - region.start[0], stop[1] - region.start[1]),
        )
        pixels[:, *place.slices] = found[:, start[0] - begin[0] :, start[1] - begin[1] :]
    if pixels is None:
        raise ValueError("a region has pixels")
    return pixels


def _read_tile(
    tile: Region, scale: float, level: YX, read: Callable[[Region], NDArray[Any]]
) -> NDArray[Any]:
    if scale == 1.0:
        return read(tile)
    box = [edge * scale for edge in (*tile.start, *tile.stop)]
    top, left = (math.floor(edge) for edge in box[:2])
    bottom, right = min(math.ceil(box[2]), level[0]), min(math.ceil(box[3]), level[1])
    found = read(Region((top, left), (bottom, right)))
    inside = (
        box[1] - left,
        box[0] - top,
        min(box[3] - left, right - left),
        min(box[2] - top, bottom - top),
    )
    size = (tile.shape[1], tile.shape[0])
    box_filter = Image.Resampling.BOX
    if found.shape[0] == 3 and found.dtype == np.uint8:
        colours = Image.fromarray(np.ascontiguousarray(np.moveaxis(found, 0, 2)))
        return np.moveaxis(np.asarray(colours.resize(size, box_filter, box=inside)), 2, 0)
    planes = [
        np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size, box_filter, box=inside))
        for plane in found
    ]
    scaled = np.stack(planes)
    return (np.rint(scaled) if found.dtype.kind in "iu" else scaled).astype(found.dtype)
