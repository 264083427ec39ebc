"""Syntax tree of conditions, as frozen values; and the error that points into the text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any as Anything

from engine.errors import NothingFound
from engine.visible import columns_of, visible

EXAMPLE = "Example: --where \"subject == 's1'\""

AROUND = 60
"""Characters of a long condition that an error shows before and after the marked span."""

Value = str | int | float | bool | None


class ConditionError(NothingFound):
    """Invalid condition: (its text, start and end of the span, problem, hint).

    The text of the error is one line; its note (PEP 678), which tracebacks and the command line
    show below, has the condition with marks under the span.
    """

    def __init__(self, *arguments: Anything) -> None:
        super().__init__(*arguments)
        self.__notes__ = [self.pointed]

    def __str__(self) -> str:
        _, start, _, problem, hint = self.args
        told = f"--where can't be used: {problem} (at character {start + 1}). {hint}"
        return visible(told)

    @property
    def pointed(self) -> str:
        """Condition, or the part of a long one near the span, with marks in the line below."""
        text, start, end, _, _ = self.args
        low, high = max(0, start - AROUND), min(len(text), max(end, start + 1) + AROUND)
        before = ("…" if low else "") + visible(text[low:start])
        after = visible(text[start:high]) + ("…" if high < len(text) else "")
        marks = "^" * max(1, columns_of(visible(text[start : min(end, high)])))
        return f"  {before}{after}\n  {' ' * columns_of(before)}{marks}"


@dataclass(frozen=True, slots=True)
class Span:
    """Span of the text: ``start`` inclusive, ``end`` exclusive."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Name:
    """Column, by name."""

    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Constant:
    """Constant: text, a number, true, false, or null."""

    value: Value
    span: Span


@dataclass(frozen=True, slots=True)
class Listed:
    """List of constants."""

    values: tuple[Constant, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Compare:
    """Comparison ``left op right``, with ``==``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``."""

    left: Name | Constant
    op: str
    right: Name | Constant
    span: Span


@dataclass(frozen=True, slots=True)
class Among:
    """Membership, ``name in [...]``, or ``not in``."""

    name: Name
    values: Listed
    inverted: bool
    span: Span


@dataclass(frozen=True, slots=True)
class IsNull:
    """Null test, ``name is null``, or ``is not null``."""

    name: Name
    inverted: bool
    span: Span


@dataclass(frozen=True, slots=True)
class IsTrue:
    """Boolean column used as a condition."""

    name: Name
    span: Span


@dataclass(frozen=True, slots=True)
class Not:
    """Negation of a condition."""

    of: Condition
    span: Span


@dataclass(frozen=True, slots=True)
class All:
    """Conditions joined by ``and``."""

    of: tuple[Condition, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Any:
    """Conditions joined by ``or``."""

    of: tuple[Condition, ...]
    span: Span


Condition = Compare | Among | IsNull | IsTrue | Not | All | Any


def names_of(condition: Condition) -> Iterator[Name]:
    """Yield the columns of a condition in order, each as often as it occurs."""
    match condition:
        case Compare(left, _, right):
            yield from (side for side in (left, right) if isinstance(side, Name))
        case Among(name) | IsNull(name) | IsTrue(name):
            yield name
        case Not(of):
            yield from names_of(of)
        case All(of) | Any(of):
            for one in of:
                yield from names_of(one)
