"""Results that exist under another name: the same inputs are computed once, each name has a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from engine.operations.base import Operation
from engine.operations.plan import UNIT_IMAGES, Copy
from engine.operations.unit import UnitRecord, ledger_of
from engine.store.ledger import Part
from engine.store.results import FAILED
from engine.store.root import Root


@dataclass(frozen=True, slots=True)
class CopyTask:
    """Rows to make from those in a few parts."""

    copies: tuple[Copy, ...]
    parts: tuple[Part, ...]


def pack_copies(copies: Sequence[Copy], parts: Mapping[str, Part]) -> tuple[CopyTask, ...]:
    """Pack copies into tasks, neighbours in the ledger together.

    Parameters
    ----------
    parts
        The part that holds each original's row, by image_id.
    """
    ordered = sorted(copies, key=lambda copy: (parts[copy.of].path, copy.image_id))
    packs = [ordered[i : i + UNIT_IMAGES] for i in range(0, len(ordered), UNIT_IMAGES)]
    return tuple(
        CopyTask(
            tuple(pack), tuple({parts[copy.of].path: parts[copy.of] for copy in pack}.values())
        )
        for pack in packs
    )


def copy_rows(root: Root, operation: Operation, task: CopyTask) -> UnitRecord:
    """Write a part with a row for each copy, equal to the original's but for its name."""
    ledger = ledger_of(root, operation)
    rows = ledger.read(task.parts)
    places = {
        pair: n
        for n, pair in enumerate(
            zip(rows["image_id"].to_pylist(), rows["inputs"].to_pylist(), strict=True)
        )
    }
    found = rows.take(pa.array([places[copy.of, copy.inputs] for copy in task.copies]))
    names = pa.array([copy.image_id for copy in task.copies], pa.string())
    found = found.set_column(found.column_names.index("image_id"), "image_id", names)
    part = ledger.write_part(found, operation.key)
    failed = tuple(
        (row["image_id"], row["reason"])
        for row in found.select(["image_id", "status", "reason"]).to_pylist()
        if row["status"] == FAILED
    )
    return UnitRecord(-1, part, len(found) - len(failed), failed, 0.0)
