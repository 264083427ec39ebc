"""Results of other operations as inputs: their state by image, and their objects on a worker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.errors import CorruptStore, MissingObject
from engine.geometry import Region
from engine.kernels.segmentation.instances import begin_in
from engine.operations.base import Image, ImageFailed, Operation
from engine.runs.input_digests import image_inputs
from engine.runs.plan import PlanItem
from engine.runs.regions import region_of
from engine.store.backend.base import Store
from engine.store.delta.ledger import Ledger
from engine.store.delta.parts import Part
from engine.store.labels.images import read_label_state
from engine.store.pixels.layout import count_blocks
from engine.store.pixels.stacks import StackReader, label_stack
from engine.store.results import DONE, FAILED, read_there, results_ledger

UPSTREAM = "upstream"
"""Column of catalog rows: JSON by parameter of the inputs of the results that an operation reads,
after `FAILED_MARK` if they failed; null if there are none yet."""

FAILED_MARK = "failed "

Parts = Mapping[str, tuple[Part, ...]]
"""Parts with the results that an operation reads, by parameter."""


def label_name_of(operation: Operation) -> str | None:
    """Return the name of the label images that others read: objects, or else classes."""
    if operation.has_object_labels:
        return operation.object_image.name
    return operation.label_name if operation.has_labels else None


def upstream_states(store: Store, operation: Operation, images: pa.Table) -> list[str | None]:
    """Return for each image the inputs of its result, marked if it failed; None without one.

    A giant image has a result once all its blocks have one, and an image of an operation that makes
    label images once they are there.

    Parameters
    ----------
    images
        Catalog rows with the inputs of the operation.
    """
    inputs = image_inputs(operation, images)
    ledger = _ledger(store, operation)
    parts = ledger.snapshot().of_key(operation.key)
    rows, _ = read_there(ledger, parts, ["image_id", "inputs", "status"])
    results: Counter[tuple[str, str]] = Counter()
    failed = set()
    columns = (rows[name].to_pylist() for name in ("image_id", "inputs", "status"))
    for image_id, of, status in zip(*columns, strict=True):
        results[image_id, of] += 1
        if status == FAILED:
            failed.add((image_id, of))
    labelled = _labelled(store, operation)
    names = ("image_id", "giant", "height", "width", "stack", "shard")
    places = zip(*(images[name].to_pylist() for name in names), strict=True)
    found: list[str | None] = []
    for (image_id, giant, height, width, stack, shard), of in zip(places, inputs, strict=True):
        blocks = range(count_blocks(height, width)) if giant else ()
        if results[image_id, of] < max(1, len(blocks)):
            found.append(None)
        elif (image_id, of) in failed:
            found.append(FAILED_MARK + of)
        else:
            shards = [(stack, block) for block in blocks or (shard,)]
            found.append(of if labelled is None or labelled.issuperset(shards) else None)
    return found


def _ledger(store: Store, operation: Operation) -> Ledger:
    return results_ledger(store, operation.name, operation.version, operation.object_schema)


def _labelled(store: Store, operation: Operation) -> frozenset[tuple[str, int]] | None:
    """Return the places of all whole label images; None for an operation without any."""
    name = label_name_of(operation)
    if name is None:
        return None
    return read_label_state(store, lambda _: (name,)).whole


class UpstreamResults:
    """Results that an operation reads, of the images of a unit, on a worker.

    Parameters
    ----------
    parts
        Parts that may hold the results.
    reader
        Reader of pixels and of label images.
    """

    def __init__(
        self, store: Store, operation: Operation, parts: Parts, reader: StackReader
    ) -> None:
        self._store = store
        self._operation = operation
        self._parts = parts
        self._reader = reader
        self._rows: dict[str, pa.Table] = {}
        self._last: tuple[PlanItem, dict[str, pa.Table]] | None = None

    def read_region(self, item: PlanItem) -> Region:
        """Return the region to read for an item, with the whole objects that it measures.

        Raises
        ------
        ImageFailed
            ``upstream_failed``, ``upstream_changed``
        """
        operation = self._operation
        core, _ = region_of(item)
        if item.block is None:
            return core
        halo = operation.halo_of(item.spacing_um)
        if operation.whole_objects is None:
            return core.grow(halo, item.shape[1:])
        objects = self._objects(item)[operation.whole_objects]
        inside = begin_in(objects["first"].to_numpy(), item.shape[2], core)
        top, left, bottom, right = (
            objects[side].to_numpy()[inside] for side in ("top", "left", "bottom", "right")
        )
        box = Region(
            (int(top.min(initial=core.start[0])), int(left.min(initial=core.start[1]))),
            (int(bottom.max(initial=core.stop[0])), int(right.max(initial=core.stop[1]))),
        )
        return box.grow(halo, item.shape[1:])

    def attach(self, item: PlanItem, image: Image) -> Image:
        """Return an image with the results of other operations.

        Raises
        ------
        ImageFailed
            ``upstream_failed``, ``upstream_changed``
        """
        stop = (image.origin[0] + image.pixels.shape[1], image.origin[1] + image.pixels.shape[2])
        names = {parameter: one.name for parameter, one in self._operation.upstream.items()}
        objects = self._objects(item)
        labels = self._labels(item, Region(image.origin, stop))
        return replace(
            image,
            labels={names[parameter]: found for parameter, found in labels.items()},
            objects={names[parameter]: found for parameter, found in objects.items()},
        )

    def _objects(self, item: PlanItem) -> dict[str, pa.Table]:
        """Return the objects of an image by parameter, with their numbers; see `Image.objects`.

        Raises
        ------
        ImageFailed
            ``upstream_failed: <operation>`` if an operation failed on the image.
            ``upstream_changed`` if its results changed after planning; the next run uses the new
            ones.
        """
        if self._last is not None and self._last[0] == item:
            return self._last[1]
        wanted = json.loads(item.upstream or "{}")
        found = {}
        for parameter, one in self._operation.upstream.items():
            inputs = str(wanted.get(parameter))
            if inputs.startswith(FAILED_MARK):
                raise ImageFailed(f"upstream_failed: {one.name}")
            rows = self._read(parameter)
            mine = pc.and_(
                pc.equal(rows["image_id"], item.image_ids[0]), pc.equal(rows["inputs"], inputs)
            )
            rows = rows.filter(pc.and_(mine, pc.equal(rows["status"], DONE)))
            if rows.num_rows < (1 if item.block is None else count_blocks(*item.shape[1:])):
                raise ImageFailed("upstream_changed")
            found[parameter] = numbered_objects(one, rows.sort_by("block"))
        self._last = item, found  # the region to read needs them before the image does
        return found

    def _labels(self, item: PlanItem, region: Region) -> dict[str, NDArray[Any]]:
        """Return the label images (y, x) of a region by parameter.

        Raises
        ------
        ImageFailed
            ``upstream_changed`` if they are missing or damaged: the next run of that operation
            makes them again.
        """
        found = {}
        for parameter, one in self._operation.upstream.items():
            if (name := label_name_of(one)) is None:
                continue
            place = (item.t, 0) if item.z is None else (item.t, 0, item.z)
            try:
                labels = self._reader.read(label_stack(item.stack, name), (*place, *region.slices))
            except (MissingObject, CorruptStore):
                raise ImageFailed("upstream_changed") from None
            found[parameter] = labels
        return found

    def _read(self, parameter: str) -> pa.Table:
        if parameter not in self._rows:
            one = self._operation.upstream[parameter]
            columns = ["image_id", "inputs", "block", "status", "objects"]
            self._rows[parameter] = read_there(
                _ledger(self._store, one), self._parts[parameter], columns
            )[0]
        return self._rows[parameter]


def numbered_objects(operation: Operation, rows: pa.Table) -> pa.Table:
    """Return the objects of one image as its table lists them, with their numbers first.

    Parameters
    ----------
    rows
        Results of the image: one row, or one for each block.
    """
    lists = rows["objects"].combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks)
    structs = pc.list_flatten(lists)
    schema = operation.object_schema
    listed = pa.table([structs.field(i) for i in range(len(schema))], schema)
    merged = operation.merge_objects(np.zeros(listed.num_rows, np.int64), listed)
    merged = merged.select(schema.names)
    if rows.num_rows > 1 and set(operation.order_columns) <= set(schema.names):
        merged = merged.sort_by([(name, "ascending") for name in operation.order_columns])
    if operation.object_name in schema.names:
        return merged
    numbers = pa.array(np.arange(1, merged.num_rows + 1))
    return merged.add_column(0, operation.object_name, numbers)


class PartsOf:
    """Select the parts with the results that an operation reads; snapshots are taken once."""

    def __init__(self, store: Store, operation: Operation) -> None:
        self._parts: dict[str, Sequence[Part]] = {
            parameter: _ledger(store, one).snapshot().of_key(one.key)
            for parameter, one in operation.upstream.items()
        }

    def __call__(self, image_ids: Iterable[str]) -> dict[str, tuple[Part, ...]]:
        """Return the parts that may hold the results of some images, by parameter."""
        names = sorted(image_ids)
        low, high = (names[0], names[-1]) if names else ("", "")
        return {
            parameter: tuple(p for p in parts if p.low <= high and p.high >= low)
            for parameter, parts in self._parts.items()
        }


def stacks_read(operation: Operation, stack: str) -> Iterator[str]:
    """Yield the label images that an operation reads beside a stack."""
    for one in operation.upstream.values():
        if (name := label_name_of(one)) is not None:
            yield label_stack(stack, name)
