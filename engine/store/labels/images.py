"""Label images: a class or object number for each pixel of a stack (OME-Zarr 0.5, ``labels/``).

A label image lies on the grid of its stack: it has the positions and levels of the stack, one
channel, and as many shards. So the task that computes the images of a shard also owns the shard of
their labels. In the catalog it is a stack named by `label_stack`, and `StackReader` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from engine.errors import CorruptStore
from engine.store.backend.base import Store
from engine.store.catalog.tables import ShardRow, shards_ledger
from engine.store.digests import digest_bytes
from engine.store.pixels.stacks import LevelPlan, create_image, label_stack, stack_path
from engine.store.rows import rows_of

LABELS = ".zarr/labels/"
"""Substring that distinguishes the catalog's names of label images from those of stacks."""


BLOCKS = "_blocks@"
"""Substring of the names of label images of blocks, from which those of objects are made; no index
lists them."""


@dataclass(frozen=True, slots=True)
class LabelClass:
    """Meaning of a value of a label image. ``colour`` is written as ``#rrggbb``."""

    value: int
    name: str
    colour: str

    @property
    def rgba(self) -> list[int]:
        """Colour, 0 to 255; the background (0) is transparent."""
        return [*bytes.fromhex(self.colour[1:]), 255 if self.value else 0]


@dataclass(frozen=True, slots=True)
class LabelImage:
    """Label image of stacks: of classes (uint8), or of numbered objects (uint32)."""

    name: str
    classes: tuple[LabelClass, ...] = ()
    dtype: str = "uint8"


@dataclass(frozen=True, slots=True)
class LabelState:
    """State of stored label images.

    ``whole`` are the shards (stack, shard) with all labels as committed, ``torn`` those with
    damaged or missing files, and ``damaged`` the paths of these files. ``undescribed`` are the
    label images (stack, name) with damaged or missing metadata, or in stacks without an index of
    all label images.
    """

    whole: frozenset[tuple[str, int]] = frozenset()
    torn: frozenset[tuple[str, int]] = frozenset()
    damaged: frozenset[str] = frozenset()
    undescribed: frozenset[tuple[str, str]] = frozenset()


def is_label(stack: str) -> bool:
    """Return True if a name in the catalog is that of a label image."""
    return LABELS in stack


def image_stack(stack: str) -> str:
    """Return the stack of a label image."""
    return stack.split(LABELS)[0]


def create_label_image(
    store: Store,
    stack: str,
    image: LabelImage,
    files: Mapping[str, ShardRow],
) -> list[ShardRow]:
    """Write the metadata of a label image, and return their rows for the catalog.

    Parameters
    ----------
    stack
        Stack of the label image.
    files
        Catalog rows by path, at least of the stack's metadata.

    Raises
    ------
    MissingObject, CorruptStore
        If the stack's own metadata differ from the catalog.
    Conflict
        If different metadata exist under this name.
    """
    ome = _read_checked(store, f"{stack_path(stack)}/zarr.json", files)["attributes"]["ome"]
    pixels = ome["multiscales"][0]
    levels = []
    for number, _ in enumerate(pixels["datasets"]):
        path = f"{stack_path(stack)}/{number}/zarr.json"
        levels.append(
            _level(number, _read_checked(store, path, files), len(pixels["datasets"]) > 1)
        )
    datasets = [
        {**dataset, "coordinateTransformations": [
            {key: [1.0 if axis == 1 else value for axis, value in enumerate(values)]
             if key == "scale" else values for key, values in transform.items()}
            for transform in dataset["coordinateTransformations"]
        ]}
        for dataset in pixels["datasets"]
    ]  # fmt: skip
    multiscale = {"name": image.name, "axes": pixels["axes"], "datasets": datasets}
    if len(levels) > 1:
        multiscale["type"] = "nearest"
    label: dict[str, Any] = {"source": {"image": "../../"}}
    if image.classes:  # viewers choose the colours of objects
        label["colors"] = [{"label-value": c.value, "rgba": c.rgba} for c in image.classes]
        label["properties"] = [{"label-value": c.value, "name": c.name} for c in image.classes]
    attributes = {"ome": {"version": "0.5", "multiscales": [multiscale], "image-label": label}}
    return create_image(store, label_stack(stack, image.name), levels, image.dtype, attributes)


def _level(number: int, metadata: Mapping[str, Any], pyramid: bool) -> LevelPlan:
    """Return the array of one level: one channel, and in a pyramid shards that shrink with it.

    So a block of a giant image owns one shard of each level, and no level waits for another task.
    """
    shape = metadata["shape"]
    sides = (
        metadata["chunk_grid"]["configuration"]["chunk_shape"],
        metadata["codecs"][0]["configuration"]["chunk_shape"],
    )
    shard, chunk = (
        (side[0], 1, *side[2:-2], *(max(1, s >> number if pyramid else s) for s in side[-2:]))
        for side in sides
    )
    return LevelPlan((shape[0], 1, *shape[2:]), shard, chunk)


