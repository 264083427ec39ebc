"""What a command says: sentences or one JSON object; progress goes to standard error."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from engine.errors import EngineError
from engine.graph.events import Events

LINE_S = 15.0
"""How often progress is a line where there is no terminal, seconds."""

FILE_COLUMNS = 100
"""Width of tables where there is no terminal that says its own."""


class Output:
    """Standard output for results, standard error for progress and errors."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        width = None if sys.stdout.isatty() else FILE_COLUMNS
        self._out = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)
        self._err = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._shown: ShownEvents | None = None

    @property
    def events(self) -> Events:
        """Where progress goes."""
        if self._shown is None:
            self._shown = ShownEvents(self._err)
        return self._shown

    def say(self, text: str) -> None:
        """Say something that is not the result."""
        self._quiet()
        self._err.print(text, markup=False)

    def result(self, values: dict[str, Any], *lines: str | Table) -> None:
        """Give the result: the values as JSON, or else the lines."""
        self._quiet()
        if self.as_json:
            sys.stdout.write(json.dumps(values, default=str) + "\n")
            sys.stdout.flush()
            return
        for line in lines:
            self._out.print(line, markup=False) if isinstance(line, str) else self._out.print(line)

    def error(self, error: EngineError) -> None:
        """Say what went wrong, in a sentence."""
        self._quiet()
        if self.as_json:
            values = {"error": type(error).__name__, "message": str(error)}
            sys.stdout.write(json.dumps(values) + "\n")
        self._err.print(f"cohort: {error}", markup=False)

    def interrupted(self) -> None:
        """Say that a second Ctrl-C ended it at once."""
        self._quiet()
        self._err.print("cohort: stopped at once; what was committed stays.", markup=False)

    def _quiet(self) -> None:
        if self._shown is not None:
            self._shown.close()
            self._shown = None

    def close(self) -> None:
        """End the progress display."""
        self._quiet()


class ShownEvents(Events):
    """Shows progress as bars on a terminal, and as a line every so often elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[str, list[float]] = {}
        if console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:>10}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[failed]}"),
                console=console,
            )
            self._bars.start()

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage, or enlarge it."""
        now = time.monotonic()
        known = self._counts.setdefault(stage, [0.0, 0.0, 0.0, now, now])
        known[1] += total
        if self._bars is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=0, rate="", failed="")
            self._bars.update(self._tasks[stage], total=known[1])

    def advance(self, stage: str, count: int, failed: int = 0) -> None:
        """Count things as ended."""
        known = self._counts[stage]
        known[0] += count
        known[2] += failed
        done, total, failures, began, last = known
        now = time.monotonic()
        rate = done / max(now - began, 1e-3)
        told = f"{failures:.0f} failed" if failures else ""
        if self._bars is not None:
            task = self._tasks[stage]
            self._bars.update(task, completed=done, rate=f"{rate:.1f}/s", failed=told)
        elif now - last > LINE_S:
            known[4] = now
            left = (total - done) / max(rate, 1e-6)
            line = f"{stage}: {done:.0f} of {total:.0f}, {rate:.1f}/s, {left:.0f} s left"
            self._console.print(f"{line}, {told}" if told else line, markup=False)

    def note(self, text: str) -> None:
        """Say something once."""
        self._console.print(text, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
