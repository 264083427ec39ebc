"""Columns of a function's result: their declaration, and their values for an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from engine.errors import ParameterError
from engine.operations.column_order import LAST_COLUMNS
from engine.operations.image import Image, ImageFailed
from engine.store.path_pattern import FIELDS

TAKEN = frozenset({*FIELDS, *LAST_COLUMNS})
"""Columns that every table has besides those of the objects."""

PLACE = ("y", "x")
"""Columns that are shifted by the position of a block, so they are numbers."""

TIMES = (pa.date32(), pa.timestamp("us"), pa.timestamp("us", "UTC"))
"""Types for points in time that Delta Lake has; it has none for durations."""

WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.int64(),
    pa.float16(): pa.float32(),
}
"""Delta Lake has no unsigned numbers and no half floats (Delta protocol, primitive types)."""


def object_columns(schema: Mapping[str, Any] | pa.Schema | None, object_name: str) -> pa.Schema:
    """Return the columns of an object, in types that ledgers can hold."""
    if not isinstance(schema, (Mapping, pa.Schema, type(None))):
        raise ParameterError("schema", schema, "dtypes by name, e.g. {area_px = float}")
    named = schema if isinstance(schema, pa.Schema) else pa.schema(_fields(schema or {}))
    if not named.names:
        raise ParameterError("schema", schema, 'at least one column, e.g. {"area_px": float}')
    for name in named.names:
        if name in TAKEN or name == object_name or name.startswith("_"):
            raise ParameterError("schema", name, "another name: tables have a column called so")
    if len({name.lower() for name in named.names}) < len(named.names):
        raise ParameterError("schema", named.names, "names that differ by more than their case")
    for field in named:
        if not _is_stored(field):
            kinds = "a number" if field.name in PLACE else "a dtype, e.g. float, int32 or str"
            raise ParameterError(f"schema, {field.name}", str(field.type), kinds)
    return pa.schema([(f.name, WIDER.get(f.type, f.type)) for f in named])


def _is_stored(field: pa.Field) -> bool:
    """Return whether results can have a column."""
    if field.name in PLACE:
        return bool(pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
    if pa.types.is_temporal(field.type):
        return field.type in TIMES
    return True


def _fields(schema: Mapping[str, Any]) -> list[tuple[str, pa.DataType]]:
    found = []
    for name, kind in schema.items():
        try:
            if isinstance(kind, pa.DataType):
                dtype = kind
            elif kind in (str, "str", "string"):
                dtype = pa.string()
            else:
                dtype = pa.from_numpy_dtype(np.dtype(kind))
        except (TypeError, ValueError, pa.ArrowException):
            raise ParameterError(f"schema, {name}", kind, "a dtype, e.g. float or int32") from None
        found.append((name, dtype))
    return found


def columns_of(answer: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the named columns of a function's result; single values make one row.

    Examples
    --------
    >>> columns_of({"n": 3, "mean": 1.5, "more": "left out"}, ["n", "mean"])
    {'n': [3], 'mean': [1.5]}
    """
    import pandas as pd

    if not isinstance(answer, (Mapping, pd.DataFrame)):
        raise ImageFailed("answer_without_columns")
    for name in names:
        if name not in answer:
            raise ImageFailed(f"no_column_{name}")
    found = {name: answer[name] for name in names}
    if all(np.ndim(value) == 0 for value in found.values()):
        return {name: [value] for name, value in found.items()}
    return {name: np.asarray(value) for name, value in found.items()}


def place_in_image(found: dict[str, Any], image: Image) -> dict[str, Any]:
    """Shift a block's objects by its position, and keep those centred in its core region."""
    write = image.core_region
    whole = image.origin == (0, 0) and (
        write is None or (write.start, write.shape) == ((0, 0), image.pixels.shape[1:])
    )
    if whole or not {"y", "x"} <= set(found):
        return found
    moved = {n: np.asarray(found[n]) + o for n, o in zip(("y", "x"), image.origin, strict=True)}
    columns = {**found, **moved}
    if write is None:
        return columns
    places = zip(columns["y"], columns["x"], strict=True)
    mine = np.fromiter((write.holds(y, x) for y, x in places), bool)
    return {name: np.asarray(column)[mine] for name, column in columns.items()}
