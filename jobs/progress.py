"""Progress display: bars on a terminal, otherwise a line at intervals."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from engine.execution.progress import Stage, StageTracker
from engine.visible import visible

LINE_S = 30.0
"""Interval of lines for a stage without a terminal, seconds."""


class ConsoleProgress(StageTracker):
    """Progress on a console, until it is closed."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def note(self, text: str) -> None:
        """Print a message once."""
        self.console.print(visible(text), markup=False)

    def close(self) -> None:
        """Restore the terminal."""


def console_progress(console: Console) -> ConsoleProgress:
    """Return the display that fits a console: bars need one that can rewrite a line."""
    bars = console.is_terminal and not console.is_dumb_terminal
    return ProgressBars(console) if bars else LogLines(console)


class ProgressBars(ConsoleProgress):
    """A bar for each stage, with its rate, the remaining time and the failures."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._tasks: dict[str, TaskID] = {}
        narrow = Column(no_wrap=True)
        self._bars = Progress(
            TextColumn("{task.description}", table_column=narrow, markup=False),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8, max_width=40)),
            TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True, justify="right")),
            TextColumn("{task.fields[stage].rate}", style="cyan", table_column=narrow),
            TextColumn("{task.fields[stage].time}", table_column=narrow),
            TextColumn("{task.fields[stage].failures}", style="red", table_column=narrow),
            console=console,
            expand=True,
            redirect_stdout=False,
        )

    def show(self, stage: Stage) -> None:
        """Update its bar; the remaining time updates by itself."""
        count = f"{stage.done:,}/{stage.total:,} {stage.unit}"
        if stage.name not in self._tasks:
            self._bars.start()
            self._tasks[stage.name] = self._bars.add_task(stage.name, stage=stage, count=count)
        self._bars.update(
            self._tasks[stage.name], completed=stage.done, total=max(stage.total, 1), count=count
        )

    def close(self) -> None:
        """Restore the terminal, and keep the bars as they are."""
        self._bars.stop()


class LogLines(ConsoleProgress):
    """One line per stage every `LINE_S`, and at its end."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._said_s: dict[str, float] = {}

    def show(self, stage: Stage) -> None:
        """Print the progress of a stage, if the last line is old enough."""
        now = time.monotonic()
        due = now - self._said_s.setdefault(stage.name, now) >= LINE_S
        if due or not stage.running:
            self._said_s[stage.name] = now
            self.console.print(str(stage), markup=False)
