"""Who works for a cluster, and how many tasks of a kind run there at once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from distributed import Client

from engine.errors import NoWorkerForResource, NoWorkers
from engine.execution.timeouts import patience_s

WORKERS_S = 20.0
"""How long to wait for a first worker, and for one with a resource, seconds (fault 22: 30 s)."""


def workers_of(client: Client) -> Mapping[str, Mapping[str, Any]]:
    """Return what the scheduler knows of its workers, by address.

    Asked of the scheduler: `Client.scheduler_info` may return the answer to the client's own
    heartbeat, which came in between and names no worker.
    """
    assert client.scheduler is not None
    identity: Mapping[str, Any] = client.sync(client.scheduler.identity, n_workers=-1)
    workers: Mapping[str, Mapping[str, Any]] = identity["workers"]
    return workers


def slots(client: Client, resources: Mapping[str, float]) -> int:
    """Return how many tasks with these resources run at once, as of now."""
    workers = workers_of(client).values()
    total = 0
    for worker in workers:
        fits = [int(worker.get("resources", {}).get(n, 0) // need) for n, need in resources.items()]
        total += min([int(worker["nthreads"]), *fits])
    return total


def asked_of_workers(client: Client, resources: Mapping[str, float]) -> dict[str, float]:
    """Return what a task asks of a worker: what its operation says, or else a CPU.

    A CPU only where workers offer some (``--resources CPU=2``), as they do beside workers for
    GPUs: what asks for nothing would be given to those too, and keep them from what only they can
    do.
    """
    if resources:
        return dict(resources)
    workers = workers_of(client).values()
    return {"CPU": 1.0} if any("CPU" in each.get("resources", {}) for each in workers) else {}


def require_slots(client: Client, resources: Mapping[str, float]) -> int:
    """Wait a while for workers that can do the work, and return their slots.

    Raises
    ------
    NoWorkers
        If no worker came within `WORKERS_S`.
    NoWorkerForResource
        If workers are there, but none offers the resources.
    """
    deadline = time.monotonic() + patience_s(0)
    try:
        client.wait_for_workers(1, timeout=patience_s(WORKERS_S))
    except TimeoutError:
        raise NoWorkers(patience_s(WORKERS_S)) from None
    resources = asked_of_workers(client, resources)
    while not (found := slots(client, resources)) and time.monotonic() < deadline:
        time.sleep(1)
    if found == 0:
        if not resources:  # they left while we looked
            raise NoWorkers(patience_s(WORKERS_S))
        name, amount = next(iter(resources.items()))
        raise NoWorkerForResource(name, amount, len(workers_of(client)))
    return found
