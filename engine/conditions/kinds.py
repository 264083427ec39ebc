"""Kinds of column values, and conversion of constants for comparison with them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Literal, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from engine.conditions.tokens import refuse
from engine.conditions.tree import Constant, Listed, Name, Span

Of = Literal["text", "number", "truth", "date", "moment", "time of day", "nothing", "other"]

TOLD: dict[Of, str] = {
    "text": "text",
    "number": "numbers",
    "truth": "true and false",
    "date": "dates",
    "moment": "dates with a time",
    "time of day": "times of day",
    "nothing": "no value at all",
    "other": "lists or other values that can't be compared (only: is null)",
}

_CLOCK = r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
_TIME = re.compile(_CLOCK)
_MOMENT = re.compile(
    rf"[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([ T]{_CLOCK}(Z|[+-][0-9]{{2}}:[0-9]{{2}})?)?"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """Kind of a column's values, and the data type of comparisons with it."""

    of: Of
    type: pa.DataType

    @property
    def told(self) -> str:
        """Kind of the values in words."""
        return TOLD[self.of]


def kind_of(kind: pa.DataType) -> Kind:
    """Return the kind of a data type.

    Integers are compared as 64-bit ones, decimals as floats. A float32 column stays float32, and so
    does the value compared with it: ``0.1`` is then the nearest float32, as in numpy.

    Examples
    --------
    >>> kind_of(pa.int16()).of, kind_of(pa.int16()).type
    ('number', DataType(int64))
    """
    types = pa.types
    if types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return Kind("text", pa.string())
    if types.is_boolean(kind):
        return Kind("truth", kind)
    if types.is_uint64(kind):
        return Kind("number", pa.decimal128(38, 0))
    if types.is_integer(kind):
        return Kind("number", pa.int64())
    if types.is_float32(kind) or types.is_float64(kind):
        return Kind("number", kind)
    if types.is_float16(kind):
        return Kind("number", pa.float32())
    if types.is_decimal(kind):
        return Kind("number", pa.float64())
    if types.is_date(kind):
        return Kind("date", pa.date32())
    if types.is_timestamp(kind):
        return Kind("moment", pa.timestamp("ns" if kind.unit == "ns" else "us", kind.tz))
    if types.is_time(kind):
        return Kind("time of day", pa.time64("us"))
    if types.is_null(kind):
        return Kind("nothing", kind)
    return Kind("other", kind)


def column_as(name: Name, wanted: pa.DataType) -> pc.Expression:
    """Return a column cast to the type of a comparison; large integers become floats."""
    return pc.field(name.name).cast(wanted, safe=False)


def converted(
    where: str, name: Name, kind: Kind, op: str, constant: Constant
) -> tuple[pc.Expression, pc.Expression]:
    """Return a column and a value in their common type for comparison.

    Raises
    ------
    ConditionError
        If the column holds another kind of values.
    """
    value = constant.value
    if kind.of == "truth" and op in ("==", "!=") and value in (0, 1):
        return pc.field(name.name), pc.scalar(bool(value))
    if kind.of == "truth" and isinstance(value, bool):
        refuse(where, constant.span, "true and false have no order; write == or !=")
    wanted = _type_for(where, name, kind, constant)
    if kind.of == "nothing":
        return column_as(name, wanted), pc.scalar(pa.scalar(value, wanted))
    meant = _meant(where, name, kind, constant, wanted)
    return column_as(name, wanted), pc.scalar(pa.scalar(meant, wanted))


def listed(where: str, name: Name, kind: Kind, values: Listed) -> tuple[pc.Expression, pa.Array]:
    """Return a column, and the values of a list, in their common type for comparison.

    Raises
    ------
    ConditionError
    """
    if kind.of == "truth":
        for one in values.values:
            converted(where, name, kind, "==", one)
        return pc.field(name.name), pa.array([bool(one.value) for one in values.values], pa.bool_())
    types = {_type_for(where, name, kind, one) for one in values.values}
    if kind.of == "nothing":
        return column_as(name, pa.string()), pa.array([], pa.string())
    if kind.of == "other":
        _refuse_kind(where, name, kind, values.span, "a list")
    wanted = kind.type if len(types) < 2 and (not types or types == {kind.type}) else pa.float64()
    meant = [_meant(where, name, kind, one, wanted) for one in values.values]
    return column_as(name, wanted), pa.array(meant, wanted)


