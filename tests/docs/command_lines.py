"""Parser of documented shell, which checks each line against the real command line."""

from __future__ import annotations

import re
import shlex
import tomllib
from functools import cache
from typing import Any

import typer.main

import jobs.cli
from engine.conditions.parsing import parse_condition
from engine.learning.training.settings import TrainingSettings
from engine.operations.functions.creation import create_operation
from engine.operations.registry import BUILT_IN
from jobs.options import read_parameters
from tests.docs.pages import TOP

OURS = {"cohort", "make", "pip"}


@cache
def application() -> Any:
    """Return the command line as the user gets it."""
    return typer.main.get_command(jobs.cli.app)


def lines_of(code: str) -> list[str]:
    """Return the lines of a shell block, with continued ones joined."""
    return [line.strip() for line in code.replace("\\\n", " ").splitlines() if line.strip()]


def check_line(line: str) -> bool:
    """Parse a line if its program is checked here; return whether it was.

    Raises
    ------
    Exception
        If the program would refuse the line.
    """
    words = shlex.split(line, comments=True)
    if not words or words[0] not in OURS:
        return False
    {"cohort": check_cohort, "make": check_make, "pip": check_pip}[words[0]](words[1:])
    return True


def check_make(words: list[str]) -> None:
    """Require that the targets exist."""
    known = set(re.findall(r"^([\w-]+):", (TOP / "Makefile").read_text(), re.M))
    assert set(words) <= known, words


def check_pip(words: list[str]) -> None:
    """Require that the extras of this package exist."""
    known = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert words[0] == "install"
    for word in words[1:]:
        ours = re.fullmatch(r"\.(?:\[(.*)\])?", word)
        if ours and ours[1]:
            assert set(ours[1].split(",")) <= set(known), word


def check_cohort(words: list[str]) -> None:
    """Parse arguments and options as `cohort` does, and create what the parameters are of."""
    command, left = application(), [word for word in words if word != "--help"]
    while hasattr(command, "commands"):
        command = command.commands[left.pop(0)]
    with command.make_context(command.name, left) as made:
        given, parameters = dict(made.params), list(made.args)
    if where := given.get("where"):
        parse_condition(where)
    if command.name == "train":
        TrainingSettings(**{"name": "documented", **read_parameters(parameters)})
    elif parameters:
        operation = given.get("operation") or "segment"
        if operation in BUILT_IN:  # another one is of the reader's own package
            read = read_parameters(parameters)
            if "model" in read:  # a folder that only the reader has
                read["model"] = "marrow"
            create_operation(operation, {}, read)
