"""Plan of a run: images to compute with reasons, from the catalog and the results ledger.

A plan is pure data, independent of store and scheduler: it can be printed, counted and tested
without either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import UsageError
from engine.operations.array_metadata import named
from engine.operations.base import Operation
from engine.runs.causes import REASONS_TO_COMPUTE, REASONS_TO_SKIP, changed_part
from engine.runs.input_digests import image_inputs
from engine.runs.plan_rows import (
    KnownResults,
    Place,
    PlannedLabels,
    PlanRow,
    decide,
    plan_rows,
)
from engine.runs.previous_key import expand_identity
from engine.runs.selection import ImageCondition, select_images
from engine.store.arrow import is_any
from engine.store.catalog.tables import FAILED, ORPHANED
from engine.store.delta.parts import Part
from engine.store.labels.images import LabelState
from engine.store.pixels.layout import GIANT_SHARD_PX

UNIT_IMAGES = 128
"""Maximum images per unit: enough to make the milliseconds per task and part negligible."""

UNIT_BYTES = 64 * 1024**2
"""Maximum decoded pixels per unit, bytes. A single larger image is a unit of its own."""

UNITS_A_SLOT = 6
"""Minimum units per slot, given enough images, to balance the load."""


class PlanItem(NamedTuple):
    """One image, or one block of a giant image, to compute once for all its image_ids.

    ``image_ids`` are all images with these inputs; ``block`` is the shard's index, or None;
    ``fields`` and ``channel_names`` are those of `Image`, for an operation that reads them. A
    tuple, since all images of a run travel to workers as such: a frozen dataclass takes six times
    as long to pickle.
    """

    image_ids: tuple[str, ...]
    inputs: str
    stack: str
    shard: int
    t: int
    z: int | None
    shape: tuple[int, int, int]
    dtype: str
    noise_sd: tuple[float, ...]
    spacing_um: tuple[float, float] | None
    source: str
    block: int | None = None
    rescale: tuple[float, float] | None = None
    annotation: str | None = None
    fields: Mapping[str, str] = {}
    upstream: str | None = None
    channel_names: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Decoded size of the pixels read, bytes."""
        channels, height, width = self.shape
        if self.block is not None:
            height, width = min(height, GIANT_SHARD_PX), min(width, GIANT_SHARD_PX)
        return channels * height * width * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class ReusedResult:
    """Reuse of a result for the same inputs under another image_id: only a row is copied."""

    image_id: str
    inputs: str
    of: str
    block: int | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """Work of one task: items of whole shards, in storage order."""

    number: int
    items: tuple[PlanItem, ...]

    @property
    def parts(self) -> tuple[PlanItem, ...]:
        """Items, each of which may crash a worker."""
        return self.items

    def only(self, parts: Sequence[PlanItem]) -> Unit:
        """Return the unit with some of its items."""
        return replace(self, items=tuple(parts))

    def dry_run(self) -> Unit:
        """Return a unit with a negative number, of which nothing is published."""
        return replace(self, number=-1 - self.number)

    @property
    def images(self) -> int:
        """Number of images (or blocks) in the unit."""
        return len(self.items)