def compared(
    where: str, left: tuple[Name, Kind], op: str, right: tuple[Name, Kind]
) -> tuple[pc.Expression, pc.Expression]:
    """Return two columns in their common type for comparison.

    Raises
    ------
    ConditionError
        If they hold different kinds of values.
    """
    (first, one), (second, other) = left, right
    place = Span(first.span.start, second.span.end)
    if "other" in (one.of, other.of):
        name, kind = left if one.of == "other" else right
        _refuse_kind(where, name, kind, place, "a column")
    if "nothing" in (one.of, other.of):
        wanted = other.type if one.of == "nothing" else one.type
        return column_as(first, wanted), column_as(second, wanted)
    if one.of != other.of:
        told = f"{first.name!r} holds {one.told}, but {second.name!r} holds {other.told}"
        refuse(where, place, told)
    if one.of == "truth" and op not in ("==", "!="):
        refuse(where, place, "true and false have no order; write == or !=")
    if one.of == "moment" and (one.type.tz is None) != (other.type.tz is None):
        refuse(where, place, f"one of {first.name!r} and {second.name!r} has a time zone")
    wanted = one.type if one.type == other.type or one.of == "moment" else pa.float64()
    return column_as(first, wanted), column_as(second, wanted)


def _type_for(where: str, name: Name, kind: Kind, constant: Constant) -> pa.DataType:
    """Return the common type of a column and a value for comparison."""
    value = constant.value
    if kind.of == "nothing":
        return pa.scalar(value).type
    if kind.of == "number" and isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, int) or not pa.types.is_floating(kind.type):
            return kind.type if isinstance(value, int) else pa.float64()
        # A value beyond float32 would become infinite.
        return kind.type if math.isfinite(pa.scalar(value, kind.type).as_py()) else pa.float64()
    if kind.of in ("text", "date", "moment", "time of day") and isinstance(value, str):
        return kind.type
    return _refuse_kind(where, name, kind, constant.span, _told_value(value))


def _meant(where: str, name: Name, kind: Kind, constant: Constant, wanted: pa.DataType) -> object:
    """Return a value in the form that pyarrow takes for a type."""
    if kind.of in ("date", "moment", "time of day"):
        return _parsed(where, name, kind, constant)
    if pa.types.is_floating(wanted):
        return float(constant.value)  # type: ignore[arg-type]
    return constant.value


def _parsed(where: str, name: Name, kind: Kind, constant: Constant) -> date | datetime | time:
    """Parse text as a date or time."""
    text = str(constant.value)
    try:
        if kind.of == "time of day" and _TIME.fullmatch(text):
            return time.fromisoformat(text)
        found = datetime.fromisoformat(text) if _MOMENT.fullmatch(text) else None
    except ValueError:
        found = None
    if found is None or (kind.of == "date" and len(text) > len("2001-02-03")):
        example = {"date": "'2001-02-03'", "moment": "'2001-02-03 04:05'"}.get(kind.of, "'04:05'")
        refuse(where, constant.span, f"{name.name!r} holds {kind.told}; write e.g. {example}")
    if kind.of == "date":
        return found.date()
    zone = kind.type.tz
    if zone is None and found.tzinfo is not None:
        refuse(where, constant.span, f"{name.name!r} has no time zone; leave it out")
    return found.replace(tzinfo=UTC) if zone is not None and found.tzinfo is None else found


def _refuse_kind(where: str, name: Name, kind: Kind, span: Span, value: str) -> NoReturn:
    """Refuse a comparison of a column with values of another kind."""
    written = where[span.start : span.end]
    told = f"{name.name!r} holds {kind.told}, and can't be compared with {value}"
    if kind.of == "text" and value == "a number":
        told += f"; if it is meant as text, write '{written}'"
    elif kind.of == "number" and value == "text":
        told += "; write numbers without quotes"
    elif kind.of == "truth":
        told += "; write true or false"
    refuse(where, span, told)


def _told_value(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) else "a number"
