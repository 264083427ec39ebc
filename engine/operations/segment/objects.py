"""Objects of countable classes: result columns, merging across blocks, and the table of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.geometry import YX
from engine.kernels.segmentation.components import (
    Columns,
    add_pieces,
    diameter_px,
    eccentricity,
    label_components,
    merge_components,
    number_pixels,
)
from engine.operations.column_order import LAST_COLUMNS

PIECES = pa.struct(
    [
        ("first", pa.int64()),
        ("y", pa.float64()),
        ("x", pa.float64()),
        ("area_px", pa.int64()),
        ("yy", pa.float64()),
        ("xx", pa.float64()),
        ("yx", pa.float64()),
        ("touches_border", pa.bool_()),
    ]
)
RUNS = pa.struct([(name, pa.int32()) for name in ("side", "line", "start", "stop", "piece")])
"""See `engine.kernels.segmentation.components.Pieces`; in a block, ``piece`` is an index into its
list."""

TABLE = ("class_name", "object", "x", "y", "area_px", "area_um2", "equivalent_diameter_px",
         "equivalent_diameter_um", "eccentricity", "touches_border")  # fmt: skip
"""Columns of an object in the table of objects."""


def measure_pieces(
    labels: NDArray[np.uint8], countable: Sequence[bool], origin: YX, whole: YX
) -> dict[str, Any]:
    """Return, for each class, its number of objects (None if not counted) and its pieces.

    Parameters
    ----------
    labels
        (y, x) of an image or of a block.
    countable
        Whether each class is counted.
    origin, whole
        Position of the first pixel in the whole image, and the size of the whole image.
    """
    found = [
        label_components(labels == n, origin, whole) if counts else None
        for n, counts in enumerate(countable)
    ]
    return {
        "objects": [None if one is None else len(one.pieces["y"]) for one in found],
        "pieces": _listed([None if one is None else one.pieces for one in found], PIECES),
        "runs": _listed([None if one is None else one.runs for one in found], RUNS),
    }


def _listed(columns: Sequence[Columns | None], kind: pa.StructType) -> pa.ListArray:
    """Return lists of structs, one for each class; empty for classes that are not counted."""
    there = [one for one in columns if one is not None]
    first = kind.field(0).name
    sizes = [0 if one is None else len(one[first]) for one in columns]
    fields = [
        pa.array(np.concatenate([one[f.name] for one in there]) if there else [], f.type)
        for f in kind
    ]
    offsets = pa.array(np.concatenate(([0], np.cumsum(sizes))), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, fields=list(kind)))


@dataclass(frozen=True, eq=False)
class _Joined:
    """Objects of groups of rows: ordered by group, then by first pixel."""

    of_piece: NDArray[np.int64]  # row of each piece
    number: NDArray[np.int64]  # object of each piece, from 0
    objects: Columns  # in order
    group: NDArray[np.int64]  # group of each object


def _join(found: pa.Table, group: NDArray[np.int64]) -> _Joined:
    pieces, of_piece = _flat(found, "pieces")
    runs, of_run = _flat(found, "runs")
    # Convert piece numbers within a row to positions among all pieces.
    before = np.searchsorted(of_piece, np.arange(found.num_rows))
    runs["piece"] = runs["piece"] + before[of_run]
    owner = group[of_piece]
    number = merge_components(owner, pieces, runs)
    whole = add_pieces(number, pieces)
    of_object = np.zeros(len(whole["y"]), np.int64)
    of_object[number] = owner
    order = np.lexsort((whole["first"], of_object))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    columns = {name: column[order] for name, column in whole.items()}
    return _Joined(of_piece, rank[number], columns, of_object[order])


def join_pieces(
    found: pa.Table, group: NDArray[np.int64], groups: int
) -> tuple[pa.ListArray, NDArray[np.int64]]:
    """Return the objects of each group of rows as a list, merged across blocks, and their counts.

    Parameters
    ----------
    found
        Rows of results with ``pieces`` and ``runs``.
    group
        Group of each row (one image and class), from 0.
    groups
        Number of groups.
    """
    joined = _join(found, group)
    counts = np.bincount(joined.group, minlength=groups)
    fields = [pa.array(joined.objects[f.name], f.type) for f in PIECES]
    offsets = pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32())
    structs = pa.StructArray.from_arrays(fields, fields=list(PIECES))
    return pa.ListArray.from_arrays(offsets, structs), counts


def number_blocks(blocks: Sequence[pa.Table]) -> list[list[NDArray[np.int64]]]:
    """Return the object numbers of the pieces, for each block of one image and each class.

    They are the numbers in `objects_table`.

    Parameters
    ----------
    blocks
        Results of each block: a row for each class, with ``label``, ``pieces`` and ``runs``.
    """
    found = pa.concat_tables(blocks)
    joined = _join(found, found["label"].to_numpy().astype(np.int64))
    ends = np.searchsorted(joined.of_piece, np.arange(1, found.num_rows))
    rows = iter(np.split(joined.number + 1, ends))
    return [[next(rows) for _ in range(block.num_rows)] for block in blocks]


def number_labels(
    labels: NDArray[np.uint8],
    countable: Sequence[bool],
    numbers: Sequence[NDArray[np.int64]] | None = None,
) -> NDArray[np.uint32]:
    """Return (y, x): the number of each pixel's object, 0 for background.

    Parameters
    ----------
    labels
        (y, x) of an image or of a block.
    countable
        Whether each class is counted.
    numbers
        For a block, its entry from `number_blocks`; None for a whole image.

    Raises
    ------
    ValueError
        If the labels differ from those that the numbers were computed from.
    """
    objects = np.zeros(labels.shape, np.uint32)
    taken = 0
    for n in (n for n, counts in enumerate(countable) if counts):
        mine = number_pixels(labels == n, None if numbers is None else numbers[n], taken)
        taken = max(taken, int(mine.max(initial=0)))
        objects += mine  # classes do not overlap
    return objects


def _flat(found: pa.Table, name: str) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Return the structs of all rows' lists as columns, and the row of each struct."""
    lists = found[name].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], lists.type)
    structs = pc.list_flatten(lists)
    columns = {
        field.name: structs.field(n).to_numpy(zero_copy_only=False)
        for n, field in enumerate(structs.type)
    }
    return columns, pc.list_parent_indices(lists).to_numpy().astype(np.int64)


