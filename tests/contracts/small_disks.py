"""Real file systems that are small or read-only, if this user may mount them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    """Mount a tmpfs for the block; skip the test if mounting is not permitted."""
    folder.mkdir(parents=True)
    mount(folder, f"size={size}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def mount(folder: Path, options: str) -> None:
    """Mount, or remount, a tmpfs."""
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no permission to mount a tmpfs: nothing is shown about small disks here")


def fill(disk: Path, leave: int = 0) -> Path:
    """Fill a disk except for some bytes, and return the file that fills it."""
    path = disk / "filling"
    with path.open("wb") as file:
        free = os.statvfs(disk)
        file.write(b"\1" * max(0, free.f_bavail * free.f_frsize - leave))
    return path
