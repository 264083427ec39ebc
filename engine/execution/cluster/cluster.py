"""Dask clusters: on this machine, on Kubernetes, or at the address of a running scheduler."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Self

from engine.deprecations import warn_deprecated
from engine.errors import EngineError, ParameterError, UsageError
from engine.execution.cluster.on_demand import open_on_demand
from engine.execution.cluster.spec import ClusterSpec, OpenCluster
from engine.execution.progress import ProgressListener, pluralise
from engine.execution.timeouts import startup_timeout_s
from engine.execution.versions import require_same_versions
from engine.execution.workers import wait_for_slots, workers_of
from engine.pages.rendering import render

if TYPE_CHECKING:
    from distributed import Client

CONNECT_S = 15.0
"""Timeout for the scheduler's first answer, seconds."""


class NoCertificate(UsageError):
    """A TLS scheduler was given, but no certificates are configured: (address,)."""

    exit_code = 1

    def __str__(self) -> str:
        return (
            f"{self.args[0]} requires certificates, but none are configured. Set them for Dask: "
            "distributed.comm.tls.ca-file, .client.cert and .client.key, e.g. as "
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE."
        )


class SchedulerUnreachable(UsageError, ConnectionError):
    """No scheduler answers at an address: (address,)."""

    exit_code = 1

    def __str__(self) -> str:
        return (
            f"No Dask scheduler answers at {self.args[0]}. Start one with: dask scheduler; or "
            "leave out --scheduler to use this machine."
        )


class Cluster:
    """A Dask cluster, open from construction on.

    Parameters
    ----------
    where
        ``"local"`` starts workers on this machine; ``"kubernetes"``, or
        ``"kubernetes://NAMESPACE"``, creates a cluster from the templates that deploy/kubernetes
        installed in a namespace, and returns once its first workers run; an address,
        ``tcp://host:8786`` or ``tls://...`` (with the certificates in Dask's configuration,
        ``distributed.comm.tls``), connects to a running scheduler.
    workers
        Number of local worker processes, by default as many as fit the cores that this process may
        use; or of worker pods, 2 by default.
    threads_per_worker
        Threads per worker; 1 by default, on Kubernetes as in the namespace's template.
    memory_limit
        Memory limit per worker, bytes or e.g. ``"4GiB"``; by default the workers share the
        machine's memory, and on Kubernetes it is as in the namespace's template.
    gpu_workers
        On Kubernetes, number of additional workers with a GPU; none by default.
    resources
        Resources that the work needs, e.g. ``{"GPU": 1}``. Each local worker offers them, so start
        as many workers as there are GPUs; at an address, a worker with these resources must exist.
        By default the first local worker offers a GPU slot, even without a GPU.
    processes
        Whether local workers are processes; threads of this process are slower and easier to debug.

    Attributes
    ----------
    client
        A `distributed.Client`; it does not become Dask's default client.

    Notes
    -----
    A Kubernetes cluster is removed after an idle hour, since a killed kernel closes nothing.

    Raises
    ------
    SchedulerUnreachable
        If no scheduler answers at the address.
    VersionMismatch
        If the scheduler or workers run another version of Python, Dask or the engine.
    NoWorkers, NoWorkerForResource
        If ``resources`` are given with an address, and no worker offers them.
    EngineError
        If Kubernetes is unreachable, refuses, or can't start the pods; the message names the
        reason.

    Examples
    --------
    >>> with engine.cluster("local", workers=2) as cluster:  # doctest: +SKIP
    ...     cohort.run(client=cluster)

    In a notebook, ``cluster = engine.cluster("local")`` stays open until ``cluster.close()``.
    """

    def __init__(
        self,
        where: str = "local",
        *,
        workers: int | None = None,
        threads_per_worker: int | None = None,
        memory_limit: str | float | None = None,
        gpu_workers: int | None = None,
        resources: Mapping[str, float] | None = None,
        processes: bool = True,
    ) -> None:
        wanted = ClusterSpec(
            where, workers, threads_per_worker, memory_limit, gpu_workers, dict(resources or {}),
            processes,
        )  # fmt: skip
        kind = kind_of(where)
        with ExitStack() as stack:
            self._opened = stack.enter_context(CLUSTER_TYPES[kind](wanted))
            self._stack = stack.pop_all()
        self.client: Client = self._opened.client
        self.where = where

    def scale(self, workers: int, gpu_workers: int | None = None) -> None:
        """Change the number of workers; they join and leave while work continues.

        Parameters
        ----------
        workers
            New number. ``client.wait_for_workers(n)`` waits for them.
        gpu_workers
            New number, on Kubernetes; None leaves it unchanged.

        Raises
        ------
        UsageError
            If this process did not start the cluster.
        """
        for name, count, least in (("workers", workers, 1), ("gpu_workers", gpu_workers, 0)):
            if count is not None and count < least:
                raise ParameterError(name, count, f"at least {least}")
        if self._opened.scale is None:
            raise UsageError(
                f"{self.where} was not started here, so its size can't be changed here."
            )
        self._opened.scale(workers, gpu_workers)

    def close(self) -> None:
        """Close the cluster if this process started it; otherwise only disconnect."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the client, which ``with`` gave in an earlier version."""
        if name.startswith("_") or name == "client":
            raise AttributeError(name)
        warn_deprecated(f"Use cluster.client.{name} instead of cluster.{name}.")
        return getattr(self.client, name)

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def dashboard_link(self) -> str | None:
        """URL of the dashboard; None if there is none, or the cluster is closed."""
        if self.client.status != "running":
            return None
        return self._opened.dashboard_link or self.client.dashboard_link

    def __repr__(self) -> str:
        return f"<Cluster {self.where!r}: {self._description()}>"

    def _repr_html_(self) -> str:
        values = {"where": self.where, "state": self._description(), "link": self.dashboard_link}
        return render("execution/cluster/cluster.html.jinja", **values)

    def _description(self) -> str:
        from dask.utils import format_bytes

        if self.client.status != "running":
            return "closed"
        workers = workers_of(self.client).values()
        threads = sum(worker["nthreads"] for worker in workers)
        memory = sum(worker["memory_limit"] or 0 for worker in workers)
        told = f"{pluralise(len(workers), 'workers')}, {pluralise(threads, 'threads')}"
        told = f"{told}, {format_bytes(memory)}" if memory else told
        return f"{told}; {self._opened.description}" if self._opened.description else told


