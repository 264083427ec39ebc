"""Two hosts as network namespaces, with a link between them that can be cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.distributed.processes import wait_for

SCHEDULER_PORT = 8786

BIN = Path(sys.executable).parent


def certificate_settings(folder: Path, *, required: bool = True) -> dict[str, str]:
    """Return Dask's settings for certificates, as environment variables.

    These are all that ``cohort run --scheduler tls://...`` needs.
    """
    prefix = "DASK_DISTRIBUTED__COMM"
    files = {"CERT": folder / "tls.crt", "KEY": folder / "tls.key"}
    return {
        f"{prefix}__REQUIRE_ENCRYPTION": str(required),
        f"{prefix}__TLS__CA_FILE": str(folder / "ca.crt"),
        **{
            f"{prefix}__TLS__{part}__{name}": str(path)
            for part in ("SCHEDULER", "WORKER", "CLIENT")
            for name, path in files.items()
        },
    }


@dataclass
class Hosts:
    """Hosts ``a`` and ``b``; processes on them have their own environment."""

    folder: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._names = {host: f"cohort-{host}-{os.getpid()}" for host in "ab"}
        self.addresses = {"a": "10.77.0.1", "b": "10.77.0.2"}

    def make(self) -> None:
        """Create the hosts and the link, isolated from this machine's own network."""
        names = self._names
        for name in names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", names["a"], "link", "add", "wire", "type", "veth",
            "peer", "name", "wire", "netns", names["b"])  # fmt: skip
        for host, name in names.items():
            _ip("-n", name, "addr", "add", f"{self.addresses[host]}/24", "dev", "wire")
            _ip("-n", name, "link", "set", "wire", "up")

    def remove(self) -> None:
        """End the processes on the hosts, and remove the hosts."""
        for process in self.processes:
            process.kill()
            process.wait()
        for name in self._names.values():
            pids = subprocess.run(
                ["ip", "netns", "pids", name], capture_output=True, text=True, check=False
            ).stdout.split()
            for pid in pids:
                subprocess.run(["kill", "-9", pid], check=False)
            subprocess.run(["ip", "netns", "del", name], check=False)

    def set_wire(self, state: str) -> None:
        """Set the link ``down`` or ``up``."""
        _ip("-n", self._names["b"], "link", "set", "wire", state)

    def start(self, host: str, name: str, *command: str, **more: str) -> subprocess.Popen[bytes]:
        """Start a command of our environment on a host, with its output in ``<name>.log``."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self._names[host], BIN / command[0], *command[1:]],
                env={**self.environment, **more}, cwd=self.folder, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, host: str, name: str, *command: str, **more: str) -> tuple[int, str]:
        """Run a command to its end, and return its exit code and output."""
        code = self.start(host, name, *command, **more).wait(240)
        return code, self.log(name)

    def log(self, name: str) -> str:
        """Return a command's output so far."""
        return (self.folder / f"{name}.log").read_text()

    @property
    def scheduler(self) -> str:
        """Address of the scheduler, on host ``a``."""
        return f"tls://{self.addresses['a']}:{SCHEDULER_PORT}"

    def start_cluster(self) -> None:
        """Start a scheduler on one host, and a worker on each."""
        file = self.folder / "scheduler.json"
        self.start(
            "a", "scheduler", "dask", "scheduler", "--protocol", "tls", "--host",
            self.addresses["a"], "--port", str(SCHEDULER_PORT), "--no-dashboard",
            "--scheduler-file", str(file),
        )  # fmt: skip
        wait_for(lambda: file.exists() and file.read_text().rstrip().endswith("}"), "scheduler")
        assert json.loads(file.read_text())["address"] == self.scheduler
        for host in "ab":
            self.start(
                host, f"worker-{host}", "dask", "worker", self.scheduler, "--name", host, "--host",
                self.addresses[host], "--protocol", "tls", "--nthreads", "1", "--memory-limit", "0",
                "--no-dashboard", "--death-timeout", "60", "--local-directory", str(self.folder),
            )  # fmt: skip


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def two_hosts(folder: Path, environment: dict[str, str]) -> Iterator[Hosts]:
    """Create two hosts, or skip with a message."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("hosts of network namespaces need root and the command ip")
    folder.mkdir()
    hosts = Hosts(folder, environment)
    try:
        try:
            hosts.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
        yield hosts
    finally:
        hosts.remove()
