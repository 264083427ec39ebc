"""Retire a worker before its pod stops: the scheduler takes back what it was given.

``python -m jobs.kubernetes.retire_worker`` is a worker's preStop in deploy/kubernetes. A worker
that is merely killed counts as a death of the tasks on it; one that is retired does not. It never
fails, since the pod stops anyway.
"""

from __future__ import annotations

import os
import sys

from distributed import Client

ANSWER_S = 20.0
"""How long the scheduler may take, seconds: a spot node is taken 30 s after its notice."""


def retire(address: str, worker: str) -> None:
    """Ask a scheduler to give a worker nothing more, and to hand on what it holds."""
    with Client(address, timeout=ANSWER_S, set_as_default=False) as client:
        client.retire_workers(names=[worker], close_workers=False, remove=True)


def main() -> int:
    """Retire the worker that this pod is."""
    try:
        retire(os.environ["DASK_SCHEDULER_ADDRESS"], os.environ["DASK_WORKER_NAME"])
    except (KeyError, OSError, TimeoutError, ValueError) as error:
        print(f"Not retired: {type(error).__name__} {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
