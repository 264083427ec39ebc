"""Objects as GeoJSON: their outlines from the label image, and the columns of a table.

Coordinates are pixels of the full resolution, x before y, with the corner of the first pixel at 0,
as QuPath has them; outlines follow the edges of pixels, so all are whole numbers and a polygon's
area is the number of its pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from engine.errors import NothingFound
from engine.geometry import YX, Region, plan_tiles
from engine.kernels.contours.geometry import holds_point, ring_area_px
from engine.kernels.contours.trace import trace_mask
from engine.operations.column_order import number_column
from engine.store.backend.base import Store
from engine.store.catalog.tables import read_images, read_shards
from engine.store.labels.images import files_by_path
from engine.store.pixels.layout import GIANT_SHARD_PX
from engine.store.pixels.stacks import StackReader, label_stack
from engine.store.results import read_key
from engine.store.tables import read_provenance

NOT_MEASURED = frozenset({"image_id", "orphaned"})
"""Numeric columns that are no measurement."""


@dataclass(frozen=True)
class LabelSource:
    """Label image of a table's objects, and the column with their numbers."""

    name: str
    column: str


def label_source(store: Store, table: str, columns: Sequence[str]) -> LabelSource:
    """Return the label image that has the objects of a table.

    Raises
    ------
    NothingFound
        If its rows are not objects of a label image.
    """
    origin = read_provenance(store, table) or {}
    name, key = str(origin.get("operation")), str(origin.get("key"))
    identity = read_key(store, name, int(origin.get("version", 0)), key) or {}
    reads = identity.get("upstream", {}).get("objects")
    number = number_column(columns)
    if number is not None and reads is not None and reads["operation"] == number:
        return LabelSource(f"{number}@{reads['key'][:8]}", number)
    if number is None or "image_id" not in columns:
        raise NothingFound(
            f"{table} has no outlines",
            "GeoJSON needs a table of objects with a label image, such as nuclei or measure.",
        )
    return LabelSource(f"{table.partition('@')[0]}@{key[:8]}", number)  # named like their table


def write_features(store: Store, table: str, rows: pa.Table, write: Any) -> int:
    """Write a FeatureCollection with a feature for each row; return their number.

    One image is in memory at a time, or a few blocks of a giant one.

    Parameters
    ----------
    write
        Function that takes bytes.

    Raises
    ------
    NothingFound, MissingObject, CorruptStore
    """
    source = label_source(store, table, rows.column_names)
    _, images = read_images(store)
    files = [row for row in read_shards(store) if row.stack.endswith(f"/labels/{source.name}")]
    if not files:
        raise NothingFound(
            f"{table} has no label image", "GeoJSON needs objects that an operation labelled."
        )
    stacks = {row.stack for row in files}
    reader = StackReader(store, files_by_path(store, files))
    rows = rows.sort_by("image_id")
    names = rows["image_id"].to_pylist()
    starts = [0, *(n for n, (a, b) in enumerate(pairwise(names), 1) if a != b), len(names)]
    images = images.filter(
        pc.is_in(images["image_id"], value_set=pa.array(sorted(set(names)), pa.string()))
    )
    places = {row["image_id"]: row for row in images.select(
        ["image_id", "stack", "t", "z", "height", "width"]).to_pylist()}  # fmt: skip
    write(b'{"type": "FeatureCollection", "features": [')
    count = 0
    for start, stop in pairwise(starts) if names else ():
        of_image = rows.slice(start, stop - start)
        place = places[names[start]]
        if label_stack(place["stack"], source.name) not in stacks:
            raise _older(table, names[start])
        for feature in _features(reader, source, place, of_image):
            if feature is None:
                raise _older(table, names[start])
            write(b",\n" if count else b"\n")
            write(json.dumps(feature, separators=(",", ":")).encode())
            count += 1
    write(b"\n]}\n")
    return count


def _older(table: str, image_id: str) -> NothingFound:
    return NothingFound(
        f"{table} is older than the labels of {image_id}",
        "The image changed: run the operation of the table first.",
    )


def _features(
    reader: StackReader, source: LabelSource, place: Mapping[str, Any], rows: pa.Table
) -> Iterator[dict[str, Any] | None]:
    """Yield the feature of each row; None for a row that is not of the label image."""
    columns = rows.to_pydict()
    row_of = {number: n for n, number in enumerate(columns[source.column])}
    measured = [f.name for f in rows.schema if _is_measurement(f)]
    for number, rings, corner in _outlines(reader, source.name, place, frozenset(row_of)):
        n = row_of.pop(number)
        if not _surrounds(rings, columns["y"][n] - corner[0], columns["x"][n] - corner[1]):
            yield None
        values = {name: columns[name][n] for name in measured}
        found = {"image_id": columns["image_id"][n], "number": number}
        yield {
            "type": "Feature",
            "geometry": geometry_of([ring + corner for ring in rings]),
            "properties": {
                "objectType": "detection",
                "name": f"{source.column} {number}",
                "classification": {"name": source.name.partition("@")[0]},
                "measurements": {
                    name: value for name, value in values.items()
                    if value is not None and math.isfinite(value)
                },
                "metadata": {name: str(value) for name, value in found.items()},
            },
        }  # fmt: skip

    if row_of:
        yield None


