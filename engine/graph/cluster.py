"""A Dask cluster to work on: one that fits this machine, or one that is there already."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Client, LocalCluster

from engine.errors import NoWorkerForResource, NoWorkers, ParameterError, UsageError

MALLOC_KEEP_BYTES = str(256 * 1024**2)
"""Freed memory that a worker's allocator keeps, bytes.

A nanny's default (64 KiB) gives every array back to the system at once, which made kernels that
allocate two to three times slower.
"""

CONNECT_S = 15.0
"""How long a scheduler has to answer, seconds."""

WORKERS_S = 20.0
"""How long to wait for a first worker, and for one with a resource, seconds (fault 22: 30 s)."""


class SchedulerUnreachable(UsageError, ConnectionError):
    """No scheduler answers: (address,)."""

    exit_code = 1

    def __str__(self) -> str:
        return (
            f"No Dask scheduler answers at {self.args[0]}. Start one with: dask scheduler; or "
            "leave out --scheduler to use this machine."
        )


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How to get a cluster: the address of one, or the size of a local one."""

    scheduler: str | None = None
    workers: int | None = None
    threads_per_worker: int = 1
    memory_limit: str = "auto"
    processes: bool = True

    def __post_init__(self) -> None:
        """Check the sizes."""
        if self.workers is not None and self.workers < 1:
            raise ParameterError("--workers", self.workers, "at least 1")
        if self.threads_per_worker < 1:
            raise ParameterError("--threads-per-worker", self.threads_per_worker, "at least 1")


@contextmanager
def connect(options: ClusterOptions | None = None) -> Iterator[Client]:
    """Give a client, and close what was opened for it, and only that.

    Raises
    ------
    SchedulerUnreachable
        If an address was given at which none answers.
    """
    wanted = options or ClusterOptions()
    if wanted.scheduler is not None:
        try:
            client = Client(wanted.scheduler, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError, ImportError) as error:
            raise SchedulerUnreachable(wanted.scheduler) from error
        with client:
            yield client
        return
    with (
        dask.config.set(local_config()),
        warnings.catch_warnings(),
        _local_cluster(wanted) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


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
def _local_cluster(wanted: ClusterOptions) -> Iterator[LocalCluster]:
    # The dashboard falls back to a free port by itself, with a warning that helps nobody.
    warnings.filterwarnings("ignore", message="Port .* is already in use")
    cores = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    workers = wanted.workers or max(1, cores // wanted.threads_per_worker)
    with _ctrl_c_left_to_us():
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=wanted.threads_per_worker,
            processes=wanted.processes,
            memory_limit=wanted.memory_limit,
            silence_logs=logging.CRITICAL,
            dashboard_address="127.0.0.1:8787",
            # Threads of one process talk without a socket, and then a host is refused.
            **({"host": "127.0.0.1"} if wanted.processes else {}),
        )
    try:
        yield cluster
    finally:
        cluster.close(timeout=20)


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


def slots(client: Client, resources: dict[str, float]) -> int:
    """Return how many tasks with these resources run at once, as of now."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    total = 0
    for worker in workers:
        fits = [int(worker.get("resources", {}).get(n, 0) // need) for n, need in resources.items()]
        total += min([int(worker["nthreads"]), *fits])
    return total


def require_slots(client: Client, resources: dict[str, float]) -> int:
    """Wait a while for workers that can do the work, and return their slots.

    Raises
    ------
    NoWorkers
        If no worker came within `WORKERS_S`.
    NoWorkerForResource
        If workers are there, but none offers the resources.
    """
    try:
        client.wait_for_workers(1, timeout=WORKERS_S)
    except TimeoutError:
        raise NoWorkers(WORKERS_S) from None
    found = slots(client, resources)
    if found == 0:
        name, amount = next(iter(resources.items()))
        raise NoWorkerForResource(name, amount, len(client.scheduler_info(n_workers=-1)["workers"]))
    return found
