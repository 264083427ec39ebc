"""Reuse of results: identical inputs are computed once, and each image_id gets its own row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from engine.operations.base import Operation
from engine.runs.plan import UNIT_IMAGES, ReusedResult
from engine.runs.worker import RowId, UnitResult, ledger_of
from engine.store.backend.base import Store
from engine.store.delta.parts import Part
from engine.store.results import FAILED


@dataclass(frozen=True, slots=True)
class CopyTask:
    """Rows to copy from a few ledger parts."""

    copies: tuple[ReusedResult, ...]
    parts: tuple[Part, ...]


def pack_copies(
    copies: Sequence[ReusedResult], parts: Mapping[RowId, Part]
) -> tuple[CopyTask, ...]:
    """Pack copies into tasks so that neighbours in the ledger stay together.

    Parameters
    ----------
    parts
        The part that holds each original's row; see `original_of`.
    """
    placed = [(parts[original_of(copy)], copy) for copy in copies]
    placed.sort(key=lambda pair: (pair[0].path, pair[1].image_id, pair[1].block or 0))
    packs = [placed[i : i + UNIT_IMAGES] for i in range(0, len(placed), UNIT_IMAGES)]
    return tuple(
        CopyTask(
            tuple(copy for _, copy in pack), tuple({part.path: part for part, _ in pack}.values())
        )
        for pack in packs
    )


def original_of(copy: ReusedResult) -> RowId:
    """Return the identifier (image_id, inputs, block) of the row that is copied."""
    return copy.of, copy.inputs, copy.block


def copy_rows(store: Store, operation: Operation, task: CopyTask) -> UnitResult:
    """Write a part with one row per copy, equal to the original's row except for image_id."""
    ledger = ledger_of(store, operation)
    rows = ledger.read(task.parts)
    ids = zip(*(rows[name].to_pylist() for name in ("image_id", "inputs", "block")), strict=True)
    places = {row: n for n, row in enumerate(ids)}
    found = rows.take(pa.array([places[original_of(copy)] for copy in task.copies]))
    names = pa.array([copy.image_id for copy in task.copies], pa.string())
    found = found.set_column(found.column_names.index("image_id"), "image_id", names)
    part = ledger.write_part(found, operation.key)
    failed = tuple(
        ((row["image_id"], row["inputs"], row["block"]), row["reason"])
        for row in found.drop_columns(["objects"]).to_pylist()
        if row["status"] == FAILED
    )
    return UnitResult(-1, part, len(found) - len(failed), failed, 0.0)
