"""The commands of ``cohort`` by name; each is imported when it is called, or its help is asked."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup


class Place(NamedTuple):
    """Where a command is defined, and the one line that ``cohort --help`` says of it."""

    module: str
    help: str


COMMANDS = {
    "demo": Place("core", "Make images, find their circles, show them, and say where to look."),
    "ingest": Place("core", "Take what is new or changed."),
    "plan": Place("core", "Say what a run would compute, and why; computes nothing."),
    "run": Place("core", "Compute what lacks a result, and make the tables."),
    "qc": Place("core", "Make pictures of what was found, and a page that shows them."),
    "nightly": Place(
        "core", "Ingest, run all that is declared, make its pictures, and say what came of it."
    ),
    "status": Place("core", "Say what is there, what is missing and what failed."),
    "verify": Place("core", "Check every file against the ledgers."),
    "gc": Place("core", "Remove what no commit names: leftovers of runs that were killed."),
    "export": Place("export", "Write a table to a file; the suffix says which kind."),
    "train": Place(
        "training",
        "Train a network on the images that have masks; the same command goes on where it was.",
    ),
    "evaluate": Place(
        "training",
        "Compare what segment answers with masks: DSC, bone density, and pictures of the errors.",
    ),
    "diff": Place(
        "training",
        "Compare two evaluations of the same images: two models, or two keys, side by side.",
    ),
    "phantom": Place("phantoms", "Make images with known truth (truth.parquet beside them)."),
    "model": Place("models", "Take weights made elsewhere, and say what a model is."),
}
"""In the order of ``--help``. A test holds the lines to the commands' own docstrings."""

GROUPS = {"phantom", "model"}
"""Commands that have commands of their own: the ``app`` of their module."""


class LazyCommands(MutableMapping[str, Any]):
    """Commands by name, made when they are looked up; the names are there without."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module = import_module(f"jobs.commands.{COMMANDS[name].module}")
            self._made[name] = _group(name, module.app) if name in GROUPS else _command(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]


def _command(name: str) -> Any:
    from jobs.framework import app

    for info in app.registered_commands:
        if name == (info.name or info.callback.__name__):  # type: ignore[union-attr]
            return typer.main.get_command_from_info(
                info, pretty_exceptions_short=False, rich_markup_mode=None
            )
    raise KeyError(name)


def _group(name: str, app: typer.Typer) -> Any:
    group = typer.main.get_group(app)
    group.name = name
    return group


class Commands(TyperGroup):
    """The group ``cohort``, whose help and completion import no command."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": LazyCommands()})

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one line for each command, and the names of the operations."""
        from engine.operations.registry import operation_names

        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in COMMANDS.items()])
        with formatter.section("Operations"):
            formatter.write_text(
                f"{', '.join(operation_names())}. "
                "cohort run COHORT OPERATION --help lists the parameters of one."
            )

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the commands that begin with some letters, or options."""
        from typer._click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=place.help)
            for name, place in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found or super(TyperGroup, self).shell_complete(ctx, incomplete)
