"""Retire a worker before its pod stops: the scheduler reassigns its tasks.

``python -m jobs.kubernetes.retire_worker`` is a worker's preStop hook in deploy/kubernetes. A
killed worker counts as a death for the tasks on it; a retired one does not. The hook never fails,
since the pod stops anyway.
"""

from __future__ import annotations

import os
import sys

from distributed import Client

ANSWER_S = 20.0
"""Timeout for the scheduler, seconds: a spot node is taken 30 s after its notice."""


def retire_worker(address: str, worker: str) -> None:
    """Ask a scheduler to assign no more tasks to a worker, and to move its data."""
    with Client(address, timeout=ANSWER_S, set_as_default=False) as client:
        client.retire_workers(names=[worker], close_workers=False, remove=True)


def main() -> int:
    """Retire the worker of this pod."""
    try:
        retire_worker(os.environ["DASK_SCHEDULER_ADDRESS"], os.environ["DASK_WORKER_NAME"])
    except (KeyError, OSError, TimeoutError, ValueError) as error:
        print(f"Not retired: {type(error).__name__} {error}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
