"""Compile the tree of a condition to a pyarrow expression for given columns.

A comparison is true or false, never null: with null or NaN it is false, and its opposites ``!=``
and ``not in`` are true. This agrees with pandas, and ``not`` always inverts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.conditions.kinds import Kind, column_as, compared, converted, kind_of, listed
from engine.conditions.parsing import parse_condition
from engine.conditions.tokens import refuse
from engine.conditions.tree import (
    EXAMPLE,
    All,
    Among,
    Any,
    Compare,
    Condition,
    ConditionError,
    Constant,
    IsNull,
    IsTrue,
    Name,
    Not,
    names_of,
)
from engine.errors import did_you_mean
from engine.visible import visible

OPERATORS: dict[str, Callable[[pc.Expression, pc.Expression], pc.Expression]] = {
    "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip

MOST_NAMED = 30
"""Maximum number of columns listed in an error."""


def select_rows(
    table: pa.Table, where: str, about: Sequence[str] | None = None
) -> NDArray[np.bool_]:
    """Return a mask of the rows that satisfy a condition.

    Parameters
    ----------
    table
        Table; only the columns of the condition are read.
    where
        See `engine.conditions.parsing.parse_condition`.
    about
        Columns to list in an error; all by default.

    Raises
    ------
    ConditionError
        If the condition is invalid, or names an unknown column.

    Examples
    --------
    >>> doses = pa.table({"dose": [1.0, None, 3.0]})
    >>> select_rows(doses, "dose > 2").tolist(), select_rows(doses, "dose is null").tolist()
    ([False, False, True], [False, True, False])
    """
    import pyarrow.acero as acero

    condition = parse_condition(where)
    require_columns(where, condition, table.column_names, about)
    names = list(dict.fromkeys(name.name for name in names_of(condition)))
    rows = table.select(names)
    expression = compile_condition(where, condition, rows.schema)
    plan = [
        acero.Declaration("table_source", acero.TableSourceNodeOptions(rows)),
        acero.Declaration("project", acero.ProjectNodeOptions([expression], ["kept"])),
    ]
    kept = acero.Declaration.from_sequence(plan).to_table(use_threads=False)["kept"]
    found: NDArray[np.bool_] = kept.to_numpy()
    return found


def filter_rows(table: pa.Table, where: str) -> pa.Table:
    """Return the rows that satisfy a condition; see `select_rows`."""
    return table.filter(pa.array(select_rows(table, where)))


def require_columns(
    where: str, condition: Condition, columns: Sequence[str], about: Sequence[str] | None = None
) -> None:
    """Refuse a condition that names an unknown column.

    Raises
    ------
    ConditionError
        It suggests the likely column, and lists the known ones.
    """
    for name in names_of(condition):
        if name.name in columns:
            continue
        near = did_you_mean(name.name, columns) or "; text is written in quotes"
        known = list(columns if about is None else about)[:MOST_NAMED]
        more = " and more" if len(known) < len(columns) else ""
        hint = f"Columns: {visible(', '.join(known))}{more}. {EXAMPLE}"
        problem = f"there is no column {name.name!r}{near}"
        raise ConditionError(where, name.span.start, name.span.end, problem, hint)


def compile_condition(where: str, condition: Condition, schema: pa.Schema) -> pc.Expression:
    """Return a condition as an expression, true or false for each row.

    Parameters
    ----------
    where
        The condition's text, for errors.
    schema
        Schema of the rows, with all columns that the condition names.

    Raises
    ------
    ConditionError
        If it compares incompatible values, such as text with a number.
    """
    kinds = {field.name: kind_of(field.type) for field in schema}

    def build(one: Condition) -> pc.Expression:
        match one:
            case All(of):
                return _joined(operator.and_, [build(part) for part in of])
            case Any(of):
                return _joined(operator.or_, [build(part) for part in of])
            case Not(of):
                return ~build(of)
            case IsNull(name, inverted):
                empty = pc.field(name.name).is_null(nan_is_null=kinds[name.name].of == "number")
                return ~empty if inverted else empty
            case IsTrue(name):
                _require_truth(where, name, kinds[name.name])
                return _known(column_as(name, pa.bool_()), False)
            case Among(name, values, inverted):
                column, array = listed(where, name, kinds[name.name], values)
                among = _known(column.isin(array), False)
                return ~among if inverted else among
            case Compare(left, op, right):
                return _known(OPERATORS[op](*_sides(left, op, right)), op == "!=")

    def _sides(
        left: Name | Constant, op: str, right: Name | Constant
    ) -> tuple[pc.Expression, pc.Expression]:
        if isinstance(left, Name) and isinstance(right, Name):
            return compared(where, (left, kinds[left.name]), op, (right, kinds[right.name]))
        if isinstance(left, Name):
            assert isinstance(right, Constant)
            return converted(where, left, kinds[left.name], op, right)
        assert isinstance(right, Name)
        column, value = converted(where, right, kinds[right.name], op, left)
        return value, column

    return build(condition)


def _require_truth(where: str, name: Name, kind: Kind) -> None:
    if kind.of not in ("truth", "nothing"):
        told = f"it is not a condition: {name.name!r} holds {kind.told}; compare it with a value"
        refuse(where, name.span, told)


def _known(expression: pc.Expression, otherwise: bool) -> pc.Expression:
    """Return a comparison that is never null."""
    return pc.coalesce(expression, pc.scalar(otherwise))


def _joined(
    join: Callable[[pc.Expression, pc.Expression], pc.Expression], of: list[pc.Expression]
) -> pc.Expression:
    """Join expressions in pairs, so that a thousand are ten levels deep, not a thousand."""
    while len(of) > 1:
        of = [reduce(join, of[n : n + 2]) for n in range(0, len(of), 2)]
    return of[0]