def _read_checked(store: Store, path: str, files: Mapping[str, ShardRow]) -> dict[str, Any]:
    row = files.get(path)
    if row is None:
        raise CorruptStore(path, "is not in the catalog")
    data = store.read(path)
    if digest_bytes(data) != row.digest:
        raise CorruptStore(path, "its bytes do not match the catalog's digest")
    return dict(json.loads(data))


# the index of a stack's label images, for viewers


def index_path(stack: str) -> str:
    """Return the path of the group that lists a stack's label images."""
    return f"{stack_path(stack)}/labels/zarr.json"


def index_bytes(names: Iterable[str]) -> bytes:
    """Return the group's metadata, equal for equal names."""
    ome = {"version": "0.5", "labels": sorted({name for name in names if BLOCKS not in name})}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}
    return (json.dumps(group, indent=2) + "\n").encode()


def names_in_index(data: bytes) -> tuple[str, ...] | None:
    """Return the names in an index, or None if the engine would write it otherwise."""
    try:
        names = tuple(map(str, json.loads(data)["attributes"]["ome"]["labels"]))
    except (ValueError, KeyError, TypeError):
        return None
    return names if index_bytes(names) == data else None


def note_index(store: Store, stack: str, names: Iterable[str]) -> None:
    """Add names to a stack's index; replace a damaged index by one of these names."""
    mine = set(names)

    def change(old: bytes | None) -> bytes | None:
        new = index_bytes(mine | set(names_in_index(old) or ()) if old else mine)
        return None if new == old else new

    store.update(index_path(stack), change)


# reading


def files_by_path(store: Store, rows: Iterable[ShardRow]) -> dict[str, ShardRow]:
    """Return the catalog's rows by path, for each file the row of its current state.

    While a shard of labels is replaced, the catalog holds rows of its old and new state.
    """
    found: dict[str, ShardRow] = {}
    for row in rows:
        other = found.get(row.path)
        if other is None or store.size(row.path) == row.size:
            found[row.path] = row
    return found


def _label_rows(store: Store) -> list[ShardRow]:
    """Return the catalog's rows of all label images."""
    ledger = shards_ledger(store)
    rows = ledger.read(ledger.snapshot().parts)
    return list(rows_of(rows.filter(pc.match_substring(rows["stack"], LABELS)), ShardRow))


def is_index_short(size: int | None, names: Iterable[str]) -> bool:
    """Return whether an index of this size is missing, or too short for these names."""
    return size is None or size < len(index_bytes(names))


def read_label_state(store: Store, names: Callable[[str], Collection[str]]) -> LabelState:
    """Return the state of label images by their files' sizes, with one listing per stack.

    Parameters
    ----------
    names
        Function from a stack to the label images that it must have; a shard is whole if all do.
    """
    every = _label_rows(store)
    places = [row.stack.partition(LABELS) for row in every]
    rows = [r for r, (stack, _, name) in zip(every, places, strict=True) if name in names(stack)]
    sizes = {
        entry.path: entry.size
        for stack in sorted({image_stack(row.stack) for row in rows})
        for entry in store.list(index_path(stack).removesuffix("zarr.json"))
    }
    listed: dict[str, set[str]] = {}
    for row, (stack, _, name) in zip(every, places, strict=True):
        if row.shard < 0:
            listed.setdefault(stack, set()).add(name)
    short = {s for s, known in listed.items() if is_index_short(sizes.get(index_path(s)), known)}
    undescribed = {
        (image_stack(row.stack), row.stack.partition(LABELS)[2])
        for row in rows
        if row.shard < 0 and (sizes.get(row.path) != row.size or image_stack(row.stack) in short)
    }
    levels: dict[str, int] = {}  # by label image
    named: dict[tuple[str, int], dict[str, set[int]]] = {}
    for row in rows:
        if row.shard < 0:
            levels[row.stack] = max(levels.get(row.stack, 0), row.level + 1)
        else:
            place = image_stack(row.stack), row.shard
            named.setdefault(place, {}).setdefault(row.path, set()).add(row.size)

    def due(stack: str) -> int:
        return sum(levels.get(label_stack(stack, name), 1) for name in names(stack))

    damaged = {
        path
        for paths in named.values()
        for path, known in paths.items()
        if sizes.get(path) not in known
    }
    whole = frozenset(
        place
        for place, paths in named.items()
        if len(paths) == due(place[0]) and not damaged & set(paths)
    )
    torn = frozenset(place for place, paths in named.items() if damaged & set(paths))
    return LabelState(whole, torn, frozenset(damaged), frozenset(undescribed))
