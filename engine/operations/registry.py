"""Operations by name: ours, and those that installed packages offer."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from engine.errors import UsageError
from engine.operations.base import Operation
from engine.operations.circles import Circles

GROUP = "cohort.operations"
"""Entry point group in which a package names its operations."""

BUILT_IN: dict[str, type[Operation]] = {Circles.name: Circles}


class NoOperation(UsageError):
    """There is no operation of this name: (name, names there are)."""

    def __str__(self) -> str:
        name, there = self.args
        return f"No operation is called {name!r}. Operations: {', '.join(there)}."


def operations() -> dict[str, type[Operation]]:
    """Return all operations by name; those of packages can't replace ours."""
    found = {point.name: point.load() for point in entry_points(group=GROUP)}
    return {**found, **BUILT_IN}


def find_operation(name: str) -> type[Operation]:
    """Return an operation by name.

    Raises
    ------
    NoOperation
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    there = operations()
    if name not in there:
        raise NoOperation(name, sorted(there))
    return there[name]


def is_registered(operation: Operation) -> bool:
    """Tell whether an operation would be found by its name, as one from a notebook is not."""
    try:
        return find_operation(operation.name) is type(operation)
    except NoOperation:
        return False


def create_operation(name: str, declared: Mapping[str, Any], given: Mapping[str, Any]) -> Operation:
    """Return an operation: what is given counts before what is declared, and that before defaults.

    Raises
    ------
    NoOperation, ParameterError
    """
    return find_operation(name)(**{**declared, **given})
