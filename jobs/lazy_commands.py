"""The commands of ``cohort`` by name, imported when they are called or their help is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup


class Place(NamedTuple):
    """Module of a command, and its line in ``cohort --help``."""

    module: str
    help: str


COMMANDS = {
    "demo": Place("core", "Make images, find their circles, show them, and say where to look."),
    "ingest": Place("core", "Ingest new and changed images."),
    "plan": Place("core", "Show what a run would compute, and why; computes nothing."),
    "run": Place("core", "Compute missing results, and update the tables."),
    "qc": Place("core", "Make pictures of the results, and a page that shows them."),
    "nightly": Place(
        "core", "Ingest, run and render all declared operations, and print a summary."
    ),
    "status": Place("core", "Show existing, missing and failed results."),
    "verify": Place("core", "Check every file against the ledgers."),
    "gc": Place("core", "Delete unreferenced files, the leftovers of killed runs."),
    "export": Place("export", "Write a table to a file; the suffix selects the format."),
    "train": Place(
        "training",
        "Train a network on the images with masks; the same command resumes a stopped training.",
    ),
    "evaluate": Place(
        "training",
        "Compare predictions of segment with masks: DSC, bone density, and pictures of errors.",
    ),
    "diff": Place(
        "training",
        "Compare two evaluations of the same images: two models, or two keys, side by side.",
    ),
    "phantom": Place("phantoms", "Make images with known truth beside them."),
    "model": Place("models", "Take weights made elsewhere, and say what a model is."),
}
"""Commands in the order of ``--help``; a test compares the lines with the docstrings."""

GROUPS = {"phantom", "model"}
"""Names of the groups of commands: the ``app`` of their module."""


class LazyCommands(Mapping[str, Any]):
    """Mapping of names to commands; looking up a command imports its module."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module = import_module(f"jobs.commands.{COMMANDS[name].module}")
            self._made[name] = (_group if name in GROUPS else _command)(name, module.app)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def _command(name: str, app: typer.Typer) -> Any:
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
    """The group ``cohort``; its help and its completion import no command."""

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
        """Return the commands, or options, that begin with the given letters."""
        from typer._click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=place.help)
            for name, place in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found or super(TyperGroup, self).shell_complete(ctx, incomplete)
