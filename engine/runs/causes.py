"""Reasons for which a plan computes or skips an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REASONS_TO_COMPUTE = {
    "new": "no result yet",
    "inputs": "the image, its geometry or its annotations changed",
    "parameters": "parameters changed",
    "version": "the operation's version changed",
    "weights": "the model's weights changed",
    "upstream": "an operation whose results it reads changed",
    "retry": "failed before, tried again",
    "pixels": "failed for lost pixels, which are there again",
    "labels": "labels are missing, or are not those that were written",
    "results": "results are gone from the store",
    "copy": "the same pixels have a result under another name",
}
"""Reasons to compute an image, with the text shown to users."""

RESTORED = "restored"
"""Pseudo-status of a result that failed on missing or corrupt pixels, which were since restored."""

REASONS_TO_SKIP = {
    "done": "up to date",
    "failed": "failed before (again with --failed)",
    "waiting": "no result yet of an operation whose results it reads",
}
"""Reasons to skip an image."""


def changed_part(new: Mapping[str, Any], old: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name the difference between two key identities: the cause, and (old, new) by name.

    Identities have those of the operations that they read, see `expand_identity`.

    Examples
    --------
    >>> a = {"version": 1, "weights": None, "parameters": {"r": 1}}
    >>> b = {**a, "parameters": {"r": 2}}
    >>> changed_part(b, a)
    ('parameters', {'r': (1, 2)})
    >>> reads_b, reads_a = ({**a, "upstream": {"objects": {"operation": "nuclei", **one}}}
    ...                     for one in (b, a))
    >>> changed_part(reads_b, reads_a)
    ('upstream', {'nuclei r': (1, 2)})
    """
    if new["version"] != old["version"]:
        return "version", {"version": (old["version"], new["version"])}
    if new["weights"] != old["weights"]:
        return "weights", {"weights": (old["weights"], new["weights"])}
    reads, read = new.get("upstream", {}), old.get("upstream", {})
    changes = {
        f"{one['operation']} {name}": pair
        for parameter, one in reads.items()
        if (other := read.get(parameter)) is not None
        for name, pair in changed_part(one, other)[1].items()
    }
    if changes:
        return "upstream", changes
    before, after = old["parameters"], new["parameters"]
    return "parameters", {
        name: (before.get(name), after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    }
