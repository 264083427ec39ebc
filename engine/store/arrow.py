"""Arrow arrays and tables from Python values, without importing pandas.

`pyarrow.array`, `pyarrow.scalar` and `pyarrow.table` import pandas to recognise its objects, which
takes 0.3 s of a command that has nothing to do. arro3, which deltalake depends on, does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from arro3.core import Array


def make_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return an array of a type; None becomes null.

    Raises
    ------
    TypeError
        If a value does not have the type.

    Examples
    --------
    >>> make_array(["a", None], pa.string()).to_pylist()
    ['a', None]
    """
    return pa.array(Array(values, type=kind))


def make_scalar(value: Any, kind: pa.DataType) -> pa.Scalar:
    """Return a scalar of a type."""
    return make_array([value], kind)[0]


def fill_null(column: pa.ChunkedArray | pa.Array, value: object) -> pa.ChunkedArray | pa.Array:
    """Return a column with a value in place of each null.

    Examples
    --------
    >>> fill_null(make_array([None, 2], pa.int32()), 0).to_pylist()
    [0, 2]
    """
    return pc.fill_null(column, make_scalar(value, column.type))


def is_any(column: pa.ChunkedArray | pa.Array, values: Iterable[Any]) -> pa.BooleanArray:
    """Return a mask of the rows of a column that are one of the values; False for null.

    Examples
    --------
    >>> is_any(make_array(["a", "b", None], pa.string()), ["b"]).to_pylist()
    [False, True, False]
    """
    return pc.is_in(column, value_set=make_array([*values], column.type))


def empty_table(schema: pa.Schema) -> pa.Table:
    """Return a table without rows."""
    return pa.Table.from_batches([], schema)


def make_table(columns: Mapping[str, Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Return a table of a schema from sequences of values.

    Examples
    --------
    >>> make_table({"n": [1, 2]}, pa.schema({"n": pa.int64()})).num_rows
    2
    """
    arrays = [make_array(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def as_table(stream: Any) -> pa.Table:
    """Return a table of another library, such as deltalake's, that exports an Arrow stream."""
    return pa.RecordBatchReader.from_stream(stream).read_all()
