"""Help and completion for the parameters of operations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pytest
from typer.testing import CliRunner

import engine
from engine.operations.base import Operation
from engine.operations.registry import operations
from jobs.cli import app
from jobs.operation_help import parameters_help


class Base(Operation):
    """An operation with one parameter.

    Parameters
    ----------
    size_px
        Size of
        a box, pixels.
    """

    object_schema: ClassVar[pa.Schema] = pa.schema([])
    size_px: int


class Detailed(Base):
    """An operation with several.

    Parameters
    ----------
    range_um, ratio : optional
        Described ``together``.
    mode
        By name; by default "a".

    Returns
    -------
    Nothing that matters here.
    """

    name: ClassVar[str] = "detailed"
    range_um: tuple[float, float] | None = (0.5, 2)
    ratio: float = 1.0
    mode: Literal["a", "b"] = "a"
    more: dict[str, Any] | None = None


def test_each_parameter_has_its_type_its_default_and_its_description() -> None:
    assert parameters_help(Detailed) == [
        ("--size-px", "INTEGER", "Size of a box, pixels."),
        ("--range-um", "LOW:HIGH", "Described together. [default: 0.5:2]"),
        ("--ratio", "NUMBER", "Described together. [default: 1]"),
        ("--mode", "a|b", 'By name; by default "a".'),
        ("--more", "JSON", ""),
    ]


@pytest.mark.parametrize("name", sorted(operations()))
def test_help_lists_the_parameters_of_each_operation(name: str) -> None:
    for command in ("plan", "run", "qc"):
        done = CliRunner().invoke(app, [command, "nowhere", name, "--help"])
        assert done.exit_code == 0
        after = done.output.split(f"Parameters of {name}:")[1]
        for field in operations()[name].model_fields:
            assert f"--{field.replace('_', '-')} " in after


def test_all_parameters_of_the_built_in_operations_are_described() -> None:
    for name in ("circles", "contours", "bloodpool", "segment"):
        assert all(one.text for one in parameters_help(operations()[name])), name


def test_help_of_an_unknown_operation_names_those_there_are() -> None:
    done = CliRunner().invoke(app, ["run", "nowhere", "circels", "--help"])
    assert done.exit_code == 2
    assert "circles" in done.output


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("cohort ru", {"run"}),
        ("cohort run c ci", {"circles"}),
        ("cohort run c circles --radius", {"--radius-px", "--radius-um"}),
        ("cohort run c circles --wo", {"--workers"}),
        ("cohort run c nothing --radius", set()),
    ],
)
def test_the_shell_completes_operations_and_their_parameters(
    words: str, expected: set[str]
) -> None:
    environment = {
        "_COHORT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    done = CliRunner().invoke(app, [], env=environment, prog_name="cohort")
    assert {*done.output.split()} == expected


def test_a_function_without_parameters_has_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "def plain(image): ...\n\ndef chosen(image, sides: tuple = ('left', 'right')): ...\n"
    (tmp_path / "lab_of_help.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    engine.create(tmp_path / "cohort")
    with (tmp_path / "cohort/cohort.toml").open("a") as toml:
        for name in ("plain", "chosen"):
            toml.write(f'\n[operations.{name}]\nfunction = "lab_of_help:{name}"\n')
    for name, told in (("plain", "Usage:"), ("chosen", "[default: ('left', 'right')]")):
        done = CliRunner().invoke(app, ["run", str(tmp_path / "cohort"), name, "--help"])
        assert done.exit_code == 0, done.output
        assert told in done.output
