"""The command ``cohort``. Its interface is stable, since users' scripts and schedules depend on it.

Each module of commands adds its own to the app when it is imported, in the order of ``--help``.
"""

from __future__ import annotations

import sys
from typing import cast

import typer

from engine.visible import visible
from jobs.commands import core as commands
from jobs.commands import export as exports
from jobs.commands import models, phantoms
from jobs.commands import training as learning
from jobs.framework import app

__all__ = ["app", "commands", "exports", "learning", "main"]

WrongUsage = cast(type[typer.BadParameter], typer.BadParameter.__bases__[0])
"""Typer's error for invalid arguments."""

app.add_typer(phantoms.app, name="phantom")
app.add_typer(models.app, name="model")


def main() -> None:
    """Run the command line; invalid usage ends with exit code 2 and a message."""
    try:
        sys.exit(app(standalone_mode=False))
    except WrongUsage as error:
        error.message = visible(error.message, keep="\n")  # it may quote a file's name
        error.show()
        sys.exit(error.exit_code)
