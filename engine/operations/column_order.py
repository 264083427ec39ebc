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
