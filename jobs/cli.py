"""The command ``cohort``. Its interface is stable, since users' scripts and schedules depend on it.

`jobs.lazy_commands` lists the commands; each is imported when it is called.
"""

from __future__ import annotations

import sys
from typing import cast

import typer

from jobs.framework import app

__all__ = ["app", "main"]

WrongUsage = cast(type[typer.BadParameter], typer.BadParameter.__bases__[0])
"""Typer's error for invalid arguments."""


def main() -> None:
    """Run the command line; invalid usage ends with exit code 2 and a message."""
    try:
        sys.exit(app(standalone_mode=False))
    except WrongUsage as error:
        from engine.visible import visible

        error.message = visible(error.message, keep="\n")  # it may quote a file's name
        error.show()
        sys.exit(error.exit_code)