def _surrounds(rings: Sequence[NDArray[np.float64]], y: float, x: float) -> bool:
    """Return whether a point is in the bounding box of rings.

    The centre of an object is in its own; labels of later pixels have other objects of its number.
    """
    points = np.concatenate(rings)
    return bool((points.min(0) <= (y, x)).all() and ((y, x) <= points.max(0)).all())


def _is_measurement(field: pa.Field) -> bool:
    numeric = pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
    return numeric and field.name not in NOT_MEASURED


def _outlines(
    reader: StackReader, name: str, place: Mapping[str, Any], wanted: frozenset[int]
) -> Iterator[tuple[int, list[NDArray[np.float64]], NDArray[np.int64]]]:
    """Yield the number, rings and corner of each wanted object, by the tile of its first row."""
    stack = label_stack(place["stack"], name)
    shape = place["height"], place["width"]
    at = (place["t"], 0) if place["z"] is None else (place["t"], 0, place["z"])

    def read(region: Region) -> NDArray[Any]:
        return reader.read(stack, (*at, *region.slices))

    tiles = [tile.write for tile in plan_tiles(shape, (GIANT_SHARD_PX, GIANT_SHARD_PX), 0)]
    boxes = _boxes(read, tiles) if len(tiles) > 1 else {}
    for tile in tiles:
        labels, region = read(tile), tile
        if boxes:
            mine = [b for number, b in boxes.items() if number in wanted and _begins_in(b, tile)]
            if not mine:
                continue
            region = Region(tile.start, tuple(np.max([tile.stop, *(b.stop for b in mine)], 0)))
            region = Region(tuple(np.min([region.start, *(b.start for b in mine)], 0)), region.stop)
            labels = read(region)
        for number, box in enumerate(find_objects(labels), 1):
            if box is None or number not in wanted:
                continue
            if boxes and not _begins_in(boxes[number], tile):
                continue
            corner = np.array([s.start + o for s, o in zip(box, region.start, strict=True)])
            yield number, trace_mask(labels[box] == number), corner


def _boxes(read: Any, tiles: Sequence[Region]) -> dict[int, Region]:
    """Return the bounding box of each object of a giant image."""
    found: dict[int, Region] = {}
    for tile in tiles:
        for number, box in enumerate(find_objects(read(tile)), 1):
            if box is None:
                continue
            y, x = tile.start
            start: YX = (box[0].start + y, box[1].start + x)
            stop: YX = (box[0].stop + y, box[1].stop + x)
            if (known := found.get(number)) is not None:
                start = min(start[0], known.start[0]), min(start[1], known.start[1])
                stop = max(stop[0], known.stop[0]), max(stop[1], known.stop[1])
            found[number] = Region(start, stop)
    return found


def _begins_in(box: Region, tile: Region) -> bool:
    return all(a <= s < b for a, s, b in zip(tile.start, box.start, tile.stop, strict=True))


def geometry_of(rings: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    """Return rings (y, x; corners of pixels) as a Polygon or MultiPolygon with holes.

    Examples
    --------
    >>> geometry_of([np.array([[-0.5, -0.5], [-0.5, 1.5], [0.5, 1.5], [0.5, -0.5]])])
    {'type': 'Polygon', 'coordinates': [[[0, 0], [2, 0], [2, 1], [0, 1], [0, 0]]]}
    """
    loops = [loop for ring in rings for loop in _simple_loops(ring)]
    outer = [loop for loop in loops if not _is_hole(loop)]
    polygons = [[_closed(ring)] for ring in outer]
    for hole in (loop for loop in loops if _is_hole(loop)):
        y, x = min(map(tuple, hole.tolist()))  # its first corner; the pixel there is in the hole
        around = [n for n, ring in enumerate(outer) if holds_point([ring], y + 0.5, x + 0.5)]
        owner = min(around, key=lambda n: ring_area_px(outer[n]))
        polygons[owner].append(_closed(hole))
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _simple_loops(ring: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield the loops of a ring without a point that it passes twice.

    A ring touches itself where pixels of the background share only a corner. Simple features
    (OGC 06-103r4, 6.1.11) forbid this in a ring, and allow holes to touch other rings in a point.
    """
    path: list[tuple[float, float]] = []
    place: dict[tuple[float, float], int] = {}
    for point in map(tuple, ring.tolist()):
        begin = place.get(point)
        if begin is not None:
            loop = path[begin:]
            yield np.array(loop)
            for passed in loop:
                del place[passed]
            del path[begin:]
        place[point] = len(path)
        path.append(point)
    yield np.array(path)


def _is_hole(ring: NDArray[np.float64]) -> bool:
    """Return whether a ring runs anticlockwise on the screen, as those around holes do."""
    y, x = ring[:, 0], ring[:, 1]
    return bool(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) < 0)


def _closed(ring: NDArray[np.float64]) -> list[list[int]]:
    points = (ring[:, ::-1] + 0.5).round().astype(int).tolist()
    return [*points, points[0]]
