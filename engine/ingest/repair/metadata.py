"""Damaged metadata of stacks, made again from the catalog.

The metadata of a stack follow from the images in it. A file that is made again is published only if
its digest is the one in the catalog, so a wrong guess changes nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from engine.store.arrow import is_any
from engine.store.backend.base import Store
from engine.store.backend.write_check import check_writable
from engine.store.catalog.derived import CHANNEL_NAMES
from engine.store.catalog.tables import ImageRow, ShardRow, images_ledger, read_images
from engine.store.config import Limits, read_config
from engine.store.digests import digest_bytes
from engine.store.pixels.channel_display import read_display
from engine.store.pixels.layout import (
    IncomingPlane,
    SeriesGeometry,
    StackLayout,
    plan_giant,
    plan_series,
    plan_stack,
)
from engine.store.pixels.stacks import stack_metadata
from engine.store.rows import rows_of

MOST_LEFT_OUT = 64
"""Maximum number of planes at the end of a stack that may have failed, and have no place."""

_UM_PER_MM = 1000.0


def restore_metadata(store: Store, damaged: Sequence[ShardRow]) -> list[ShardRow]:
    """Make damaged metadata files again, and return the rows of those that are whole now.

    Raises
    ------
    StoreFull, StoreReadOnly
    """
    if not damaged:
        return []
    check_writable(store)
    by_stack: dict[str, dict[str, ShardRow]] = defaultdict(dict)
    for row in damaged:
        by_stack[row.stack][row.path] = row
    snapshot, images = read_images(store)
    images = images.filter(is_any(images["stack"], [*by_stack]))
    members: dict[str, list[ImageRow]] = defaultdict(list)
    for image in rows_of(images, ImageRow):
        if image.t is not None and image.channels is not None:
            members[str(image.stack)].append(image)
    limits = read_config(store).limits
    names = _names_ever(images_ledger(store).read(snapshot.parts, ["stack", "header"]), by_stack)
    whole = []
    for stack, due in by_stack.items():
        for layout in _layouts(stack, members[stack], names[stack], limits):
            for path, data in stack_metadata(store, layout).items():
                if path in due and digest_bytes(data) == due[path].digest:
                    store.replace(path, data)
                    whole.append(due.pop(path))
            if not due:
                break
    return whole


def _names_ever(
    versions: pa.Table, stacks: Collection[str]
) -> defaultdict[str, set[tuple[str, ...]]]:
    """Return the names that channels of the images of each stack have, or had earlier."""
    versions = versions.filter(is_any(versions["stack"], stacks))
    found: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for row in versions.to_pylist():
        found[row["stack"]].add(_names_in(dict(row["header"] or ())))
    return found


def _names_in(facts: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(json.loads(facts.get(CHANNEL_NAMES, "[]")))


def _layouts(
    stack: str, images: list[ImageRow], names: Collection[tuple[str, ...]], limits: Limits
) -> Iterator[StackLayout]:
    """Yield possible layouts of a stack, the likeliest first."""
    if not images:
        return
    images.sort(key=lambda image: (image.t, image.z or 0))
    planes = [_plane_of(image) for image in images]
    display = read_display(images[0].header)
    for layout in _layouts_of(stack, images, planes, limits):
        yield replace(layout, display=display)
    if not display:  # of an earlier version, or without names; its images may have others now
        for earlier in sorted({*names} - {planes[0].channel_names}):
            renamed = [replace(plane, channel_names=earlier) for plane in planes]
            yield from _layouts_of(stack, images, renamed, limits)


def _layouts_of(
    stack: str, images: Sequence[ImageRow], planes: list[IncomingPlane], limits: Limits
) -> Iterator[StackLayout]:
    if images[0].giant:
        yield plan_giant(stack, planes[0])
    elif images[0].z is not None:
        for lattice in _lattices(images):
            yield plan_series(stack, [replace(plane, lattice=lattice) for plane in planes], limits)
    else:
        last = max(image.t or 0 for image in images)
        gaps = last + 1 - len(planes)
        for more in range(gaps, gaps + MOST_LEFT_OUT):
            yield plan_stack(stack, [*planes, *planes[:1] * more], limits)


def _plane_of(image: ImageRow) -> IncomingPlane:
    y, x = image.spacing_y_um, image.spacing_x_um
    return IncomingPlane(
        image.source,
        "",
        (image.channels or 0, image.height or 0, image.width or 0),
        str(image.dtype),
        None if y is None or x is None else (y, x),
        place=None if image.z is None else (image.t or 0, image.z),
        channel_names=_names_in(image.header),
    )


def _lattices(images: Sequence[ImageRow]) -> Iterator[SeriesGeometry | None]:
    """Yield possible geometries of a series: of its header, of its file, or none."""
    distance, orientation = images[0].spacing_z_um, images[0].orientation
    slices: dict[int | None, list[float]] = defaultdict(list)
    for image in images:
        if image.time_ms is not None:
            slices[image.z].append(image.time_ms)
    steps = np.diff(np.unique(max(slices.values(), key=len, default=[])))
    step = float(np.median(steps)) if len(steps) else None
    of_file = SeriesGeometry(step, distance)
    positions = [image.position_mm for image in images if image.position_mm is not None]
    if orientation is not None and len(positions) == len(images):
        yield replace(of_file, **_placed(positions, orientation))
    yield of_file
    yield None


def _placed(
    positions: Iterable[tuple[float, ...]], orientation: tuple[float, ...]
) -> dict[str, Any]:
    """Return the place of a series in the patient, as `assign_series_positions` computes it."""
    known = list(positions)
    row, column = np.asarray(orientation[:3], float), np.asarray(orientation[3:], float)
    where = np.asarray(known, float) @ np.stack([np.cross(row, column), column, row]).T
    lowest = int(where[:, 0].argmin())
    return {
        "origin_um": tuple(map(float, where[lowest] * _UM_PER_MM)),
        "position_mm": known[lowest],
        "orientation": orientation,
    }
