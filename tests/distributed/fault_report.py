"""Fault report: each test of a fault records its losses, and the sums are printed as a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = Path(__file__).parents[2] / "build" / "faults.json"


@dataclass
class Trial:
    """Measurements of one test.

    Attributes
    ----------
    trials
        Number of injected faults; counted as 1 if a test does not set it.
    lost
        Images or files that a successful command should have produced and did not, and rows
        that were committed before the fault and are missing.
    recomputed
        Images that were computed again without a request: the cost of the fault.
    silent
        Wrong or duplicate rows, and unreported damage.
    """

    trials: int = 0
    lost: int = 0
    recomputed: int = 0
    silent: int = 0


@dataclass
class Line:
    """Sums of all tests of one fault."""

    fault: int
    what: str
    trials: int = 0
    survived: int = 0
    lost: int = 0
    recomputed: int = 0
    silent: int = 0


class Survival:
    """Table of all faults, filled by tests as they end."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, str], Line] = {}

    def add(self, fault: int, what: str, trial: Trial, passed: bool) -> None:
        """Add a test's numbers; a failed test survived all its trials but the last."""
        line = self._lines.setdefault((fault, what), Line(fault, what))
        count = max(1, trial.trials)
        line.trials += count
        line.survived += count - (not passed)
        line.lost += trial.lost
        line.recomputed += trial.recomputed
        line.silent += trial.silent

    @property
    def lines(self) -> list[Line]:
        """Return the lines, by fault."""
        return [line for _, line in sorted(self._lines.items())]

    def text(self) -> Iterator[str]:
        """Yield the table's lines."""
        width = max(len(line.what) for line in self.lines)
        names = ("trials", "survived", "lost", "recomputed", "silent")
        yield f"{'fault':>5}  {'':{width}}" + "".join(f"{name:>12}" for name in names)
        for line in self.lines:
            numbers = "".join(f"{getattr(line, name):>12}" for name in names)
            yield f"{line.fault:>5}  {line.what:{width}}{numbers}"

    def write(self, file: Path = FILE) -> None:
        """Write the table as JSON."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([asdict(line) for line in self.lines], indent=2) + "\n")
