"""Order of columns in tables for people."""

from __future__ import annotations

from collections.abc import Sequence


def in_reading_order(names: Sequence[str]) -> list[str]:
    """Return column names with x before y, as in written coordinates; arrays have y first.

    Examples
    --------
    >>> in_reading_order(["y", "x", "radius_px"])
    ['x', 'y', 'radius_px']
    """
    if not {"x", "y"} <= set(names):
        return list(names)
    return ["x", "y", *(name for name in names if name not in ("x", "y"))]
