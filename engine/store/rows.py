"""Rows of tables as values: a dataclass states the columns of a table, in their order.

Annotations give the types: `int` is int64, `Int32` int32, a tuple a list, a mapping a map of text.
All columns are nullable, as Delta's are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import pyarrow as pa

Row = TypeVar("Row")

Int32 = Annotated[int, pa.int32()]

_PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


@cache
def schema_of(kind: type) -> pa.Schema:
    """Return the columns of a dataclass of rows.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Row:
    ...     name: str
    ...     n: Int32 | None = None
    ...     sizes: tuple[float, ...] = ()
    >>> [str(column.type) for column in schema_of(Row)]
    ['string', 'int32', 'list<item: double>']
    """
    hints = get_type_hints(kind, include_extras=True)
    return pa.schema([(field.name, _type_of(hints[field.name])) for field in fields(kind)])


def _type_of(hint: Any) -> pa.DataType:
    if hint in _PLAIN:
        return _PLAIN[hint]
    first, *others = (part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Annotated:
        return others[0]
    if get_origin(hint) is tuple:
        return pa.list_(_type_of(first))
    if get_origin(hint) is Mapping:
        return pa.map_(_type_of(first), _type_of(others[0]))
    return _type_of(first)  # X | None


def table_of(rows: Sequence[Any], kind: type) -> pa.Table:
    """Convert rows to a table."""
    columns = {}
    for column in schema_of(kind):
        values = [getattr(row, column.name) for row in rows]
        if pa.types.is_map(column.type):
            values = [[*value.items()] for value in values]
        columns[column.name] = values
    return pa.table(columns, schema=schema_of(kind))


def rows_of(table: pa.Table, kind: type[Row]) -> list[Row]:
    """Convert a table to rows.

    Other columns are left out. A missing column, and a null in a list or map, give the default.
    """
    plain: type = kind  # a `type[Row]` is not hashable for mypy
    names = [name for name in schema_of(plain).names if name in table.column_names]
    nested = {name: read for name, read in _readers(plain).items() if name in names}
    rows = []
    for values in table.select(names).to_pylist():
        for name, read in nested.items():
            if values[name] is None:
                del values[name]
            else:
                values[name] = read(values[name])
        rows.append(kind(**values))
    return rows


@cache
def _readers(kind: type) -> dict[str, Callable[[Any], Any]]:
    """Return the conversions of nested columns from what Arrow gives to what rows hold."""
    return {
        column.name: dict if pa.types.is_map(column.type) else _as_tuple
        for column in schema_of(kind)
        if pa.types.is_nested(column.type)
    }


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
