"""A Dask cluster of this machine's own processes, or threads."""

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
from engine.execution.cluster.spec import START_S, Opened, Wanted
from engine.execution.open_files import require_files
from engine.privacy import key_withheld

MALLOC_KEEP_BYTES = str(256 * 1024**2)
"""Freed memory that a worker's allocator keeps, bytes.

A nanny's default (64 KiB) gives every array back to the system at once, which made kernels that
allocate two to three times slower.
"""

GPU_SLOT = {"GPU": 1.0}
"""What the first local worker offers, whether there is a GPU or not: so networks run on a machine
without one too, and one model is in memory and not one a worker."""


LOOK_S = 1.0
"""How often workers that start are looked at, seconds."""

GUARD = """put all that it does below a line: if __name__ == "__main__":"""
"""What a script lacks whose workers start workers."""


class UnguardedScript(UsageError):
    """A worker imported the script that started it, and the script asks for workers: ()."""

    def __str__(self) -> str:
        return (
            "A worker imports the script that starts it, and this script starts workers when it is "
            f"imported. In the script, {GUARD}"
        )


class WorkersEnded(EngineError):
    """A local worker ended while it started: ()."""

    def __str__(self) -> str:
        return (
            "A worker ended as it started; what it said stands above. Each imports the script that "
            f"starts it, so in a script, {GUARD}"
        )


@contextmanager
def open_local(wanted: Wanted) -> Iterator[Opened]:
    """Open a cluster that fits this machine."""
    if wanted.gpu_workers is not None:
        raise UsageError(
            "gpu_workers is of Kubernetes: here the first worker offers a GPU's slot, and "
            "resources={'GPU': 1} gives one to each."
        )

    def scale(workers: int, gpu_workers: int | None) -> None:
        if gpu_workers is not None:
            raise UsageError("gpu_workers is of Kubernetes; leave it out.")
        cluster.scale(workers)

    if wanted.processes:
        _require_guard()
    with dask.config.set(local_config()), ExitStack() as stack:
        with warnings.catch_warnings():
            # The dashboard falls back to a free port by itself, with a warning that helps nobody.
            warnings.filterwarnings("ignore", message="Port .* is already in use")
            cluster = stack.enter_context(_local_cluster(wanted))
            client = stack.enter_context(Client(cluster, set_as_default=False))
        yield Opened(client, scale)


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
        # Each event loop's pulse, by which Dask sees that one is stuck for seconds.
        "distributed.admin.tick.interval": "500ms",
        "distributed.admin.large-graph-warning-threshold": "100MB",
    }


@contextmanager
def _local_cluster(wanted: Wanted) -> Iterator[LocalCluster]:
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
            # Threads of one process talk without a socket, and then a host is refused.
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
    """Refuse workers of a worker that is importing the script that it was started by.

    A spawned process imports its parent's script first; one without a guard would start workers
    that import it, and so on without end.
    """
    # The mark by which multiprocessing itself refuses to start processes then (spawn.py).
    if getattr(current_process(), "_inheriting", False):
        sys.tracebacklimit = 0  # each of the workers says so, in one line
        raise UnguardedScript


def _wait_for_workers(cluster: LocalCluster, count: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            cluster.wait_for_workers(count, timeout=LOOK_S)
            return
        except TimeoutError:
            # A nanny whose first process ended before it was a worker starts no other one.
            if any(nanny.status == Status.failed for nanny in list(cluster.workers.values())):
                raise WorkersEnded from None
            if time.monotonic() > deadline:
                raise NoWorkers(START_S) from None


class _Nanny(Nanny):
    """A nanny whose workers, the first and those after a death, inherit no key of pseudonyms."""

    async def instantiate(self) -> Status:
        """Start the worker's process."""
        with key_withheld():
            return await super().instantiate()


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
    with key_withheld():
        resource_tracker.ensure_running()  # it takes the mask off the thread in which it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
