"""Options shared by several commands, and the parser of an operation's parameters."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

import engine
from engine.errors import ParameterError, UsageError
from jobs.operation_help import complete_operation

if TYPE_CHECKING:
    from distributed import Client

CohortPath = Annotated[str, typer.Argument(metavar="COHORT", help="Folder or URL of a cohort.")]
OperationName = Annotated[
    str | None,
    typer.Argument(
        metavar="OPERATION",
        help="Operation; by default all declared ones.",
        autocompletion=complete_operation,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output, progress on the other.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Dask scheduler, or kubernetes; by default a local cluster."
    ),
]
Workers = Annotated[int | None, typer.Option(metavar="N", help="Worker processes or pods.")]
ThreadsPerWorker = Annotated[
    int | None, typer.Option(metavar="N", help="Threads of a worker; 1 by default.")
]
MemoryLimit = Annotated[str | None, typer.Option(metavar="BYTES", help="Per worker, e.g. 4GiB.")]
Where = Annotated[
    str | None, typer.Option(metavar="CONDITION", help="Only images with, e.g. subject == 's1'.")
]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Only the first N images.")]
WithOrphaned = Annotated[
    bool, typer.Option("--with-orphaned", help="Include images whose source is gone.")
]
Retry = Annotated[bool, typer.Option("--failed", help="Also retry images that failed before.")]
MaxFailed = Annotated[int, typer.Option(metavar="N", help="Maximum new failures for exit code 0.")]


@dataclass(frozen=True, slots=True)
class ClusterArguments:
    """Options for the cluster of a command."""

    scheduler: Scheduler = None
    workers: Workers = None
    threads_per_worker: ThreadsPerWorker = None
    memory_limit: MemoryLimit = None

    def open(self) -> engine.cluster:
        """Open the cluster; the caller closes it.

        Raises
        ------
        UsageError
            If both a scheduler and the size of a local cluster are given.
        """
        return engine.cluster(self._where, **self._sizes)

    def open_on_demand(self, note: Callable[[str], None]) -> AbstractContextManager[Client]:
        """Yield a client whose cluster starts on first use, and close the cluster at the end.

        A named scheduler is connected to immediately, so that a wrong address is reported.

        Parameters
        ----------
        note
            Receives a sentence with the address of the dashboard.

        Raises
        ------
        UsageError
            As `open` does.
        """
        from engine.execution.cluster.cluster import kind_of
        from engine.execution.cluster.on_demand import open_on_demand
        from engine.execution.cluster.spec import ClusterSpec

        sizes = {**self._sizes, "gpu_workers": None, "resources": {}, "processes": True}
        ClusterSpec(self._where, **sizes)  # raises for invalid sizes, even if nothing is to be done
        started = kind_of(self._where) in ("local", "kubernetes")
        return open_on_demand(self.open, note, at_once=not started)

    @property
    def _where(self) -> str:
        return self.scheduler or "local"

    @property
    def _sizes(self) -> dict[str, Any]:
        return {
            "workers": self.workers,
            "threads_per_worker": self.threads_per_worker,
            "memory_limit": self.memory_limit,
        }


@dataclass(frozen=True, slots=True)
class Selection:
    """Options for the selection of images."""

    where: Where = None
    limit: Limit = None
    failed: Retry = False

    def asked(self) -> dict[str, Any]:
        """Return them as arguments of `engine.Cohort.plan` and ``run``."""
        return {"where": self.where, "limit": self.limit, "retry_failed": self.failed}


def read_value(text: str) -> Any:
    """Parse a parameter's value: a range ``10:60``, JSON, or plain text.

    Examples
    --------
    >>> read_value("10:60"), read_value("0.3"), read_value("bright"), read_value('{"width": 8}')
    ((10.0, 60.0), 0.3, 'bright', {'width': 8})
    """
    low, colon, high = text.partition(":")
    if colon:
        with suppress(ValueError):  # JSON has colons too
            return float(low), float(high)
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_parameters(arguments: Sequence[str]) -> dict[str, Any]:
    """Parse ``--radius-px 10:60 --polarity=bright`` into parameters by name.

    Raises
    ------
    UsageError, ParameterError

    Examples
    --------
    >>> read_parameters(["--radius-px", "10:60", "--polarity=bright"])
    {'radius_px': (10.0, 60.0), 'polarity': 'bright'}
    """
    parameters: dict[str, Any] = {}
    left = list(arguments)
    while left:
        word = left.pop(0)
        if not word.startswith("--") or word == "--":
            raise UsageError(f"{word!r} is not an option; write parameters as --name value.")
        name, equals, text = word[2:].partition("=")
        if not equals:
            if not left:
                raise ParameterError(word, "without a value", "given as --name value")
            text = left.pop(0)
        parameters[name.replace("-", "_")] = read_value(text)
    return parameters