@contextmanager
def _at_address(wanted: ClusterSpec) -> Iterator[OpenCluster]:
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    sizes = ("workers", "threads_per_worker", "memory_limit", "gpu_workers")
    if given := [name for name in sizes if getattr(wanted, name) is not None]:
        raise UsageError(
            f"{given[0]} only applies to a new cluster, and {wanted.where} exists already. Leave "
            "one of them out."
        )
    with ExitStack() as stack:
        try:
            _shake_hands(wanted.where)
            with warnings.catch_warnings():  # our own comparison gives a shorter message
                warnings.simplefilter("ignore", VersionMismatchWarning)
                client = stack.enter_context(
                    Client(wanted.where, timeout=startup_timeout_s(CONNECT_S), set_as_default=False)
                )
            require_same_versions(client, wanted.where)
        except EngineError:
            raise
        except (OSError, TimeoutError, ValueError, ImportError) as error:
            raise SchedulerUnreachable(wanted.where) from error
        except (TypeError, RuntimeError) as error:  # tls:// without certificates
            raise NoCertificate(wanted.where) from error
        if wanted.resources:
            wait_for_slots(client, dict(wanted.resources))
        yield OpenCluster(client)


def _shake_hands(address: str) -> None:
    """Talk to a scheduler once; Dask's client would wait for ever for one that never answers."""
    import asyncio

    from distributed import Security
    from distributed.comm.core import connect as connect_comm

    async def talk() -> None:
        arguments = Security().get_connection_args("client")
        talking = connect_comm(address, timeout=CONNECT_S, **arguments)
        comm = await asyncio.wait_for(talking, CONNECT_S)
        await comm.close()

    # In a thread, since a notebook's thread already has a running event loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, talk()).result()


def _on_this_machine(wanted: ClusterSpec) -> AbstractContextManager[OpenCluster]:
    from engine.execution.cluster.local import open_local

    return open_local(wanted)


def _on_kubernetes(wanted: ClusterSpec) -> AbstractContextManager[OpenCluster]:
    from engine.execution.kubernetes.cluster import open_on_kubernetes

    return open_on_kubernetes(wanted)


CLUSTER_TYPES: Mapping[str, Callable[[ClusterSpec], AbstractContextManager[OpenCluster]]] = {
    "local": _on_this_machine,
    "kubernetes": _on_kubernetes,
    "tcp": _at_address,
    "tls": _at_address,
    "inproc": _at_address,  # a scheduler in this process
}
"""Function that opens each kind of cluster, by the protocol of ``where``."""


def kind_of(where: str) -> str:
    """Return the kind of a cluster, one of `CLUSTER_TYPES`.

    Raises
    ------
    UsageError
        If ``where`` is none of them.
    """
    kind = where.partition("://")[0]
    if kind not in CLUSTER_TYPES:
        raise UsageError(
            f"{where!r} is no cluster: give 'local', 'kubernetes', or the address of a "
            f"scheduler with its protocol, e.g. tcp://{where.rpartition('://')[2]}"
        )
    return kind


def use_client(
    client: Client | Cluster | None, events: ProgressListener | None = None
) -> AbstractContextManager[Client]:
    """Return the given client or a cluster's, or one whose local cluster starts on first use."""
    if client is not None:
        return nullcontext(client.client if isinstance(client, Cluster) else client)
    return open_on_demand(lambda: Cluster("local"), (events or ProgressListener()).note)
