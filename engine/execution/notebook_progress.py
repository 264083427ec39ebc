"""Progress in a notebook: one display that updates itself, and remains as a summary.

It uses only Jupyter's own displays, without widgets, so it works in JupyterLab, VS Code and on a
page exported from the notebook.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from engine.execution.progress import ProgressListener, Stage, StageTracker
from engine.pages.rendering import render

EVERY_S = 0.2
"""Minimum interval between updates, seconds: each one is sent to the browser."""


def default_progress() -> ProgressListener:
    """Return events that show progress in a notebook, and silent ones elsewhere."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return NotebookEvents() if hasattr(running, "kernel") else ProgressListener()


class NotebookEvents(StageTracker):
    """Events that show stages and notes as an updating display of a notebook's cell."""

    def __init__(self) -> None:
        super().__init__()
        self._notes: list[str] = []
        self._handle: Any = None
        self._shown_s = 0.0

    def show(self, stage: Stage) -> None:
        """Show all stages, if the last update is old enough or a stage ended."""
        now = time.monotonic()
        if stage.running and now - self._shown_s < EVERY_S:
            return
        self._shown_s = now
        self._update()

    def note(self, text: str) -> None:
        """Show a sentence below the stages."""
        self._notes.append(text)
        self._update()

    def _update(self) -> None:
        from IPython.display import DisplayHandle

        if self._handle is None:
            self._handle = DisplayHandle()
            self._handle.display(self)
        else:
            self._handle.update(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        lines = [*map(str, self.stages.values()), *self._notes]
        stages = list(self.stages.values())
        page = render("execution/progress.html.jinja", stages=stages, notes=self._notes)
        return {"text/plain": "\n".join(lines), "text/html": page}
