"""Registry of operations: the built-in ones, and those of installed packages."""

from __future__ import annotations

import contextlib
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from engine import plugins
from engine.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from engine.operations.base import Operation

BUILT_IN = {
    "circles": "engine.operations.circles:Circles",
    "contours": "engine.operations.cardiac.contours:Contours",
    "bloodpool": "engine.operations.cardiac.bloodpool:Bloodpool",
    "measure": "engine.operations.measure:Measure",
    "segment": "engine.operations.segment.operation:Segment",
    "nuclei": "engine.operations.nuclei.operation:Nuclei",
}
"""Built-in operations by name; `find_operation` imports them."""


class NoOperation(UsageError):
    """Unknown operation: (name, known names)."""

    def __str__(self) -> str:
        name, there = self.args
        meant = did_you_mean(name, there) or "."
        return f"No operation is called {name!r}{meant} Operations: {', '.join(there)}."


class BrokenOperation(NoOperation):
    """A package's operation that can't be used: (name, entry point, problem)."""

    def __str__(self) -> str:
        name, value, problem = self.args
        return (
            f"The operation {name!r} is offered as {value}, which can't be used: {problem}. "
            "Install its package again, or ask its author."
        )


def _find_plugin(name: str, *, rescan: bool) -> EntryPoint | None:
    points = plugins.installed(plugins.OPERATIONS, rescan=rescan)
    return next((point for point in points if point.name == name), None)


def operation_names() -> list[str]:
    """Return the names of all operations, the built-in ones first, without importing them."""
    offered = sorted({point.name for point in plugins.installed(plugins.OPERATIONS)} - {*BUILT_IN})
    return [*BUILT_IN, *offered]


def operations() -> dict[str, type[Operation]]:
    """Return all operations by name; those of packages can't replace the built-in ones.

    Operations that fail to load are skipped, so that they do not affect others.
    """
    found = {}
    for point in plugins.installed(plugins.OPERATIONS):
        with contextlib.suppress(BrokenOperation):
            found[point.name] = _loaded(point)
    return {**found, **{name: _built_in(name) for name in BUILT_IN}}


def _built_in(name: str) -> type[Operation]:
    module, _, attribute = BUILT_IN[name].partition(":")
    kind: type[Operation] = getattr(import_module(module), attribute)
    return kind


def _loaded(point: EntryPoint) -> type[Operation]:
    from engine.operations.base import Operation

    try:
        kind = point.load()
    except Exception as error:  # a foreign module may raise anything on import
        problem = f"{type(error).__name__}: {error}"
        raise BrokenOperation(point.name, point.value, problem) from error
    if not (isinstance(kind, type) and issubclass(kind, Operation)):
        raise BrokenOperation(point.name, point.value, "it is not a subclass of engine.Operation")
    if kind.name != point.name:
        raise BrokenOperation(point.name, point.value, f"it calls itself {kind.name!r}")
    return kind


def find_operation(name: str) -> type[Operation]:
    """Return an operation by name.

    Raises
    ------
    NoOperation, BrokenOperation
    """
    if name in BUILT_IN:
        return _built_in(name)
    point = _find_plugin(name, rescan=False) or _find_plugin(name, rescan=True)
    if point is None:
        raise NoOperation(name, sorted(operation_names()))
    return _loaded(point)


def is_registered(operation: Operation) -> bool:
    """Return whether an operation can be found by name, unlike one from a notebook."""
    if type(operation).__module__ == "__main__":  # a notebook's; don't search for it
        return False
    try:
        return find_operation(operation.name) is type(operation)
    except NoOperation:
        return False
