"""The documentation agrees with the code: links, citations, commands, settings and examples."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import io
import re
import shlex
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import engine
import jobs.cli
from engine.conditions.parsing import parse_condition
from engine.ingest.file_geometry import geometry_of
from engine.operations.registry import BUILT_IN, find_operation
from engine.sources import open_source, registry
from engine.store.config import parse_config
from tests.contracts import test_sources as contract
from tests.support.operations import install_below

TOP = Path(__file__).resolve().parents[1]
DOCS = TOP / "docs"
PAGES = sorted(
    path
    for path in [*DOCS.rglob("*.md"), *TOP.glob("*.md"), TOP / "deploy" / "README.md"]
    if not {"generated", "_build", "python"} & set(path.relative_to(TOP).parts)
)
CODE = sorted(
    path for name in ("engine", "jobs", "tests", "deploy") for path in (TOP / name).rglob("*.*")
)
KNOWN = {"--help", "--version", "--no-deps"}


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    """Yield the code blocks of a language, without their indentation."""
    for page in PAGES:
        for indent, code in re.findall(
            rf"^([ ]*)```{language}\n(.*?)^\1```", page.read_text(), re.M | re.S
        ):
            yield page, textwrap.dedent(indent + code[len(indent) :]) if indent else code


def section(page: Path, heading: str) -> str:
    """Return a page's text below a heading."""
    return page.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]


def test_links_lead_to_files() -> None:
    """Sphinx checks the site; this checks pages that are read on their own, too."""
    broken = [
        f"{page.relative_to(TOP)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in target
        and not (page.parent / target).exists()
        and not (target.endswith(".ipynb") and (TOP / "notebooks" / Path(target).name).exists())
    ]
    assert broken == []


def test_citations_name_what_exists() -> None:
    faults = (DOCS / "explanation" / "faults.md").read_text()
    guarantees = (DOCS / "explanation" / "guarantees.md").read_text()
    wrong = []
    for path in CODE:
        if path.suffix not in (".py", ".md", ".yaml", ".toml") or path == Path(__file__):
            continue
        text = path.read_text()
        wrong += [(path.name, p) for p in re.findall(r"docs/[\w/-]+\.md", text)
                  if not (TOP / p).exists()]  # fmt: skip
        wrong += [(path.name, f"fault {n}") for n in re.findall(r"[Ff]ault\(?\s?(\d+)\b", text)
                  if f"| {n} | " not in faults]  # fmt: skip
        wrong += [(path.name, f"invariant {n}") for n in re.findall(r"[Ii]nvariant (\d+)", text)
                  if f"\n## {n}. " not in guarantees]  # fmt: skip
    assert wrong == []


def test_everything_from_the_code_is_described() -> None:
    """Columns, entries of cohort.toml, parameters: each has a description, and no other has."""
    spec = importlib.util.spec_from_file_location("from_code", DOCS / "_ext" / "from_code.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.fragments()
    included = {
        name
        for page in PAGES
        for name in re.findall(r"\{include\} \.\./generated/([\w-]+)\.md", page.read_text())
    }
    assert set(made) == included
    assert all(text.count("\n") >= 3 for text in made.values())


def commands(group: Any = None, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return all commands by their words."""
    group = typer.main.get_command(jobs.cli.app) if group is None else group
    if not hasattr(group, "commands"):
        return {path: group}
    return {
        words: command
        for name, part in group.commands.items()
        for words, command in commands(part, (*path, name)).items()
    }


def test_commands_and_options_exist() -> None:
    """Of every line that begins with ``cohort``, in every block of shell."""
    known, seen = commands(), 0
    parameters = {
        f"--{name}".replace("_", "-")
        for k in map(find_operation, BUILT_IN)
        for name in k.model_fields
    }
    parameters |= training_options()
    for page, code in blocks("sh"):
        for line in code.replace("\\\n", " ").splitlines():
            if not line.startswith("cohort ") or "$" in line:
                continue
            words = shlex.split(line, comments=True)[1:]
            found = [path for path in known if tuple(words[: len(path)]) == path]
            assert found, (page.name, line)
            options = {option for p in known[found[0]].params for option in p.opts}
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert given <= options | parameters | KNOWN, (page.name, line, given - options)
            seen += 1
            for n, word in enumerate(words):
                if word == "--where":
                    parse_condition(words[n + 1])
    assert seen >= 30


def training_options() -> set[str]:
    """Return the options that stand for fields of the settings of a training."""
    text = (TOP / "engine" / "learning" / "training" / "settings.py").read_text()
    return {f"--{name}".replace("_", "-") for name in re.findall(r"^    (\w+): ", text, re.M)}


def test_settings_are_valid() -> None:
    """Of every block of TOML that is a part of cohort.toml."""
    seen = 0
    for page, code in blocks("toml"):
        if "[project" not in code:
            parse_config(code.replace('path = "study"', 'path = "/study"').encode())
            seen += 1
        assert page.exists()
    assert seen >= 5


def test_python_is_python() -> None:
    for page, code in blocks("python"):
        ast.parse(code, str(page))


def test_the_example_of_a_format_keeps_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is installed by its entry point, and also put into the table of built-in formats."""
    page = (DOCS / "how-to" / "add-a-format.md").read_text()
    code, entry = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (package,) = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    points = tomllib.loads(package)["project"]["entry-points"][registry.GROUP]
    install_below(tmp_path, points, registry.GROUP)
    (tmp_path / code.split("\n")[0].removeprefix("# ")).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (sample,) = registry.samples_of(registry.formats()["plain"])
    case = ("plain volume", sample.content, list(sample.planes))
    checks = [
        check
        for name, check in vars(contract).items()
        if name.startswith("test_") and [*inspect.signature(check).parameters] == ["case"]
    ]
    assert len(checks) >= 8
    for check in checks:
        check(case)
    with open_source(io.BytesIO(sample.content), "a") as source:
        placed = geometry_of(source.planes[2], 3)
    assert placed.spacing_um == (500.0, 500.0)
    assert placed.position_mm == (-20.0, -30.0, 16.0)

    monkeypatch.setattr(registry, "FORMATS", dict(registry.FORMATS))
    exec(compile(entry, "registry.py", "exec"), {})
    monkeypatch.setitem(sys.modules, "engine.sources.plain", sys.modules["plain"])
    contract.test_pixels_are_those_of_an_independent_decoder(case)
    found = registry.detect("a", sample.content[: registry.MAGIC_BYTES])
    assert found is not None
    assert found.format.module == "engine.sources.plain"


def test_tuning_and_export_run_as_they_stand(
    tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from tests.support.images import LAYOUT, night

    night(tmp_path / "data", 2)
    cohort = engine.create(tmp_path / "COHORT", layout=LAYOUT)
    cohort.ingest(tmp_path / "data", client=client)
    cohort.run("circles", client=client)
    monkeypatch.chdir(tmp_path)
    for name in ("tune-parameters", "export"):
        page = DOCS / "how-to" / f"{name}.md"
        (code,) = [code for where, code in blocks("python") if where == page]
        exec(compile(code, str(page), "exec"), {})
    assert "count" in capsys.readouterr().out
