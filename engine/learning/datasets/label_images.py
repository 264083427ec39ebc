"""Masks from label images on the grid of a stack, in OME-Zarr (NGFF 0.5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from engine.errors import NothingFound
from engine.geometry import Region
from engine.learning.datasets.masks import (
    Labels,
    Masks,
    NoMask,
    Plane,
    plane_of,
    planes_of,
    region_of,
)
from engine.store.backend.base import Store
from engine.store.catalog.tables import ShardRow, read_shards
from engine.store.digests import digest_bytes, digest_of, digest_plane
from engine.store.pixels.read_planes import read_planes
from engine.store.pixels.stacks import StackReader, stack_path


@dataclass(frozen=True)
class LabelImages:
    """Masks from label images stored with the pixels, ``pixels/<stack>.zarr/labels/<name>``.

    Parameters
    ----------
    name
        Name of the label image. Images have a mask if the catalog lists their labels; for a label
        image made by another program, all images of its stack.
    names
        Names of the labels.
    """

    name: str
    names: Mapping[int, str] = field(default_factory=dict)

    def open(self, store: Store, images: pa.Table) -> Masks:
        """Find the stacks with a label image of this name; see `MaskSource.open`.

        Raises
        ------
        NothingFound
            If no stack has one.
        NoMask
            If a label image does not match its stack's grid, or holds other data than classes.
        CorruptStore, MissingObject
        """
        planes = planes_of(images)
        level = f"labels/{self.name}/0"
        stacks = sorted({plane.stack for plane in planes.values()})
        with_labels = [
            s for s in stacks if store.size(f"{stack_path(s)}/{level}/zarr.json") is not None
        ]
        if not with_labels:
            raise NothingFound(
                f"No stack of {store.url} has a label image {self.name!r}",
                f"It would be at {stack_path('<stack>')}/{level}",
            )
        rows = _rows(store, with_labels)
        known = {s for s in with_labels if f"{stack_path(s)}/{level}/zarr.json" in rows}
        for stack in {*with_labels} - known:  # made by another program: used as it is
            found = _found(store, stack, f"{stack_path(stack)}/{level}")
            rows |= {row.path: row for row in found}
        reader = StackReader(store, rows)
        sides = {stack: _check(reader, stack, level) for stack in with_labels}

        def labelled(plane: Plane) -> bool:
            if plane.stack not in known:
                return plane.stack in sides
            side = sides[plane.stack]
            depth = () if plane.z is None else (plane.z // side[2],)
            key = "/".join(map(str, (plane.t // side[0], 0, *depth, 0, 0)))
            return f"{stack_path(plane.stack)}/{level}/c/{key}" in rows

        kept = tuple(i for i, plane in sorted(planes.items()) if labelled(plane))
        return _StoredLabels(reader, level, self.names, planes, kept)


def _rows(store: Store, stacks: Sequence[str]) -> dict[str, ShardRow]:
    """Return the catalog's rows of some stacks and of their label images, by path."""
    wanted, rows = {*stacks}, dict[str, ShardRow]()
    for row in read_shards(store):
        if row.stack.partition(".zarr/")[0] not in wanted:
            continue
        # While a shard of labels is replaced, the catalog lists its old and its new version.
        if row.path not in rows or store.size(row.path) == row.size:
            rows[row.path] = row
    return rows


def _found(store: Store, stack: str, base: str) -> list[ShardRow]:
    """Return rows of an array's files; a missing shard can't be distinguished from a blank one."""
    data = store.read(f"{base}/zarr.json")
    rows = [ShardRow(f"{base}/zarr.json", stack, 0, -1, digest_bytes(data), len(data), -1)]
    for entry in store.list(f"{base}/c"):
        rows.append(ShardRow(entry.path, stack, 0, -1, "", entry.size, 1))
    return rows


def _check(reader: StackReader, stack: str, level: str) -> tuple[int, ...]:
    """Return the shape of a label image's shards, or refuse one on a different grid."""
    pixels, labels = reader.array(stack), reader.array(stack, level)
    where = f"{stack_path(stack)}/{level}"
    due = (pixels.shape[0], 1, *pixels.shape[2:])
    if labels.shape != due:
        raise NoMask(where, f"has the shape {labels.shape}, but its stack asks for {due}")
    if labels.dtype != np.uint8:
        raise NoMask(where, f"holds {labels.dtype}; classes are uint8 (objects can't be masks)")
    return labels.shards or labels.chunks


class _StoredLabels:
    def __init__(
        self,
        reader: StackReader,
        level: str,
        names: Mapping[int, str],
        planes: Mapping[str, Plane],
        image_ids: tuple[str, ...],
    ) -> None:
        self._reader = reader
        self._level = level
        self._planes = planes
        self._known = frozenset(image_ids)
        self.names = dict(names)
        self.image_ids: Sequence[str] = image_ids

    def lacking(self, image_id: str) -> str:
        return "no_mask"

    def digest(self, image_id: str) -> str:
        return digest_of(["labels", digest_plane(self.read(image_id)[None])])

    def read(self, image_id: str, region: Region | None = None) -> Labels:
        plane = self._of(image_id)
        y, x = region_of(image_id, plane.shape, region).slices
        place = (plane.t, 0, y, x) if plane.z is None else (plane.t, 0, plane.z, y, x)
        return self._reader.read(plane.stack, place, self._level)

    def read_many(self, image_ids: Sequence[str]) -> Iterator[Labels]:
        planes = [self._of(image_id) for image_id in image_ids]
        places = list(dict.fromkeys((plane.t, plane.z) for plane in planes))
        read = read_planes(self._reader, planes[0].stack, places, self._level)
        found = {place: labels[0].copy() for place, labels in read}
        for plane in planes:
            yield found[plane.t, plane.z][Region((0, 0), plane.shape).slices]

    def _of(self, image_id: str) -> Plane:
        plane = plane_of(self._planes, image_id)
        if image_id not in self._known:
            raise NoMask(image_id, f"there is no {self._level} of it")
        return plane
