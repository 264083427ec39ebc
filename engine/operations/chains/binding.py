"""Operations that read the results of other operations: names, binding and order.

A parameter such as ``objects = "nuclei"`` names another operation of the cohort, or a trial of it
(``nuclei@<key8>``). Before such an operation is planned or run, `bind` finds the operations that it
names; their keys are part of its own key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError
from engine.operations.functions.creation import create_operation, definition_of, version_of
from engine.operations.registry import BrokenOperation, NoOperation
from engine.store.backend.base import Store
from engine.store.results import find_key, read_key, versions_there

if TYPE_CHECKING:
    from engine.operations.base import Operation


class NoUpstream(UsageError):
    """An operation that names another one that isn't there: (name, parameter, named, problem)."""

    def __str__(self) -> str:
        name, parameter, named, problem = self.args
        return f"{name} reads the results of {named!r} ({parameter}), {problem}."


@dataclass(frozen=True)
class Binder:
    """Search for the operations that parameters name, in a cohort.

    ``declared`` are the parameters of the operations that cohort.toml declares, by name.
    """

    store: Store
    declared: Mapping[str, Mapping[str, Any]]

    def bind(self, operation: Operation, visited: tuple[str, ...] = ()) -> Operation:
        """Return an operation with those whose results it reads.

        Raises
        ------
        NoUpstream
            If one is neither declared nor a trial with results, or they form a cycle.
        """
        lacking = {p: n for p, n in operation.upstream_names.items() if p not in operation.upstream}
        if not lacking:
            return operation
        if operation.name in visited:
            chain = " -> ".join((*visited, operation.name))
            raise NoUpstream(operation.name, "cycle", operation.name, f"which is a cycle: {chain}")
        trail = (*visited, operation.name)
        found = dict(operation.upstream)
        for parameter, named in lacking.items():
            found[parameter] = self._find(operation.name, parameter, named, trail)
        if len({one.name for one in found.values()}) < len(found):
            problem = "which two of its parameters name"
            raise NoUpstream(
                operation.name, ", ".join(found), next(iter(found.values())).name, problem
            )
        return operation.with_upstream(found)

    def _find(self, name: str, parameter: str, named: str, trail: tuple[str, ...]) -> Operation:
        called, _, key = named.partition("@")
        if key:
            for version in versions_there(self.store, called):
                whole = find_key(self.store, called, version, key)
                if whole is not None:
                    return self._recorded(name, parameter, named, version, whole)
            raise NoUpstream(name, parameter, named, "of which there are no results")
        if called not in self.declared:
            raise NoUpstream(
                name, parameter, named,
                f"which cohort.toml does not declare. First: cohort run COHORT {called}",
            )  # fmt: skip
        return self.bind(create_operation(called, self.declared[called], {}), trail)

    def _recorded(self, name: str, parameter: str, named: str, version: int, key: str) -> Operation:
        try:
            return self.recorded(named.partition("@")[0], version, key)
        except BrokenOperation:
            raise
        except NoOperation:
            problem = (
                "whose operation is neither installed nor declared in cohort.toml: declare its "
                "function there, or give the operation itself as upstream"
            )
        except UsageError as error:
            problem = f"which can't be made again: {str(error).rstrip('.')}"
        raise NoUpstream(name, parameter, named, problem)

    def recorded(self, name: str, version: int, key: str) -> Operation:
        """Return the operation of a key with results.

        Raises
        ------
        UsageError
            If the installed operation can't make results of this key.
        """
        definition = definition_of(self.declared.get(name, {}))
        if version_of(name, definition) != version:
            raise UsageError(f"version {version} is not the installed one")
        identity = read_key(self.store, name, version, key)
        if identity is None:
            raise UsageError("the parameters of this key are not recorded")
        try:
            operation = create_operation(name, definition, identity["parameters"])
        except UsageError as error:
            raise UsageError(f"its parameters are no longer valid: {error}") from None
        if operation.upstream_names:
            keys = identity.get("upstream", {})
            if keys.keys() != operation.upstream_names.keys():
                raise UsageError("it reads the results of other operations now")
            operation = operation.with_upstream(
                {
                    parameter: self.recorded(of["operation"], of["version"], of["key"])
                    for parameter, of in keys.items()
                }
            )
        # The path of a model is irrelevant: compare its weights.
        if operation.weights != identity.get("weights"):
            raise UsageError("its weights are not those of the default model")
        if operation.key != key:  # parameters were added since
            raise UsageError("the installed operation has other keys")
        return operation


def names_in_order(declared: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of declared operations, each after those whose results it reads.

    Operations that can't be created, and cycles, keep their place: their users get the error.
    """
    reads: dict[str, list[str]] = {}
    for name, parameters in declared.items():
        try:
            named = [*create_operation(name, parameters, {}).upstream_names.values()]
        except UsageError:
            named = []
        reads[name] = [one.partition("@")[0] for one in named]
    found: dict[str, None] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        for one in reads.get(name, ()):
            if one in reads and one not in trail:
                visit(one, (*trail, name))
        found.setdefault(name)

    for name in declared:
        visit(name, ())
    return list(found)
