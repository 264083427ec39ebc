"""Comparison of software versions between client, scheduler and workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError

if TYPE_CHECKING:
    from distributed import Client

PACKAGES = ("python", "dask", "distributed", "cohort-engine")
"""Packages that must have the same version: tasks travel as pickles, and results belong to one
engine version."""


class VersionMismatch(EngineError):
    """Scheduler or workers run other software versions than the client: (address, differences)."""

    def __str__(self) -> str:
        address, differences = self.args
        return (
            f"The cluster at {address} runs other software: {differences}. Install the same "
            "versions on both sides, or leave out --scheduler to use this machine."
        )


def require_same_versions(client: Client, address: str) -> None:
    """Compare the client's versions with those of a scheduler and its workers.

    Raises
    ------
    VersionMismatch
    """
    found: Any = client.get_versions(packages=["cohort-engine"])
    if differences := describe_differences(found):
        raise VersionMismatch(address, "; ".join(differences))


def describe_differences(found: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each package whose versions differ.

    Parameters
    ----------
    found
        Result of `distributed.Client.get_versions`.

    Examples
    --------
    >>> def node(dask):
    ...     return {"packages": {"python": "3.11.9.final.0", "dask": dask}}
    >>> found = {"client": node("2"), "scheduler": node("1"), "workers": {"a": node("2")}}
    >>> describe_differences(found)
    ['dask is 1 on the scheduler, 2 here']
    """
    phrases = []
    for package in PACKAGES:
        here = _version(found["client"], package)
        scheduler = _version(found["scheduler"], package)
        workers = Counter(_version(node, package) for node in found["workers"].values())
        told = [f"{scheduler} on the scheduler"] if scheduler != here else []
        told += [
            f"{version} on {count} of {workers.total()} workers"
            for version, count in sorted(workers.items())
            if version != here
        ]
        if told:
            phrases.append(f"{package} is {', '.join(told)}, {here} here")
    return phrases


def _version(node: Mapping[str, Any], package: str) -> str:
    version = str(node["packages"].get(package) or "not installed")
    return ".".join(version.split(".")[:2]) if package == "python" else version
