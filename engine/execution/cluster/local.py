"""Local Dask cluster of processes or threads."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import current_process, resource_tracker
from typing import Any

import dask
from distributed import Client, LocalCluster, Nanny, Status

from engine.errors import EngineError, NoWorkers, UsageError
from engine.execution.cluster.spec import GPU_SLOT, START_S, ClusterSpec, OpenCluster
from engine.execution.open_files import require_files
from engine.privacy import key_withheld

MALLOC_KEEP_BYTES = str(256 * 1024**2)
"""Freed memory that a worker's allocator keeps, bytes.

A nanny's default (64 KiB) returns every array to the system at once, which made kernels that
allocate two to three times slower.
"""

LOOK_S = 1.0
"""Interval at which starting workers are checked, seconds."""

GUARD = """put all that it does below a line: if __name__ == "__main__":"""
"""Advice for scripts without an ``if __name__ == "__main__"`` guard."""


class UnguardedScript(UsageError):
    """A worker imported the script that started it, and the script tried to start workers: ()."""

    def __str__(self) -> str:
        return (
            "A worker imports the script that starts it, and this script starts workers when it is "
            f"imported. In the script, {GUARD}"
        )


class WorkersEnded(EngineError):
    """A local worker ended during its start: ()."""

    def __str__(self) -> str:
        return (
            "A worker ended during its start; see its output above. Workers import the script that "
            f"starts them, so in a script, {GUARD}"
        )


@contextmanager
def open_local(wanted: ClusterSpec) -> Iterator[OpenCluster]:
    """Open a cluster that fits this machine."""
    if wanted.gpu_workers is not None:
        raise UsageError(
            "gpu_workers is for Kubernetes: here the first worker offers a GPU slot, and "
            "resources={'GPU': 1} gives one to each."
        )

    def scale(workers: int, gpu_workers: int | None) -> None:
        if gpu_workers is not None:
            raise UsageError("gpu_workers is for Kubernetes; leave it out.")
        cluster.scale(workers)

    if wanted.processes:
        _require_guard()
    with dask.config.set(local_config()), ExitStack() as stack:
        with warnings.catch_warnings():
            # The dashboard falls back to a free port by itself; its warning is of no use.
            warnings.filterwarnings("ignore", message="Port .* is already in use")
            cluster = stack.enter_context(_local_cluster(wanted))
            client = stack.enter_context(Client(cluster, set_as_default=False))
        yield OpenCluster(client, scale)


def local_config() -> dict[str, Any]:
    """Return Dask's settings for clusters that this process starts."""
    return {
        # Report a task after one death of its worker; the driver counts the attempts itself.
        "distributed.scheduler.allowed-failures": 0,
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": MALLOC_KEEP_BYTES,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": MALLOC_KEEP_BYTES,
        "distributed.worker.use-file-locking": False,
        # Sample the workers' stacks for Dask's profiler only ten times a second.
        "distributed.worker.profile.interval": "100ms",
        # Heartbeat of each event loop, by which Dask detects one that blocks for seconds.
        "distributed.admin.tick.interval": "500ms",
        "distributed.admin.large-graph-warning-threshold": "100MB",
    }


@contextmanager
def _local_cluster(wanted: ClusterSpec) -> Iterator[LocalCluster]:
    require_files()
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
            # Workers that are threads communicate without a socket, and Dask then rejects a host.
            **({"host": "127.0.0.1", "worker_class": _Nanny} if wanted.processes else {}),
        )
        try:
            cluster.scale(workers)
            _wait_for_workers(cluster, workers)
        except BaseException:
            cluster.close(timeout=20)
            raise
    try:
        yield cluster
    finally:
        cluster.close(timeout=20)


def _require_guard() -> None:
    """Raise an error if this process is a worker that is importing its parent's script.

    A spawned process imports its parent's script first; without a guard, the script would start
    workers that import it, and so on without end.
    """
    # The flag by which multiprocessing itself refuses to start processes then (spawn.py).
    if getattr(current_process(), "_inheriting", False):
        sys.tracebacklimit = 0  # each worker prints this error, so keep it to one line
        raise UnguardedScript


def _wait_for_workers(cluster: LocalCluster, count: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            cluster.wait_for_workers(count, timeout=LOOK_S)
            return
        except TimeoutError:
            # A nanny does not restart a process that ended before it became a worker.
            if any(nanny.status == Status.failed for nanny in list(cluster.workers.values())):
                raise WorkersEnded from None
            if time.monotonic() > deadline:
                raise NoWorkers(START_S) from None


class _Nanny(Nanny):
    """Nanny whose workers, including restarted ones, do not inherit the pseudonym key."""

    async def instantiate(self) -> Status:
        """Start the worker's process."""
        with key_withheld():
            return await super().instantiate()


class _SlottedCluster(LocalCluster):
    """Local cluster with the GPU slot on its first worker, also after that worker restarts.

    If resources are requested, each worker has exactly those instead.
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
    """Start threads and processes that ignore Ctrl-C; one during the start is deferred.

    A terminal sends it to every process in the foreground; workers that stopped on it would lose
    the tasks in flight. The signal mask is inherited by the thread that starts workers, and by each
    worker from its first moment (POSIX.1-2017, pthread_sigmask and exec).
    """
    with key_withheld():
        # start it now, since it resets the mask of the starting thread
        resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
