"""Drivers with one failing file system call: forked from a process that has imported everything.

Run as a script with the library of ``failing_calls.c`` preloaded; reads one request per line (JSON)
from standard input, and replies with one line. Each driver ingests, runs and draws, all in one
process, with one failing call of its own; then it repeats everything without a failure, and reports
whether the cohort is correct.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import json
import logging
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from tests.distributed.invariants import (
    Calls,
    check_catalog_once,
    check_files,
    check_once,
    comparable,
    pixels_by_image,
    result_rows,
    tables,
)

HUNG_S = 300.0
"""Time after which a driver hangs, seconds; one takes two, and much longer on a busy machine."""


def _commands(place: Path, images: Path, calls: Path) -> list[list[str]]:
    return [
        ["ingest", f"{place}", f"{images}"],
        ["run", f"{place}", "probe", "--calls", f"{calls}"],
        ["qc", f"{place}", "probe"],
    ]


def _asked(argv: list[str]) -> tuple[int, str]:
    """Run a command as the command line does; return its exit code and standard error."""
    from jobs.cli import main

    sys.argv = ["cohort", *argv]
    told = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 99
    return code, told.getvalue()


@contextmanager
def _one_cluster() -> Iterator[None]:
    """Share one cluster between all commands: threads of this process, without a dashboard."""
    from jobs.options import ClusterArguments

    threads = {"n_workers": 1, "threads_per_worker": 2, "processes": False}
    with (
        LocalCluster(**threads, dashboard_address=None, silence_logs=logging.CRITICAL) as cluster,
        Client(cluster) as client,
    ):
        ClusterArguments.open_on_demand = (  # type: ignore[method-assign]
            lambda _, note: nullcontext(client)
        )
        yield


def facts_of(place: Path) -> dict[str, Any]:
    """Return the facts that must be equal with and without the fault."""
    rows = comparable(result_rows(place))
    for row in rows:
        row.pop("key")
    return {
        "pixels": sorted(pixels_by_image(place).items()),
        "rows": rows,
        "tables": {name: frame.to_json() for name, frame in tables(place).items()},
    }


def drive(request: dict[str, Any]) -> dict[str, Any]:
    """Run everything with a failing call, and again without; return the outcome."""
    folder, images = Path(request["folder"]), Path(request["images"])
    place, calls = folder / "cohort", Calls(folder / "calls")
    folder.mkdir(parents=True)
    library = ctypes.CDLL(None)
    library.call_failed.restype = ctypes.c_char_p
    library.calls_passed.restype = ctypes.c_long
    commands = _commands(place, images, calls.path)
    with _one_cluster():
        library.fail_at(os.fsencode(place), ctypes.c_long(request["point"]), request["errno"])
        first = [_asked(argv) for argv in commands]
        found: dict[str, Any] = {"calls": library.calls_passed()}
        library.fail_no_more()
        found["failed"] = os.fsdecode(library.call_failed())
        found["first"] = first
        done = len(calls.all())
        found["second"] = [_asked(argv) for argv in commands]
        found["computed"] = [done, len(calls.all())]
        found["third"] = _asked(commands[1])
        found["again"] = len(calls.all()) - found["computed"][1]
    check_catalog_once(place, request["count"])  # I1
    check_once(place)
    check_files(place)  # I3
    found["facts"] = facts_of(place)  # I4
    found["modules"] = sorted(sys.modules)
    shutil.rmtree(folder)
    return found


def start(request: dict[str, Any]) -> None:
    """Fork a driver, wait for it, and import its modules, so that the next one need not."""
    pid = os.fork()
    if pid:
        until = time.monotonic() + HUNG_S
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.01)
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                Path(request["answer"]).write_text(json.dumps({"hung": True}))
                return
        loaded = json.loads(Path(request["answer"]).read_text()).get("modules", [])
        for name in set(loaded) - set(sys.modules):
            with contextlib.suppress(Exception):  # some can't be imported by name
                importlib.import_module(name)
        return
    answer: dict[str, Any] = {}
    try:
        os.setsid()
        answer = drive(request)
    except BaseException:
        answer = {"broken": traceback.format_exc()}
    Path(request["answer"]).write_text(json.dumps(answer, default=str))
    os._exit(0)


def serve() -> None:
    """Answer requests until standard input ends; results are in the files that they name."""
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        start(json.loads(line))
        print(json.dumps("done"), flush=True)


if __name__ == "__main__":
    serve()