def objects_table(objects: pa.Table, described: Sequence[str]) -> pa.Table:
    """Return the table of objects: one row each, for all images and countable classes.

    Parameters
    ----------
    objects
        Rows of classes, with ``pieces``, and the descriptive columns of their images.
    described
        Names of the descriptive columns: some before an object's own, the others after them.
    """
    pieces, row = _flat(objects, "pieces")
    # Drop the lists first: else each object would get a copy of all objects of its image.
    left = objects.drop_columns(["pieces", "runs"]).take(pa.array(row))
    # Derive the pixel size from the class's area and pixels: results have no other spacing.
    pixels = left["pixels"].to_numpy().astype(float)
    areas = left["area_um2"].to_numpy(zero_copy_only=False).astype(float)
    pixel_um2 = np.divide(areas, pixels, out=np.full(len(row), np.nan), where=pixels > 0)
    image = left["_image"].to_numpy()  # ascending: objects are numbered within their image
    within = np.arange(1, len(row) + 1) - np.searchsorted(image, image)
    diameter = diameter_px(pieces["area_px"])
    own: Mapping[str, Any] = {
        "class_name": left["class_name"],
        "object": pa.array(within, pa.int64()),
        "x": pieces["x"],
        "y": pieces["y"],
        "area_px": pieces["area_px"],
        "area_um2": pa.array(pieces["area_px"] * pixel_um2, from_pandas=True),
        "equivalent_diameter_px": diameter,
        "equivalent_diameter_um": pa.array(diameter * np.sqrt(pixel_um2), from_pandas=True),
        "eccentricity": eccentricity(pieces),
        "touches_border": pieces["touches_border"],
    }
    last = [name for name in LAST_COLUMNS if name in described]
    first = [name for name in described if name not in last]
    columns = {name: left[name] for name in first} | {name: own[name] for name in TABLE}
    return pa.table({**columns, **{name: left[name] for name in last}})
