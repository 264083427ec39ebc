"""Object labels of giant images, numbered and written once all blocks have rows.

Joining and numbering pieces needs all blocks together. So object labels are derived from the
published rows and the stored class labels: a view that can be rebuilt at any time without running a
network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import CorruptStore
from engine.operations.base import Operation
from engine.runs.input_digests import image_inputs
from engine.runs.labels.parts import write_block
from engine.runs.plan import PlanItem
from engine.runs.regions import region_of
from engine.runs.worker import RowId, ledger_of
from engine.store.arrow import is_any
from engine.store.backend.base import Store
from engine.store.catalog.tables import RETIRED, ShardRow
from engine.store.delta.parts import Part
from engine.store.labels.images import LabelState, files_by_path
from engine.store.labels.publisher import StagedLabelShard
from engine.store.pixels.layout import count_blocks
from engine.store.pixels.stacks import StackReader, label_stack
from engine.store.results import DONE

BLOCKS_A_TASK = 16
"""Blocks per labelling task, which takes some seconds. Each task joins the pieces of the whole
image."""


@dataclass(frozen=True, slots=True)
class NumberTask:
    """Some blocks of a giant image whose object labels are missing.

    Attributes
    ----------
    item
        The image.
    blocks
        Blocks to label.
    parts
        Ledger parts that may hold the image's results.
    files
        Catalog rows of the class labels to read.
    """

    item: PlanItem
    blocks: tuple[int, ...]
    parts: tuple[Part, ...]
    files: tuple[ShardRow, ...]


def complete_images(
    operation: Operation, images: pa.Table, done: Callable[[RowId], bool]
) -> Iterator[PlanItem]:
    """Yield the giant images whose blocks all have class labels, each stack once."""
    images = images.filter(pc.and_(images["giant"], pc.invert(is_any(images["state"], [RETIRED]))))
    seen = set()
    rows = images.select(["image_id", "stack", "channels", "height", "width", "dtype"]).to_pylist()
    for row, inputs in zip(rows, image_inputs(operation, images), strict=True):
        blocks = range(count_blocks(row["height"], row["width"]))
        if row["stack"] in seen or not all(done((row["image_id"], inputs, b)) for b in blocks):
            continue
        seen.add(row["stack"])
        shape = row["channels"], row["height"], row["width"]
        names = (row["image_id"],)
        yield PlanItem(
            names, inputs, row["stack"], 0, 0, None, shape, row["dtype"], (), None, "", 0
        )


def missing_blocks(item: PlanItem, state: LabelState) -> list[int]:
    """Return the blocks of a giant image whose object labels are missing or incomplete."""
    blocks = range(count_blocks(*item.shape[1:]))
    return [block for block in blocks if (item.stack, block) not in state.whole]


def plan_numbers(
    operation: Operation,
    giants: Sequence[PlanItem],
    state: LabelState,
    parts: Sequence[Part],
    files: Sequence[ShardRow],
) -> list[NumberTask]:
    """Return labelling tasks for the blocks of ``giants`` that are not whole in ``state``."""
    named: dict[str, list[ShardRow]] = {}
    for row in files:
        named.setdefault(row.stack, []).append(row)
    tasks = []
    for item in giants:
        due = missing_blocks(item, state)
        (name,) = item.image_ids
        mine = tuple(part for part in parts if part.low <= name <= part.high)
        labels = [r for r in named.get(label_stack(item.stack, operation.measured_image.name), ())
                  if r.level == 0]  # fmt: skip
        for start in range(0, len(due), BLOCKS_A_TASK):
            these = due[start : start + BLOCKS_A_TASK]
            read = tuple(row for row in labels if row.shard < 0 or row.shard in these)
            tasks.append(NumberTask(item, tuple(these), mine, read))
    return tasks


def write_object_labels(
    store: Store, operation: Operation, task: NumberTask
) -> tuple[StagedLabelShard, ...]:
    """Label the objects of some blocks and stage the shards; they are visible once published.

    Raises
    ------
    CorruptStore
        If the stored class labels differ from those that the results were computed from.
    MissingObject, StoreFull, StoreReadOnly
    """
    numbers = operation.number_blocks(_read_blocks(store, operation, task))
    reader = StackReader(store, files_by_path(store, task.files))
    stack = label_stack(task.item.stack, operation.measured_image.name)
    parts: list[StagedLabelShard] = []
    for block in task.blocks:
        item = task.item._replace(block=block)
        labels = reader.read(stack, (0, 0, *region_of(item)[0].slices))
        try:
            objects = operation.label_objects(labels, numbers[block])
        except ValueError:
            raise CorruptStore(stack, "its labels do not match the results") from None
        parts += write_block(store, operation.object_image, item, objects)
    return tuple(parts)


def _read_blocks(store: Store, operation: Operation, task: NumberTask) -> list[pa.Table]:
    """Return the results of each block of an image, in order of blocks."""
    (name,) = task.item.image_ids
    found: dict[int, pa.Table] = {}
    ledger = ledger_of(store, operation)
    columns = ["image_id", "inputs", "block", "status", "objects"]
    for part in task.parts:
        rows = ledger.read_part(part, columns)
        ids = zip(*(rows[c].to_pylist() for c in columns[:4]), strict=True)
        for n, (image_id, inputs, block, status) in enumerate(ids):
            if (image_id, inputs, status) == (name, task.item.inputs, DONE):
                structs = rows["objects"][n].values
                fields = [structs.field(f.name) for f in operation.object_schema]
                found[block] = pa.table(fields, operation.object_schema)
    return [found[block] for block in sorted(found)]
