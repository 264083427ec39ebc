"""Entry points of installed packages, by group."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

OPERATIONS = "cohort.operations"
"""Entry point group for operations of other packages."""

FORMATS = "cohort.formats"
"""Entry point group for file formats of other packages."""


@lru_cache(maxsize=1)
def _scan(path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    """Read the metadata of all packages once per ``sys.path``; it takes some 50 ms."""
    found = entry_points()
    return {group: tuple(sorted(found.select(group=group))) for group in (OPERATIONS, FORMATS)}


def installed(group: str, *, rescan: bool = False) -> tuple[EntryPoint, ...]:
    """Return the entry points of a group, sorted; `rescan` finds packages installed since."""
    if rescan:
        _scan.cache_clear()
    return _scan(tuple(sys.path))[group]
