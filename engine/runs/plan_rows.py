"""What a plan reads of the catalog: rows as values, some thousands at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

ROWS = 65_536
"""Rows of the catalog that are Python's values at once."""


class PlanRow(NamedTuple):
    """What a plan reads of an image: its inputs, and columns of the catalog."""

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
    """Yield rows of the catalog as values, some thousands at a time: there may be a million."""
    there = set(images.column_names)  # annotations are joined only for those that read them
    same: dict[str, str] = {}  # what many rows say is kept once
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
