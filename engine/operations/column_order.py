"""Order of columns in tables for people."""

from __future__ import annotations

from collections.abc import Sequence

LAST_COLUMNS = ("source", "orphaned", "image_id")
"""Columns of every table after those of the objects; no operation may have columns called so."""


def x_before_y(names: Sequence[str]) -> list[str]:
    """Return column names with x before y, as in written coordinates; arrays have y first.

    Examples
    --------
    >>> x_before_y(["y", "x", "radius_px"])
    ['x', 'y', 'radius_px']
    """
    if not {"x", "y"} <= set(names):
        return list(names)
    return ["x", "y", *(name for name in names if name not in ("x", "y"))]


def described_columns(names: Sequence[str]) -> list[str]:
    """Return the columns of a table of objects that describe their images, and their numbers.

    Examples
    --------
    >>> described_columns(["subject", "age", "nucleus", "x", "y", "area_px", *LAST_COLUMNS])
    ['subject', 'age', 'nucleus', 'source', 'orphaned', 'image_id']
    """
    number = number_column(names)
    first = 0 if number is None else names.index(number) + 1
    return [*names[:first], *(name for name in names[first:] if name in LAST_COLUMNS)]


def number_column(names: Sequence[str]) -> str | None:
    """Return the column with the number of an object in its image, which precedes its position.

    Examples
    --------
    >>> number_column(["subject", "nucleus", "x", "y", "area_px"])
    'nucleus'
    """
    at = names.index("x") if {"x", "y"} <= set(names) else 0
    return names[at - 1] if at else None
