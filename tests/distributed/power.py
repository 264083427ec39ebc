"""Disks with power cuts: a loop device, and copies of its contents at a given moment."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SIZE = {"ext4": 256, "xfs": 320, "btrfs": 320}
"""MiB of a disk; files are sparse, and xfs can't be smaller."""

MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0"],
    "xfs": ["mkfs.xfs", "-q"],
    "btrfs": ["mkfs.btrfs", "-q"],
}

OPTIONS = {"ext4": "commit=30", "xfs": "nouuid", "btrfs": "commit=30"}
"""The journal's own commits are as far apart as with settings that save disk writes."""

COPY_TRIES = 50


@dataclass(frozen=True)
class Disk:
    """A file system on a loop device: its mount point, and its backing file."""

    kind: str
    place: Path
    image: Path

    def cut(self, copy: Path) -> None:
        """Copy the current contents of the device, without data that waits in memory.

        No process may use the disk during the copy, but the kernel continues to write back data. So
        copy until two copies are equal: then the device had these contents in between.
        """
        last = copy.with_suffix(".last")
        _copy(self.image, copy)
        for _ in range(COPY_TRIES):
            copy.replace(last)
            _copy(self.image, copy)
            if subprocess.run(["cmp", "-s", last, copy], check=False).returncode == 0:
                last.unlink()
                return
        raise AssertionError("the device was written to all the time")


def _copy(image: Path, copy: Path) -> None:
    subprocess.run(["cp", "--sparse=always", image, copy], check=True)


@contextmanager
def new_disk(folder: Path, kind: str) -> Iterator[Disk]:
    """Make and mount a file system for the block; skip the test if mounting is not permitted."""
    maker = shutil.which(MAKE[kind][0], path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    if os.geteuid() != 0 or maker is None or not Path("/dev/loop-control").exists():
        pytest.skip(f"no root, loop device or mkfs.{kind}: nothing is shown about power cuts here")
    folder.mkdir(parents=True, exist_ok=True)
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(SIZE[kind] * 1024**2)
    subprocess.run([maker, *MAKE[kind][1:], image], check=True, capture_output=True)
    with mounted(image, folder / "disk", kind) as place:
        yield Disk(kind, place, image)


@contextmanager
def mounted(image: Path, place: Path, kind: str) -> Iterator[Path]:
    """Mount the file system in a file for the block; its journal is replayed first."""
    place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        device = _loop(image)
        stack.callback(subprocess.run, ["losetup", "--detach", device], check=False)
        done = subprocess.run(
            ["mount", "-t", kind, "-o", OPTIONS[kind], device, place],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode and "unknown filesystem" in done.stderr + done.stdout:
            pytest.skip(f"this kernel knows no {kind}")
        assert done.returncode == 0, done.stderr
        stack.callback(subprocess.run, ["umount", place], check=True)
        yield place


def _loop(image: Path) -> str:
    """Attach a file to a loop device that bypasses this machine's page cache, if possible."""
    for direct in ("--direct-io=on", "--direct-io=off"):
        done = subprocess.run(
            ["losetup", "--find", "--show", direct, image],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            return done.stdout.strip()
    pytest.skip(f"no loop device can be had: {done.stderr.strip()}")
