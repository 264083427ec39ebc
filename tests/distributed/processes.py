"""Processes of tests, started, watched and ended by their ids: drivers, schedulers, workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")

REPOSITORY = Path(__file__).parents[2]

RUN_S = 120.0
"""Timeout of a command, seconds; a command takes up to 20 on a busy machine."""

POLL_S = 0.02

CLUSTER_SETTINGS = {
    # One death of a worker counts against a task, as in a local cluster.
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    # A server forks workers, which saves them two seconds of imports.
    "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "forkserver",
    # As in a local cluster: by default, idle workers take a tenth of a core.
    "DASK_DISTRIBUTED__WORKER__PROFILE__INTERVAL": "100ms",
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "500ms",
}
"""Dask's own settings for the clusters of these tests."""


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = RUN_S) -> T:
    """Wait for a condition and return its value."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come about within {timeout_s:.0f} s")
        time.sleep(POLL_S)
    return found


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal, unless the process has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def worker_pids(parent: int) -> list[int]:
    """Return the worker processes below a nanny or a driver."""
    try:
        below = psutil.Process(parent).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [p.pid for p in below if _serves_tasks(p)]


def _serves_tasks(process: psutil.Process) -> bool:
    # A nanny's worker is forked by a fork server or spawned; it listens, other children do not.
    try:
        return process.status() != psutil.STATUS_ZOMBIE and any(
            c.status == psutil.CONN_LISTEN for c in process.net_connections("tcp")
        )
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


@dataclass
class Ended:
    """Result of a command: exit code (minus a signal), both streams, and duration."""

    code: int
    out: str
    err: str
    elapsed_s: float

    @property
    def values(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        (line,) = self.out.splitlines()
        return dict(json.loads(line))

    @property
    def run(self) -> dict[str, Any]:
        """The report of the only operation that ran."""
        (report,) = self.values["runs"]
        return dict(report)


class Driver:
    """A running ``cohort`` command, in a session of its own."""

    def __init__(self, zygote: Zygote, pid: int, out: Path, err: Path) -> None:
        self._zygote = zygote
        self.pid = pid
        self._out = out
        self._err = err
        self._began = time.monotonic()
        self._code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self._code is None:
            self._code = self._zygote.ask({"poll": self.pid})
        return self._code

    @property
    def err(self) -> str:
        """Standard error so far."""
        return self._err.read_text()

    def wait(self, timeout_s: float = RUN_S) -> Ended:
        """Wait for the end."""
        wait_for(lambda: self.poll() is not None, f"the end of driver {self.pid}", timeout_s)
        elapsed_s = time.monotonic() - self._began
        assert self._code is not None
        return Ended(self._code, self._out.read_text(), self.err, elapsed_s)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the driver alone."""
        if self.poll() is None:
            kill(self.pid, number)

    def interrupt(self) -> None:
        """Send SIGINT to each process of the session, as Ctrl-C does."""
        os.killpg(self.pid, signal.SIGINT)

    def session(self) -> list[int]:
        """Return the running processes of the session."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.pid and is_alive(process.pid):
                    found.append(process.pid)
            except (ProcessLookupError, PermissionError):
                continue
        return found


class Zygote:
    """Client of the fork server, see `tests.distributed.fork_server`."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self._count = 0
        self._drivers: list[Driver] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=folder,
            text=True,
        )
        self.ready = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the zygote ended")
        return line

    def ask(self, request: dict[str, Any]) -> Any:
        """Send a request and return the response."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._line())

    def start(self, *argv: str | Path, **how: Any) -> Driver:
        """Start ``cohort ARGV --json``; ``how`` is passed to the fork server."""
        self._count += 1
        out, err = (self.folder / f"{self._count:04d}.{name}" for name in ("out", "err"))
        request = {
            "argv": [*map(str, argv), "--json"],
            "stdout": str(out),
            "stderr": str(err),
            "cwd": str(self.folder / "cwd"),
            **how,
        }
        driver = Driver(self, self.ask(request), out, err)
        self._drivers.append(driver)
        return driver

    def run(self, *argv: str | Path, timeout_s: float = RUN_S, **how: Any) -> Ended:
        """Run a command to its end."""
        return self.start(*argv, **how).wait(timeout_s)

    def end_drivers(self) -> None:
        """Kill the drivers that a test left running, and all their children."""
        for driver in self._drivers:
            if driver.poll() is None:
                for pid in driver.session():
                    kill(pid)
                driver.wait(10)
        self._drivers.clear()

    def close(self) -> None:
        """End the fork server."""
        self.end_drivers()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


class Cluster:
    """A scheduler and workers, started with Dask's own commands.

    Without a nanny, unresponsive workers are neither ended nor restarted.
    """

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        *,
        workers: int = 2,
        options: Sequence[str] = (),
        nanny: bool = True,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._environment = {**environment, **CLUSTER_SETTINGS, **(settings or {})}
        self._options = options
        folder.mkdir(parents=True)
        file = folder / "scheduler.json"
        self._log = (folder / "log").open("w")
        self.scheduler = self._dask(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file),
            "--no-dashboard",
        )  # fmt: skip
        # The file exists before its last line does: wait until it is complete.
        wait_for(lambda: file.exists() and file.read_text().rstrip().endswith("}"), "the scheduler")
        self.address = str(json.loads(file.read_text())["address"])
        self._nanny = nanny
        counts = [workers] if nanny else [1] * workers
        self.nannies = [self._start_workers(count) for count in counts]
        if nanny:  # a driver waits 20 s for the first one, which a busy machine may exceed
            wait_for(lambda: len(self.workers()) >= workers, "all workers")

    def _dask(self, *argv: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", *argv]
        return subprocess.Popen(
            command,
            env=self._environment,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def _start_workers(self, workers: int) -> subprocess.Popen[bytes]:
        return self._dask(
            "worker", self.address, "--nworkers", str(workers), "--nthreads", "1",
            "--no-dashboard", "--local-directory", str(self._folder), "--death-timeout", "30",
            "--memory-limit", "0", "--nanny" if self._nanny else "--no-nanny", *self._options,
        )  # fmt: skip

    def workers(self) -> list[int]:
        """Return the ids of the worker processes, not those of their nannies."""
        if not self._nanny:
            return [process.pid for process in self.nannies if is_alive(process.pid)]
        return [pid for nanny in self.nannies for pid in worker_pids(nanny.pid)]

    def close(self) -> None:
        """End all processes."""
        for process in [*self.nannies, self.scheduler]:
            below = []
            if is_alive(process.pid):
                below = psutil.Process(process.pid).children(recursive=True)
            for pid in [process.pid, *(p.pid for p in below)]:
                kill(pid)
            process.wait(10)
        self._log.close()
