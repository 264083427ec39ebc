"""Rows of the catalog and of results that a plan reads, and the decision for each image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

import pyarrow as pa

from engine.runs.causes import RESTORED
from engine.store.labels.images import LabelState
from engine.store.pixels.layout import count_blocks

ROWS = 65_536
"""Catalog rows converted to Python values at once."""


class PlanRow(NamedTuple):
    """One image as a plan sees it: its inputs digest and catalog columns."""

    inputs: str
    image_id: str
    source: str
    giant: bool
    stack: str
    shard: int
    t: int
    z: int | None
    channels: int
    height: int
    width: int
    dtype: str
    noise_sd: list[float]
    spacing_y_um: float | None
    spacing_x_um: float | None
    rescale_slope: float | None
    rescale_intercept: float | None
    annotation: str | None
    fields: list[tuple[str, str]] | None
    upstream: str | None
    channel_names: list[str] | None


def plan_rows(images: pa.Table, inputs: Sequence[str]) -> Iterator[PlanRow]:
    """Yield catalog rows as values in batches, since a cohort may have a million rows."""
    there = set(images.column_names)  # only operations that read annotations have them joined
    same: dict[str, str] = {}  # interned: shares equal strings between rows
    for start in range(0, images.num_rows, ROWS):
        piece = images.slice(start, ROWS)
        columns: dict[str, list[Any]] = {
            name: piece[name].to_pylist() if name in there else [None] * piece.num_rows
            for name in PlanRow._fields[1:]
        }
        for name in ("stack", "dtype"):
            columns[name] = [same.setdefault(value, value) for value in columns[name]]
        yield from map(
            PlanRow._make, zip(inputs[start : start + ROWS], *columns.values(), strict=True)
        )


Place = tuple[str, int, int, "int | None"]
"""Location of an image's pixels: stack, shard, t and z."""


class KnownResults:
    """Status of each result of a key: by image, inputs and block, and by inputs and block."""

    def __init__(self, results: pa.Table, restored: Set[tuple[str, str, int | None]]) -> None:
        columns = [results[name].to_pylist() for name in ("image_id", "inputs", "block", "status")]
        self._status: dict[tuple[str, str, int | None], str] = {
            (image_id, inputs, block): status
            for image_id, inputs, block, status in zip(*columns, strict=True)
        }
        self._status |= dict.fromkeys(restored, RESTORED)
        self.images = frozenset(image_id for image_id, _, _ in self._status)
        self._by_inputs: dict[tuple[str, int | None], str] = {}
        for (image_id, inputs, block), status in self._status.items():
            # Prefer a result over a failure for the same pixels, which may remain under an older
            # image_id. The order of the rows depends on the names of parts.
            reusable = status != RESTORED and (inputs, block) not in self._by_inputs
            if status == "done" or reusable:
                self._by_inputs[inputs, block] = image_id

    def status(self, row: PlanRow, block: int | None) -> str | None:
        """Return the status of an image's result: done, failed, restored, or None."""
        return self._status.get((row.image_id, row.inputs, block))

    def sources(self, row: PlanRow, blocks: Sequence[int | None]) -> dict[int | None, str]:
        """Return the image with a result for the same inputs, by block; not all blocks have one."""
        return {
            block: self._by_inputs[row.inputs, block]
            for block in blocks
            if (row.inputs, block) in self._by_inputs
        }

    def has_failed(self, image_id: str, inputs: str, block: int | None) -> bool:
        """Return True if the result is a failure."""
        return self._status[image_id, inputs, block] == "failed"


class PlannedLabels:
    """Label images that a run must have written, and the places beside which they are stored."""

    def __init__(self, state: LabelState | None, everything: bool, rows: Iterable[PlanRow]) -> None:
        self._state = state
        self.damaged = state.damaged if state is not None and everything else frozenset[str]()
        self._spared = state.torn if state is not None and not everything else frozenset()
        self._places = {} if state is None else {row.image_id: _place(row) for row in rows}

    def are_written(self, row: PlanRow, block: int | None) -> bool:
        """Return True if an image, or its block, needs no labels, or has them."""
        place = row.stack, row.shard if block is None else block
        state = self._state
        return state is None or place in state.whole or place in self._spared

    def place(self, row: PlanRow) -> Place | None:
        """Return the place of an image whose labels are stored beside its pixels, or None."""
        return self._places.get(row.image_id)

    def reusable(
        self, row: PlanRow, sources: Mapping[int | None, str], lost: Set[int | None]
    ) -> dict[int | None, str]:
        """Return the sources in the same stack: labels are stored beside the pixels."""
        if self._state is None:
            return dict(sources)
        return {
            block: image_id
            for block, image_id in sources.items()
            if block not in lost
            and self._places.get(image_id) == self.place(row)
            and self.are_written(row, block)
        }


class Decision(NamedTuple):
    """Outcome for one image: the reason to skip it, or the blocks to compute and those to copy.

    ``copies`` has the image_id of the source by block.

    ``cause`` is None if it depends on other keys and on the catalog.
    """

    settled: str | None = None
    cause: str | None = None
    blocks: Sequence[int | None] = ()
    copies: Mapping[int | None, str] = {}


DONE = Decision("done")


def decide(
    row: PlanRow, known: KnownResults, labels: PlannedLabels, retry_failed: bool
) -> Decision:
    """Decide whether an image is skipped, copied or computed, by the state of its blocks."""
    if not row.giant and known.status(row, None) == "done" and labels.are_written(row, None):
        return DONE  # the most frequent case first
    blocks = _blocks(row)
    statuses = {block: known.status(row, block) for block in blocks}
    lost = {b for b, s in statuses.items() if s == "done" and not labels.are_written(row, b)}
    due = {None, RESTORED, "failed"} if retry_failed else {None, RESTORED}
    needed = [block for block in blocks if statuses[block] in due or block in lost]
    if not needed:
        return Decision("failed" if "failed" in statuses.values() else "done")
    sources = labels.reusable(row, known.sources(row, needed), lost)
    failed = {b for b, of in sources.items() if known.has_failed(of, row.inputs, b)}
    cause = None
    if retry_failed and failed:
        cause = "retry"
        sources = {block: of for block, of in sources.items() if block not in failed}
    elif len(sources) == len(needed):
        cause = "copy"
    elif RESTORED in statuses.values():
        cause = "pixels"
    elif lost:
        cause = "labels"
    return Decision(None, cause, [block for block in needed if block not in sources], sources)


def _place(row: PlanRow) -> Place:
    return row.stack, row.shard, row.t, row.z


def _blocks(row: PlanRow) -> list[int | None]:
    if not row.giant:
        return [None]
    return list(range(count_blocks(row.height, row.width)))
