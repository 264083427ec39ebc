"""Keys of the operations whose results an operation reads, as a part of its own identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.operations.base import Operation


def with_upstream_keys(operation: Operation, identity: Mapping[str, Any]) -> dict[str, Any]:
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
