"""Fork server for drivers: imports the engine once, and forks a process for each command.

Run as a script; reads one request per line (JSON) from standard input, and replies with one line. A
driver has a session of its own, so that a test can signal all of it, as a terminal does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from importlib import import_module
from typing import Any

PRELOADED = (
    "distributed", "numba", "pandas", "zarr", "engine.execution.cluster.local",
    "engine.ingest.driver", "engine.runs.driver", "engine.qc.driver", "jobs.commands.core",
    "tests.support.operations",
)  # fmt: skip
"""Modules that commands import when they need them, imported once for all drivers."""


def start(request: dict[str, Any]) -> int:
    """Fork a driver and return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        for name, number in (("stdout", 1), ("stderr", 2)):
            file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        os.close(0)
        os.open(os.devnull, os.O_RDONLY)
        os.chdir(request["cwd"])
        sys.argv = ["cohort", *request["argv"]]
        _prepare(request)
        from jobs.cli import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    for thread in threading.enumerate():  # as a normal interpreter exit does
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    os._exit(code)


def _prepare(request: dict[str, Any]) -> None:
    for name in request.get("imports", ()):
        import_module(name)
    if request.get("crash") is not None or request.get("count") is not None:
        from tests.distributed import crashpoints

        crashpoints.install(request["place"], request.get("crash"), request.get("count"))
    if threads := request.get("threads"):
        import engine
        from jobs.options import ClusterArguments

        how = {"workers": 1, "threads_per_worker": threads, "processes": False}
        ClusterArguments.open = lambda _: engine.cluster(**how)  # type: ignore[method-assign]
    if (connect_s := request.get("connect_s")) is not None:
        import engine.execution.cluster.cluster

        engine.execution.cluster.cluster.CONNECT_S = connect_s
    if (commit_s := request.get("commit_s")) is not None:
        import engine.execution.quarantine

        engine.execution.quarantine.COMMIT_S = commit_s
    if (unit_images := request.get("unit_images")) is not None:
        import engine.runs.plan

        engine.runs.plan.UNIT_IMAGES = unit_images


def poll(pid: int) -> int | None:
    """Return the exit code of a driver, minus the signal that killed it, or None."""
    there, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if there else None


def serve() -> None:
    """Answer requests until standard input ends."""
    for name in PRELOADED:
        import_module(name)
    print(json.dumps({"ready": os.getpid(), "threads": threading.active_count()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = start(request) if "argv" in request else poll(request["poll"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
