"""Output of a command: sentences or one JSON object; progress goes to standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.errors import EngineError
from engine.execution.progress import ProgressListener
from engine.visible import visible
from jobs.progress import ConsoleProgress, console_progress
from jobs.streams import FaultTolerantStream

FILE_COLUMNS = 100
"""Width of tables if there is no terminal with a width."""


def _console(stream: FaultTolerantStream, width: int | None) -> Console:
    """Return a console that prints text unchanged: no markup, no emoji by name."""
    return Console(
        file=stream.stream, width=width, highlight=False, soft_wrap=True, markup=False, emoji=False
    )


class Output:
    """Standard output for results, standard error for progress and errors."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        width = None if sys.stdout.isatty() else FILE_COLUMNS
        self._stdout = FaultTolerantStream(sys.stdout)
        stderr = FaultTolerantStream(sys.stderr)
        self._out = _console(self._stdout, width)
        self._err = _console(stderr, None)
        self._shown: ConsoleProgress | None = None

    @property
    def events(self) -> ProgressListener:
        """Listener that displays progress."""
        if self._shown is None:
            self._shown = console_progress(self._err)
        return self._shown

    def info(self, text: str) -> None:
        """Print a message that is not the result; above the progress bars, if there are any."""
        self._err.print(visible(text, keep="\n"))

    def result(self, values: dict[str, Any], *lines: str | Table) -> None:
        """Print the result: the values as JSON, or else the lines."""
        self._quiet()
        if self.as_json:
            self._as_json(values)
            return
        for line in lines:
            self._out.print(visible(line, keep="\n") if isinstance(line, str) else line)

    def error(self, error: EngineError) -> None:
        """Print an error as one sentence."""
        self._quiet()
        if self.as_json:
            self._as_json({"error": type(error).__name__, "message": str(error)})
        self.info(f"cohort: {error}")
        for note in [] if self.as_json else getattr(error, "__notes__", []):
            self.info(note)  # position in the input

    def interrupted(self) -> None:
        """Report that a second Ctrl-C stopped the command immediately."""
        self._quiet()
        told = "stopped at once; committed work is kept. Run the command again to continue."
        if self.as_json:
            self._as_json({"error": "KeyboardInterrupt", "message": told})
        self.info(f"cohort: {told}")

    def _as_json(self, values: dict[str, Any]) -> None:
        # JSON escapes all that is not ASCII, and so every terminal control character except DEL.
        self._stdout.write(json.dumps(values, default=str).replace("\x7f", "\\u007f") + "\n")
        self._stdout.flush()

    def _quiet(self) -> None:
        if self._shown is not None:
            self._shown.close()
            self._shown = None

    def close(self) -> bool:
        """Close the progress display, and return whether standard output got the complete result.

        If not, standard error gets the reason.
        """
        self._quiet()
        lost = self._stdout.lost
        if lost is not None:
            told = f"the result can't be written: {lost.strerror}. Committed work is kept."
            self.info(f"cohort: {told}")
        return lost is None
