"""All pages and fragments of HTML: no name can act in them, and they need no other file."""

from __future__ import annotations

import ast
import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import engine
from engine.execution.notebook_progress import NotebookEvents
from engine.learning.datasets.left_out import LeftOut
from engine.learning.evaluation.bootstrap import Interval
from engine.learning.evaluation.comparison import Difference
from engine.learning.evaluation.evaluation import Evaluation
from engine.learning.evaluation.page import write_comparison, write_page
from engine.pages.rendering import _environment, render
from engine.qc.outliers import find_extremes
from engine.qc.page import index
from engine.qc.page.context import PageContext
from engine.qc.page.experiments import publish_pages
from engine.qc.statistics import Histogram, QcStatistics
from engine.store.backend.local import LocalStore
from engine.store.pictures import MONTAGE, OVERLAY, Picture

TOP = Path(engine.__file__).parents[1]
TEMPLATES = sorted((TOP / "engine").rglob("*.jinja"))

HOSTILE = "<script>alert('m')</script>\"'><img src=x onerror=alert(1)> {{ 7*7 }} \u202e\x1b]0;&amp;"
"""An element, the ends of an attribute, an expression of a template, and marks that act."""

SHOWN = "<script>alert('m')</script>\"'><img src=x onerror=alert(1)> {{ 7*7 }} \\u202e\\x1b]0;&amp;"

HARMLESS = {
    *("html", "head", "meta", "title", "style", "body", "script", "header", "main", "nav"),
    *("section", "article", "div", "p", "span", "b", "i", "br", "small", "code", "h1", "h2", "h3"),
    *("dl", "dt", "dd", "a", "img", "figure", "figcaption", "table", "thead", "tbody", "tr", "th"),
    *("td", "dialog", "form", "label", "select", "option", "button", "svg", "g", "path", "text"),
    *("tspan", "progress"),
}
ACTING = re.compile(r"on\w+|formaction|srcdoc|xlink:href")


class Parsed(HTMLParser):
    """Elements, attributes, texts and the script of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        tag = self.elements[-1][0] if self.elements else ""
        (self.scripts if tag == "script" and data.strip() else self.texts).append(data)


def hostile_context(place: Path) -> PageContext:
    """Return facts whose every name is hostile: images that are done, failed, missing, unusual."""
    status = np.array(["done"] * 9 + ["failed", "missing", "unreadable"], object)
    count = np.array([*range(5, 13), 90.0, *[np.nan] * 3])
    names = [f"{HOSTILE}{n}" for n in range(len(status))]
    columns = {name: pa.chunked_array([names]) for name in ("image_id", "name", "source")}
    columns["reason"] = pa.chunked_array([pa.array([None] * 9 + [HOSTILE] * 3)])
    zeros = np.zeros(len(status), np.int64)
    edges = np.linspace(0, 100, 11)
    counts = np.histogram(count[:9], edges)[0]
    facts = QcStatistics(
        pa.table(columns), status, (HOSTILE,), zeros, ((HOSTILE,) * 3,), zeros,
        {"count": count, "radius_px": count + 1}, 100,
        (Histogram("count", edges, counts[None], np.array([20.0])),),
    )  # fmt: skip
    drawn = Picture(OVERLAY, "", "", "overlays/a.jpg", 1, "thumbs/a.jpg", height=64, width=64)
    drawn = replace(drawn, low=1.0, high=2.0, scale=2.0, labels=(HOSTILE,))
    noted = {(OVERLAY, name): replace(drawn, name=name) for name in names[:10]}
    montage = "\n".join((HOSTILE,) * 3)
    noted[MONTAGE, montage] = replace(drawn, kind=MONTAGE, name=montage)
    store = LocalStore(str(place / "<b>cohort {{ 7*7 }}"))
    operation = engine.circles(radius_px=(8, 24))
    return PageContext(store, operation, "qc/circles", True, facts, find_extremes(facts), noted)


def hostile_evaluation() -> Evaluation:
    """Return an evaluation whose every name is hostile."""
    row = {"image_id": HOSTILE, "name": HOSTILE, "subject": HOSTILE, "picture": HOSTILE, "dsc": 0.5}
    images = pd.DataFrame([row])
    counts = np.ones((1, 2, 2), np.int64)
    left_out = (LeftOut("no_mask", 1, (HOSTILE,)),)
    return Evaluation(HOSTILE, ("background", HOSTILE), images, counts, left_out)


@pytest.fixture
def texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Render every template with hostile names."""
    _environment.cache_clear()
    context = hostile_context(tmp_path)
    index.write_page(context, {})
    monkeypatch.setattr("engine.qc.page.experiments.EVERY", 4)
    publish_pages(context)
    folder = Path(context.store.url)
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.html")}
    assert len(found) == 1 + 3
    made = hostile_evaluation()
    figure = Interval(0.5, 0.4, 0.6)
    found["evaluation"] = write_page(tmp_path, made, {f"dsc_{HOSTILE}": figure}).read_text()
    difference = Difference(f"dsc_{HOSTILE}", 0.5, 0.6, figure)
    pictures = [(HOSTILE, HOSTILE, HOSTILE)]
    page = write_comparison(tmp_path, (made, made), [difference], pictures)
    found["comparison"] = page.read_text()
    monkeypatch.setattr(NotebookEvents, "_update", lambda self: None)
    events = NotebookEvents()
    events.start(HOSTILE, 3, HOSTILE)
    events.note(HOSTILE)
    found["progress"] = events._repr_mimebundle_()["text/html"]
    values = dict.fromkeys(("where", "state", "link"), HOSTILE)
    found["cluster"] = render("execution/cluster/cluster.html.jinja", **values)
    return found


