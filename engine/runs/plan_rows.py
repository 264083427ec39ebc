"""Catalog rows that a plan reads, as Python values in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

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
