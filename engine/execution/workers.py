"""Workers of a cluster, and the number of tasks of a kind that they run at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError, NoWorkerForResource, NoWorkers, SchedulerLost
from engine.execution.timeouts import startup_timeout_s

if TYPE_CHECKING:
    from distributed import Client

WORKERS_S = 20.0
"""Timeout for a first worker, and for one with a resource, seconds (fault 22: 30 s)."""


@contextmanager
def scheduler_needed() -> Iterator[None]:
    """Raise `SchedulerLost` for a scheduler that does not answer any more."""
    try:
        yield
    except OSError as error:  # also Dask's CommClosedError
        if isinstance(error, EngineError):
            raise
        raise SchedulerLost from error


def workers_of(client: Client) -> Mapping[str, Mapping[str, Any]]:
    """Return the scheduler's information about its workers, by address.

    Asks the scheduler directly: `Client.scheduler_info` may return the answer to the client's own
    heartbeat, which names no worker.

    Raises
    ------
    SchedulerLost
    """
    with scheduler_needed():
        if client.scheduler is None:  # the client gave it up
            raise SchedulerLost
        identity: Mapping[str, Any] = client.sync(client.scheduler.identity, n_workers=-1)
    workers: Mapping[str, Mapping[str, Any]] = identity["workers"]
    return workers


def count_slots(client: Client, resources: Mapping[str, float]) -> int:
    """Return the current number of tasks with these resources that can run at once."""
    return sum(_slots_of(worker, resources) for worker in workers_of(client).values())


def _slots_of(worker: Mapping[str, Any], resources: Mapping[str, float]) -> int:
    fits = [int(worker.get("resources", {}).get(n, 0) // need) for n, need in resources.items()]
    return min([int(worker["nthreads"]), *fits])


def all_paused(client: Client, resources: Mapping[str, float]) -> list[str]:
    """Return the addresses of the workers with these resources if all are paused, else none."""
    able = {at: one for at, one in workers_of(client).items() if _slots_of(one, resources)}
    paused = all(one.get("status") == "paused" for one in able.values())
    return sorted(able) if paused else []


def effective_resources(client: Client, resources: Mapping[str, float]) -> dict[str, float]:
    """Return the resources that a task requests of a worker: its operation's, or else a CPU.

    A CPU only if workers offer any (``--resources CPU=2``), as they do beside GPU workers: a task
    without a request could also occupy GPU workers, and block work that only they can do.
    """
    if resources:
        return dict(resources)
    workers = workers_of(client).values()
    return {"CPU": 1.0} if any("CPU" in each.get("resources", {}) for each in workers) else {}


def wait_for_slots(client: Client, resources: Mapping[str, float]) -> int:
    """Wait for workers that can do the work, and return their slots.

    Raises
    ------
    NoWorkers
        If no worker joined within `WORKERS_S`.
    NoWorkerForResource
        If there are workers, but none offers the resources.
    SchedulerLost
    """
    deadline = time.monotonic() + startup_timeout_s(0)
    with scheduler_needed():
        try:
            client.wait_for_workers(1, timeout=startup_timeout_s(WORKERS_S))
        except TimeoutError:
            raise NoWorkers(startup_timeout_s(WORKERS_S)) from None
    resources = effective_resources(client, resources)
    while not (found := count_slots(client, resources)) and time.monotonic() < deadline:
        time.sleep(1)
    if found == 0:
        if not resources:  # they left in the meantime
            raise NoWorkers(startup_timeout_s(WORKERS_S))
        name, amount = next(iter(resources.items()))
        raise NoWorkerForResource(name, amount, len(workers_of(client)))
    return found
