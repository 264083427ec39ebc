"""Container of a pod as a process: own network, process ids, mounts, and a read-only root."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]

ALWAYS_SEEN = sorted({REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)})
"""Folders of our image: they are also visible below a volume that is mounted over them."""

SERVICE_ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"

SANDBOX = """\
set -euo pipefail
mount --make-rprivate /
mount -t tmpfs tmpfs {folder}
mkdir {folder}/root
cd {folder}
{stubs}
mount -t overlay overlay -o lowerdir={folder}/stub:/ root
mount -t proc proc root/proc
mount --rbind /dev root/dev
mount --bind {hosts} root/etc/hosts
{mounts}
exec /usr/sbin/chroot root {command}
"""


@dataclass
class Network:
    """Network of a pod: a namespace with one address on the node's bridge."""

    name: str
    address: str

    def make(self) -> None:
        """Create it."""
        inside, outside = f"i{self.name[-10:]}", f"o{self.name[-10:]}"
        for command in (
            f"ip netns add {self.name}",
            f"ip link add {outside} type veth peer name {inside}",
            f"ip link set {inside} netns {self.name}",
            f"ip link set {outside} master pods up",
            f"ip -n {self.name} link set lo up",
            f"ip -n {self.name} link set {inside} name eth0",
            f"ip -n {self.name} addr add {self.address}/16 dev eth0",
            f"ip -n {self.name} link set eth0 up",
        ):
            subprocess.run(shlex.split(command), check=True, capture_output=True)

    def remove(self) -> None:
        """Remove it, with its interfaces."""
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


@dataclass
class Container:
    """Container of a pod.

    Attributes
    ----------
    folder
        Folder of this pod, with its volumes.
    mounts
        Source on this machine, path in the container, and whether it is read-only.
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    folder: Path
    hosts: Path
    network: Network
    mounts: list[tuple[Path, str, bool]]
    process: asyncio.subprocess.Process | None = field(default=None, init=False)

    @property
    def log(self) -> Path:
        """Log of both streams, interleaved as Kubernetes does."""
        return self.folder / f"{self.name}.log"

    def _script(self) -> str:
        folder = self.folder / "sandbox"
        folder.mkdir(exist_ok=True)
        mounts = [*self.mounts, *((path, str(path), False) for path in ALWAYS_SEEN)]
        lines, stubs = [], ["mkdir stub"]
        for source, path, read_only in sorted(mounts, key=lambda each: each[1].count("/")):
            place = shlex.quote(f"root{path}")
            stubs.append(f"mkdir -p {shlex.quote(f'stub{path}')}")
            lines.append(f"mkdir -p {place} 2>/dev/null || true")
            lines.append(f"mount --bind {shlex.quote(str(source))} {place}")
            if read_only:
                lines.append(f"mount -o remount,bind,ro {place}")
        return SANDBOX.format(
            folder=folder, hosts=self.hosts, stubs="\n".join(stubs), mounts="\n".join(lines),
            command=shlex.join(self.command),
        )  # fmt: skip

    async def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                "ip", "netns", "exec", self.network.name,
                "unshare", "--mount", "--pid", "--fork", "--kill-child",
                "bash", "-c", self._script(),
                env=self.environment, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    @property
    def _first(self) -> int | None:
        """Return the process id on this machine of the container's process 1."""
        assert self.process is not None
        outer = self.process.pid
        try:
            children = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
        except FileNotFoundError:
            return None
        return int(children[0]) if children else None

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command."""
        first = self._first
        if first is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, number)

    async def run_inside(self, command: list[str]) -> int:
        """Run another command in it, as ``kubectl exec`` does."""
        first = self._first
        if first is None:
            return 1
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                "nsenter", "--target", str(first), "--net", "--mount", "--pid",
                f"--root=/proc/{first}/root", "--wd=/", *command,
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
            return await process.wait()

    async def wait(self) -> int:
        """Return its exit code, 128 and more for a signal."""
        assert self.process is not None
        code = await self.process.wait()
        return code if code >= 0 else 128 - code

    def discard(self) -> None:
        """Delete its folder, except the log."""
        for entry in self.folder.iterdir():
            if entry != self.log:
                shutil.rmtree(entry, ignore_errors=True)
