"""The command ``cohort``: what people and schedules call. Stable: their scripts depend on it.

Each module of commands adds its own to the app when it is imported, in the order of ``--help``.
"""

from __future__ import annotations

from jobs import commands, exports, learning, models, phantoms
from jobs.app import app

__all__ = ["app", "commands", "exports", "learning", "main"]

app.add_typer(phantoms.app, name="phantom")
app.add_typer(models.app, name="model")


def main() -> None:
    """Run the command line; wrong usage ends with exit code 2 and a sentence."""
    app()
