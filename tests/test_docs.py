"""The documentation agrees with the code: links, citations and descriptions."""

from __future__ import annotations

import importlib.util
import inspect
import io
import re
import sys
import tomllib
from pathlib import Path

import pytest

from engine import plugins
from engine.ingest.series.file_geometry import geometry_of
from engine.sources import open_source, registry
from tests.contracts import test_sources as contract
from tests.docs.pages import DOCS, PAGES, TOP
from tests.support.operations import install_below

CODE = sorted(
    path for name in ("engine", "jobs", "tests", "deploy") for path in (TOP / name).rglob("*.*")
)


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


def test_the_example_of_a_format_keeps_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is installed by its entry point, and also put into the table of built-in formats."""
    page = (DOCS / "how-to" / "add-a-format.md").read_text()
    code, entry = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    (package,) = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    points = tomllib.loads(package)["project"]["entry-points"][plugins.FORMATS]
    install_below(tmp_path, points, plugins.FORMATS)
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
