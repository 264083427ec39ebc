"""A Dask cluster to work on: one that fits this machine, or one that is there already."""

from __future__ import annotations

import asyncio
import html
import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import dask
from dask.utils import format_bytes, parse_bytes
from distributed import Client, LocalCluster, Security
from distributed.comm.core import connect as connect_comm
from distributed.versions import VersionMismatchWarning

from engine.errors import EngineError, NoWorkers, ParameterError, UsageError
from engine.graph.events import Events, counted
from engine.graph.patience import patience_s
from engine.graph.slots import require_slots, workers_of
from engine.graph.versions import require_same_versions

MALLOC_KEEP_BYTES = str(256 * 1024**2)
"""Freed memory that a worker's allocator keeps, bytes.

A nanny's default (64 KiB) gives every array back to the system at once, which made kernels that
allocate two to three times slower.
"""

CONNECT_S = 15.0
"""How long a scheduler has to answer, seconds."""


START_S = 120.0
"""How long local workers have to start, seconds: they take 2, on a machine that is not busy."""

GPU_SLOT = {"GPU": 1.0}
"""What the first local worker offers, whether there is a GPU or not: so networks run on a machine
without one too, and one model is in memory and not one a worker."""


class NoCertificate(UsageError):
    """A scheduler that speaks TLS was named, and no certificates: (address,)."""

    exit_code = 1

    def __str__(self) -> str:
        return (
            f"{self.args[0]} asks for certificates, and none are configured. Name them for Dask: "
            "distributed.comm.tls.ca-file, .client.cert and .client.key, e.g. as "
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE."
        )