def test_hostile_names_are_inert_in_every_template(texts: dict[str, str]) -> None:
    rendered = {str(name) for _, name in _environment().cache or ()}
    assert rendered == {path.relative_to(TOP / "engine").as_posix() for path in TEMPLATES}
    script = (TOP / "engine/qc/page/qc.js").read_text()
    for name, text in texts.items():
        assert not {*"\u202e\x1b"} & {*text}, name
        page = Parsed(text)
        assert {tag for tag, _ in page.elements} <= HARMLESS, name
        assert not [key for _, values in page.elements for key in values if ACTING.fullmatch(key)]
        assert [one for one in page.scripts if one != script] == [], name
        assert SHOWN in "".join(page.texts), name
    assert SHOWN in [value for _, values in Parsed(texts["evaluation"]).elements
                     for value in values.values()]  # fmt: skip


def test_a_page_needs_no_other_file_but_its_pictures(texts: dict[str, str]) -> None:
    pages = {name: text for name, text in texts.items() if text.startswith("<!doctype html>")}
    assert len(pages) == len(texts) - 2
    for name, text in pages.items():
        page = Parsed(text)
        assert not {"link", "iframe", "object", "embed"} & {tag for tag, _ in page.elements}
        assert "@import" not in text
        assert "url(" not in text
        (policy,) = (v["content"] for tag, v in page.elements if tag == "meta" and "content" in v
                     and v.get("http-equiv") == "Content-Security-Policy")  # fmt: skip
        allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
        assert allowed["default-src"] == "'none'"
        digests = [hashlib.sha256(script.encode()).digest() for script in page.scripts]
        hashes = [f"'sha256-{base64.b64encode(one).decode()}'" for one in digests]
        assert allowed.get("script-src", "").split() == hashes, name


def strings_of(path: Path) -> Iterator[str]:
    """Yield the strings of a module but its docstrings."""
    tree = ast.parse(path.read_text())
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def test_html_is_only_in_templates_that_escape() -> None:
    assert _environment().autoescape is True
    only = TOP / "engine/pages/rendering.py"
    for path in [*(TOP / "engine").rglob("*.py"), *(TOP / "jobs").rglob("*.py")]:
        if path != only:
            assert not re.search(r"jinja2|markupsafe|Markup\(", path.read_text()), path
        assert not [text for text in strings_of(path) if re.search(r"</\w+>|<\w+ \w+=", text)], path
    for path in TEMPLATES:
        assert not re.search(r"\|\s*safe|autoescape|Markup|__html__", path.read_text()), path
    for path in [*(TOP / "engine").rglob("*.css"), *(TOP / "engine").rglob("*.js")]:
        assert "</" not in path.read_text(), f"{path} could end its element"


def test_a_wheel_has_all_that_pages_need(tmp_path: Path) -> None:
    source, wheels, there = tmp_path / "source", tmp_path / "wheels", tmp_path / "there"
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for name in ("engine", "jobs"):
        shutil.copytree(TOP / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, source)
    build = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, wheels], cwd=source, check=True,
                   capture_output=True)  # fmt: skip
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(there)
    for pattern in ("*.jinja", "*.css", "*.js"):
        found = [path.relative_to(there) for path in there.rglob(pattern)]
        wanted = [path.relative_to(TOP) for path in (TOP / "engine").rglob(pattern)]
        assert sorted(found) == sorted(wanted) != []
    code = (
        "import engine, sys; from pathlib import Path;"
        "from engine.learning.evaluation.page import write_comparison;"
        "from types import SimpleNamespace as S;"
        "print(engine.__file__, write_comparison(Path(sys.argv[1]), (S(of='a'),) * 2, [], []))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=there, text=True,
                          env={**os.environ, "PYTHONPATH": str(there)},
                          capture_output=True, check=True)  # fmt: skip
    assert done.stdout.startswith(str(there))
    assert "--ground" in (tmp_path / "index.html").read_text()
