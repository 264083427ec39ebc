"""Time of commands that have little to do, against a bare interpreter and an earlier version.

Both versions run in turn, each on a cohort that it made itself, so that the ratios hold while the
machine's speed drifts. Of the children's CPU time and wall time, CPU time is the one to compare on
a busy machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engine.phantoms import DiscOptions, write_discs
from tests.distributed.processes import REPOSITORY

EARLIER = "d9fba47"
"""Commit whose command line imported everything and always started a cluster."""

IMAGES = 12
ROUNDS = 5

PROGRAM = "if __name__ == '__main__':\n    from jobs.start import main\n    main()\n"


class Version:
    """Command line of a version of the source code, and the cohort that it works on."""

    def __init__(self, tree: Path, folder: Path, images: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.program = folder / "cohort.py"
        self.program.write_text(PROGRAM)
        self.environment = {**os.environ, "PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(folder)}
        self.cohort = str(folder / "cohort")
        self.run("ingest", self.cohort, str(images))
        self.run("run", self.cohort, "circles", "--radius-px", "10:30")

    def run(self, *arguments: str) -> tuple[float, float]:
        """Run a command; return its wall time and CPU time, seconds."""
        return timed([sys.executable, str(self.program), *arguments], self.environment)


def timed(command: list[str], environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Run a command; return its wall time and the CPU time of it and its children, seconds."""
    before, began = os.times(), time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    wall_s, after = time.perf_counter() - began, os.times()
    cpu_s = after.children_user + after.children_system
    return wall_s, cpu_s - before.children_user - before.children_system


def main() -> dict[str, float]:
    """Print and return the ratios."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = folder / "earlier"
        git = ["git", "-C", str(REPOSITORY), "worktree"]
        there = ["git", "-C", str(REPOSITORY), "cat-file", "-e", EARLIER]
        if subprocess.run(there, capture_output=True, check=False).returncode:
            print(f"SKIPPED bench_startup: this copy of the repository lacks commit {EARLIER}")
            return figures
        subprocess.run([*git, "add", "--detach", str(tree), EARLIER], check=True)
        try:
            images = folder / "images"
            write_discs(images, DiscOptions(images=IMAGES))
            now, earlier = (
                Version(place, folder / kind, images)
                for place, kind in ((REPOSITORY, "now"), (tree, "then"))
            )
            bare = statistics.median(
                now.run("--help")[0] / timed([sys.executable, "-c", "pass"])[0]
                for _ in range(ROUNDS)
            )
            figures["cohort --help / python -c pass"] = bare
            for command in ("status", "run", "ingest"):
                ratios = []
                for _ in range(ROUNDS):
                    one, other = now.run(command, now.cohort), earlier.run(command, earlier.cohort)
                    ratios.append([a / b for a, b in zip(one, other, strict=True)])
                for kind, values in zip(("wall", "CPU"), zip(*ratios, strict=True), strict=True):
                    figures[f"{command}, nothing to do, {kind} / {EARLIER}"] = statistics.median(
                        values
                    )
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    for label, value in figures.items():
        print(f"{label}: {value:.2f}")
    return figures


if __name__ == "__main__":
    main()