class SchedulerUnreachable(UsageError, ConnectionError):
    """No scheduler answers: (address,)."""

    exit_code = 1

    def __str__(self) -> str:
        return (
            f"No Dask scheduler answers at {self.args[0]}. Start one with: dask scheduler; or "
            "leave out --scheduler to use this machine."
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for; ``None`` where nothing was said."""

    where: str
    workers: int | None
    threads_per_worker: int | None
    memory_limit: str | float | None
    resources: Mapping[str, float]
    processes: bool

    def __post_init__(self) -> None:
        """Check the sizes."""
        for name in ("workers", "threads_per_worker"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ParameterError(name, count, "at least 1")
        if self.memory_limit not in (None, "auto"):
            try:
                parse_bytes(self.memory_limit)
            except ValueError:
                expected = "'auto' or a size of one worker such as '4GiB'; 0 is no limit"
                raise ParameterError("memory_limit", self.memory_limit, expected) from None


class Cluster:
    """A Dask cluster to work on, open from the moment it is made.

    Parameters
    ----------
    where
        ``"local"`` starts workers on this machine; an address, ``tcp://host:8786`` or ``tls://...``
        (with the certificates that Dask's configuration names, ``distributed.comm.tls``), uses
        what is there.
    workers
        Local worker processes; as many as fit the cores that this process may use by default.
    threads_per_worker
        Threads of a local worker; 1 by default.
    memory_limit
        Of a local worker, bytes or e.g. ``"4GiB"``; by default the machine's memory is shared.
    resources
        What work will ask for, e.g. ``{"GPU": 1}``. Each local worker offers it, so give as many
        workers as there are GPUs; at an address, a worker that offers it must be there. By
        default the first local worker offers a GPU's slot, whether there is a GPU or not.
    processes
        Whether local workers are processes; threads of this one are slower and easier to debug.

    Attributes
    ----------
    client
        A `distributed.Client`; it does not become Dask's default one.

    Raises
    ------
    SchedulerUnreachable
        If no scheduler answers at the address.
    VersionMismatch
        If scheduler or workers run another Python, Dask or engine than this process.
    NoWorkers, NoWorkerForResource
        If ``resources`` were asked of an address and nobody offers them.

    Examples
    --------
    >>> with engine.cluster("local", workers=2) as client:  # doctest: +SKIP
    ...     cohort.run(client=client)

    In a notebook, ``cluster = engine.cluster("local")`` stays open until ``cluster.close()``.
    """

    def __init__(
        self,
        where: str = "local",
        *,
        workers: int | None = None,
        threads_per_worker: int | None = None,
        memory_limit: str | float | None = None,
        resources: Mapping[str, float] | None = None,
        processes: bool = True,
    ) -> None:
        wanted = Wanted(
            where, workers, threads_per_worker, memory_limit, dict(resources or {}), processes
        )
        kind = where.partition("://")[0]
        if kind not in KINDS:
            raise UsageError(
                f"{where!r} is no cluster: give 'local', or the address of a scheduler with its "
                f"protocol, e.g. tcp://{where.rpartition('://')[2]}"
            )
        with ExitStack() as stack:
            self.client: Client = stack.enter_context(KINDS[kind](wanted))
            self._opened = stack.pop_all()
        self.where = where

    def close(self) -> None:
        """Close what was opened, and only that: a scheduler that was there goes on."""
        self._opened.close()

    def __enter__(self) -> Client:
        return self.client

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def dashboard_link(self) -> str | None:
        """Where to watch it; None where it has no dashboard, or is closed."""
        return self.client.dashboard_link if self.client.status == "running" else None

    def __repr__(self) -> str:
        return f"<Cluster {self.where!r}: {self._told()}>"

    def _repr_html_(self) -> str:
        link = self.dashboard_link
        dashboard = f' &middot; <a href="{link}" target="_blank">dashboard</a>' if link else ""
        return f"<b>{html.escape(self.where)}</b>: {self._told()}{dashboard}"

    def _told(self) -> str:
        if self.client.status != "running":
            return "closed"
        workers = workers_of(self.client).values()
        threads = sum(worker["nthreads"] for worker in workers)
        memory = sum(worker["memory_limit"] or 0 for worker in workers)
        told = f"{counted(len(workers), 'workers')}, {counted(threads, 'threads')}"
        return f"{told}, {format_bytes(memory)}" if memory else told


@contextmanager
def _at_address(wanted: Wanted) -> Iterator[Client]:
    sizes = ("workers", "threads_per_worker", "memory_limit")
    if given := [name for name in sizes if getattr(wanted, name) is not None]:
        raise UsageError(
            f"{given[0]} is of a local cluster; {wanted.where} has its own. Leave one of them out."
        )
    with ExitStack() as stack:
        try:
            _shake_hands(wanted.where)
            with warnings.catch_warnings():  # we compare versions ourselves, and say it shorter
                warnings.simplefilter("ignore", VersionMismatchWarning)
                client = stack.enter_context(
                    Client(wanted.where, timeout=patience_s(CONNECT_S), set_as_default=False)
                )
            require_same_versions(client, wanted.where)
        except EngineError:
            raise
        except (OSError, TimeoutError, ValueError, ImportError) as error:
            raise SchedulerUnreachable(wanted.where) from error
        except (TypeError, RuntimeError) as error:  # tls:// without certificates
            raise NoCertificate(wanted.where) from error
        if wanted.resources:
            require_slots(client, dict(wanted.resources))
        yield client


def _shake_hands(address: str) -> None:
    """Talk to a scheduler once; Dask's client would wait for ever for one that never answers."""

    async def talk() -> None:
        arguments = Security().get_connection_args("client")
        talking = connect_comm(address, timeout=CONNECT_S, **arguments)
        comm = await asyncio.wait_for(talking, CONNECT_S)
        await comm.close()

    # In a thread: a notebook's own has a running loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, talk()).result()


@contextmanager
def _local(wanted: Wanted) -> Iterator[Client]:
    with dask.config.set(local_config()), ExitStack() as stack:
        with warnings.catch_warnings():
            # The dashboard falls back to a free port by itself, with a warning that helps nobody.
            warnings.filterwarnings("ignore", message="Port .* is already in use")
            cluster = stack.enter_context(_local_cluster(wanted))
            client = stack.enter_context(Client(cluster, set_as_default=False))
        yield client


KINDS: Mapping[str, Callable[[Wanted], AbstractContextManager[Client]]] = {
    "local": _local,
    "tcp": _at_address,
    "tls": _at_address,
    "inproc": _at_address,  # of this very process
}
"""How each kind of cluster is opened, by what ``where`` begins with."""


@contextmanager
def client_or_own(client: Client | None, events: Events | None = None) -> Iterator[Client]:
    """Give the client, or where there is none that of a local cluster for this block."""
    if client is not None:
        yield client
        return
    with Cluster("local") as own:
        if events is not None and own.dashboard_link:
            events.note(f"Dashboard: {own.dashboard_link}")
        yield own


def local_config() -> dict[str, Any]:
    """Return Dask's settings for a cluster that we start ourselves."""
    return {
        # One death is enough to suspect a task; the driver keeps its own count of attempts.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": MALLOC_KEEP_BYTES,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": MALLOC_KEEP_BYTES,
        "distributed.worker.use-file-locking": False,
        # The workers' profiler looks at their stacks; ten times a second is often enough.
        "distributed.worker.profile.interval": "100ms",
        "distributed.admin.large-graph-warning-threshold": "100MB",
    }


@contextmanager
def _local_cluster(wanted: Wanted) -> Iterator[LocalCluster]:
    cores = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    threads = wanted.threads_per_worker or 1
    workers = wanted.workers or max(1, cores // threads)
    with _ctrl_c_left_to_us():
        cluster = _SlottedCluster(
            n_workers=0,
            threads_per_worker=threads,
            processes=wanted.processes,
            memory_limit="auto" if wanted.memory_limit is None else wanted.memory_limit,
            resources=dict(wanted.resources) or None,
            silence_logs=logging.CRITICAL,
            dashboard_address="127.0.0.1:8787",
            # Threads of one process talk without a socket, and then a host is refused.
            **({"host": "127.0.0.1"} if wanted.processes else {}),
        )
        try:
            cluster.scale(workers)
            cluster.wait_for_workers(workers, timeout=START_S)
        except BaseException as error:
            cluster.close(timeout=20)
            if isinstance(error, TimeoutError):
                raise NoWorkers(START_S) from None
            raise
    try:
        yield cluster
    finally:
        cluster.close(timeout=20)


class _SlottedCluster(LocalCluster):
    """A local cluster whose first worker holds the GPU's slot, also after its process died.

    Unless resources were asked for: then each worker has those, and no other.
    """

    def new_worker_spec(self) -> dict[Any, Any]:
        """Return name and options of the next worker."""
        spec = super().new_worker_spec()
        if self.worker_spec or any(what["options"].get("resources") for what in spec.values()):
            return spec
        return {
            name: {**what, "options": {**what["options"], "resources": GPU_SLOT}}
            for name, what in spec.items()
        }


@contextmanager
def _ctrl_c_left_to_us() -> Iterator[None]:
    """Start threads and processes that never see Ctrl-C; one that comes meanwhile waits.

    A terminal sends it to every process in the foreground; workers that obeyed it would take the
    tasks in flight with them. The mask is inherited by the thread that starts workers, and by each
    worker from its first moment (POSIX.1-2017, pthread_sigmask and exec).
    """
    resource_tracker.ensure_running()  # it takes the mask off the thread in which it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