@dataclass(frozen=True)
class Plan:
    """Plan of a run, with reasons.

    Attributes
    ----------
    operation, key
        Name of the operation, and the digest under which results are filed.
    selected
        Number of selected images.
    causes
        Images to compute, counted by cause; see `REASONS_TO_COMPUTE`.
    settled
        Images to skip, counted by reason; see `REASONS_TO_SKIP`.
    unreadable
        Number of sources in the catalog without an image; never selected.
    orphaned
        Number of selected images whose source is gone; they are computed from the stored pixels.
    items, copies
        The work itself.
    damaged
        Paths of label shards to rewrite with all their images.
    undescribed
        Label images (stack, name) whose metadata or index a run makes again.
    changes
        For a changed key, differences from the key with the most results: name to (old, new).
    """

    operation: str
    key: str
    parameters: Mapping[str, Any]
    selected: int
    causes: Mapping[str, int]
    settled: Mapping[str, int]
    unreadable: int
    orphaned: int
    items: tuple[PlanItem, ...] = field(repr=False)
    copies: tuple[ReusedResult, ...] = field(repr=False)
    images: tuple[str, ...] = field(repr=False)
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    damaged: frozenset[str] = frozenset()
    undescribed: frozenset[tuple[str, str]] = frozenset()

    @property
    def to_compute(self) -> int:
        """Number of images that get a new row."""
        return sum(self.causes.values())

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain values, without the work itself."""
        return {
            "operation": self.operation,
            "key": self.key,
            "parameters": dict(self.parameters),
            "selected": self.selected,
            "to_compute": self.to_compute,
            "causes": dict(self.causes),
            "up_to_date": self.settled.get("done", 0),
            "failed_before": self.settled.get("failed", 0),
            "waiting": self.settled.get("waiting", 0),
            "unreadable_sources": self.unreadable,
            "orphaned": self.orphaned,
            "changes": {name: list(pair) for name, pair in self.changes.items()},
        }


def plan_run(  # noqa: PLR0913 - options by name
    operation: Operation,
    images: pa.Table,
    results: pa.Table,
    *,
    other: tuple[Mapping[str, Any], frozenset[str]] | None = None,
    where: ImageCondition | None = None,
    limit: int | None = None,
    retry_failed: bool = False,
    labels: LabelState | None = None,
    restored: Set[tuple[str, str, int | None]] = frozenset(),
    gone: Sequence[Part] = (),
) -> Plan:
    """Decide which images a run computes, and record the reasons.

    Parameters
    ----------
    operation
        Operation to run.
    images
        The catalog's current rows.
    results
        Rows of this operation's key: image_id, inputs, block, status.
    other
        Identity and images of the key with the most results besides this one; distinguishes "new"
        from "parameters changed".
    where, limit
        Selection; see `select_images`.
    retry_failed
        Whether to retry failed images.
    labels
        State of the label images, for an operation that writes some: images without labels are
        computed again. A damaged shard needs all its images, so a run with a selection leaves it to
        `verify`.
    restored
        Results (image_id, inputs, block) that failed on missing or corrupt pixels, since restored.
    gone
        Missing parts of the key: their images are computed again.
    """
    read = {*PlanRow._fields[1:], "content", "state"}
    if "fields" not in operation.inputs:
        read.remove("fields")
    if not operation.reads_channel_names:
        read.remove("channel_names")
    kept = select_images(images, where, limit, [n for n in images.column_names if n in read])
    inputs = image_inputs(operation, kept)
    everything = where is None and limit is None
    known = KnownResults(results, restored)
    labelled = PlannedLabels(labels, everything, plan_rows(kept, inputs))
    cause_of_change = "parameters"
    changes: Mapping[str, Any] = {}
    if other is not None:
        cause_of_change, changes = changed_part(expand_identity(operation), other[0])

    def cause_of_new(row: PlanRow) -> str:
        if row.image_id in known.images:
            return "inputs"
        if any(part.low <= row.image_id <= part.high for part in gone):
            return "results"
        if other is not None and row.image_id in other[1]:
            return cause_of_change
        return "new"

    names: list[str] = []
    causes: Counter[str] = Counter()
    settled: Counter[str] = Counter()
    copies: list[ReusedResult] = []
    work: dict[tuple[str, int | None, Place | None], PlanItem] = {}
    for row in plan_rows(kept, inputs):
        names.append(row.image_id)
        if operation.upstream and row.upstream is None:
            settled["waiting"] += 1
            continue
        decision = decide(row, known, labelled, retry_failed)
        if decision.settled is not None:
            settled[decision.settled] += 1
            continue
        causes[decision.cause or cause_of_new(row)] += 1
        copies += [
            ReusedResult(row.image_id, row.inputs, of, block)
            for block, of in decision.copies.items()
        ]
        for block in decision.blocks:
            place = row.inputs, block, labelled.place(row)
            work[place] = _item(row, block, work.get(place))
    return Plan(
        operation=operation.name,
        key=operation.key,
        parameters=operation.parameters,
        selected=len(names),
        causes={name: causes[name] for name in REASONS_TO_COMPUTE if causes[name]},
        settled={name: settled[name] for name in REASONS_TO_SKIP if settled[name]},
        unreadable=_count(images, FAILED),
        orphaned=_count(kept, ORPHANED),
        items=tuple(sorted(work.values(), key=_storage_order)),
        copies=tuple(copies),
        images=tuple(names),
        changes=changes if causes[cause_of_change] else {},
        damaged=labelled.damaged,
        undescribed=frozenset() if labels is None else labels.undescribed,
    )


def _storage_order(item: PlanItem) -> tuple[str, int, int, int]:
    return item.stack, item.shard if item.block is None else item.block, item.t, item.z or 0


def _count(images: pa.Table, state: str) -> int:
    return int(pc.sum(is_any(images["state"], [state])).as_py() or 0)


def _item(row: PlanRow, block: int | None, known: PlanItem | None) -> PlanItem:
    """Return the item of an image, added to the images with the same inputs."""
    place = known or row
    names = (*known.image_ids, row.image_id) if known else (row.image_id,)
    spacing = row.spacing_y_um, row.spacing_x_um
    rescale = row.rescale_slope, row.rescale_intercept
    return PlanItem(
        image_ids=names,
        inputs=row.inputs,
        stack=place.stack,
        shard=place.shard,
        t=place.t,
        z=place.z,
        shape=(row.channels, row.height, row.width),
        dtype=row.dtype,
        noise_sd=tuple(row.noise_sd),
        spacing_um=None if spacing[0] is None or spacing[1] is None else (spacing[0], spacing[1]),
        # shares one string in memory
        source=row.image_id if row.source == row.image_id else row.source,
        block=block,
        rescale=None if rescale[0] is None or rescale[1] is None else (rescale[0], rescale[1]),
        annotation=row.annotation,
        fields={} if row.fields is None else named(row.image_id, dict(row.fields)),
        upstream=row.upstream,
        channel_names=tuple(row.channel_names or ()),
    )


def pack_units(items: Sequence[PlanItem], slots: int) -> tuple[Unit, ...]:
    """Pack items into units of whole shards, small enough that every slot gets some.

    Parameters
    ----------
    items
        Items in storage order.
    slots
        Number of tasks that the cluster runs at once.
    """
    if slots < 1:
        raise UsageError(f"slots is {slots}, but must be at least 1")
    total = sum(item.nbytes for item in items)
    share = UNITS_A_SLOT * slots
    most_bytes = min(UNIT_BYTES, max(1, -(-total // share)))
    most_images = min(UNIT_IMAGES, max(1, -(-len(items) // share)))
    shards: dict[tuple[str, int], list[PlanItem]] = {}
    for item in items:
        shard = item.shard if item.block is None else item.block
        shards.setdefault((item.stack, shard), []).append(item)
    units: list[Unit] = []
    pending: list[PlanItem] = []
    for members in shards.values():
        size = sum(item.nbytes for item in pending) + sum(item.nbytes for item in members)
        full = len(pending) + len(members) > most_images or size > most_bytes
        if pending and full:
            units.append(Unit(len(units), tuple(pending)))
            pending = []
        pending.extend(members)
    if pending:
        units.append(Unit(len(units), tuple(pending)))
    return tuple(units)
