"""What a command says: sentences or one JSON object; progress goes to standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.errors import EngineError
from engine.graph.events import Events
from jobs.progress import Shown, shown_on

FILE_COLUMNS = 100
"""Width of tables where there is no terminal that says its own."""


class Output:
    """Standard output for results, standard error for progress and errors."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        width = None if sys.stdout.isatty() else FILE_COLUMNS
        self._out = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)
        self._err = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._shown: Shown | None = None

    @property
    def events(self) -> Events:
        """Where progress goes."""
        if self._shown is None:
            self._shown = shown_on(self._err)
        return self._shown

    def say(self, text: str) -> None:
        """Say something that is not the result; above the bars, where there are any."""
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
        told = "stopped at once; what was committed stays. Run it again to go on."
        if self.as_json:
            sys.stdout.write(json.dumps({"error": "KeyboardInterrupt", "message": told}) + "\n")
        self._err.print(f"cohort: {told}", markup=False)

    def _quiet(self) -> None:
        if self._shown is not None:
            self._shown.close()
            self._shown = None

    def close(self) -> None:
        """End the progress display."""
        self._quiet()
