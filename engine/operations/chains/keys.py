"""Keys of the operations whose results an operation reads, as a part of its own identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from engine.errors import UsageError


class Reads(Protocol):
    """Operation that reads the results of others; see `engine.Operation`."""

    name: ClassVar[str]

    @property
    def upstream_names(self) -> Mapping[str, str]:
        """Names of these operations by parameter."""

    @property
    def upstream(self) -> Mapping[str, Any]:
        """These operations by parameter, once they are bound."""


def with_upstream_keys(operation: Reads, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity with the keys of the operations that it reads.

    The identity of ``objects = "nuclei"`` equals that of a trial ``nuclei@<key8>`` with its key.

    Raises
    ------
    UsageError
        If they are not bound: only a cohort knows them.
    """
    parameters = dict(identity["parameters"])
    for parameter, named in operation.upstream_names.items():
        if parameter not in operation.upstream:
            raise UsageError(
                f"{operation.name} reads the results of {named!r}, which depend on the cohort: "
                f'create it by cohort.operation("{operation.name}", {parameter}="{named}").'
            )
        if parameter in parameters:
            parameters[parameter] = named.partition("@")[0]
    reads = {
        parameter: {"operation": one.name, "version": one.version, "key": one.key}
        for parameter, one in sorted(operation.upstream.items())
    }
    return {**identity, "parameters": parameters, "upstream": reads}
