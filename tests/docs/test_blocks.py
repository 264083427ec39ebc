"""Every code block is executed or parsed, and none is without a test."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from engine.store.config import parse_config
from tests.deploy.manifests import KUBERNETES, kustomize, validate
from tests.docs.command_lines import check_cohort, check_line, lines_of
from tests.docs.pages import DOCS, PAGES, TOP, Block, blocks
from tests.docs.scenarios import PARSED_ONLY, SCENARIOS

ELSEWHERE = {
    "docs/how-to/add-a-format.md": "tests/test_docs.py",
    "docs/how-to/add-an-operation.md": "tests/contracts/test_documented_operations.py",
}
"""Pages whose Python is executed by a test of its own."""

DRAWINGS = {"docs/reference/disk-format-1.md: <cohort>/"}
"""Blocks that are no code."""

FILES = re.compile(r"(?:deploy|docs(?!/_build)|notebooks)/[\w./-]+")
"""Files of the repository, as commands name them, but not what they build."""


def executed(block: Block) -> bool:
    return block.name not in PARSED_ONLY and block.page in {**SCENARIOS, **ELSEWHERE}


def test_every_block_has_a_test() -> None:
    known = {"sh", "python", "toml", "yaml"}
    untested = [
        block.name
        for block in blocks()
        if not (block.language in known or block.name in DRAWINGS)
        or (block.language == "python" and not executed(block) and block.name not in PARSED_ONLY)
        or (
            block.language == "sh"
            and any(line.startswith("cohort ") for line in lines_of(block.code))
            and not executed(block)
            and block.name not in PARSED_ONLY
        )
    ]
    assert untested == []
    assert set(PARSED_ONLY) <= {block.name for block in blocks()}, "exceptions without a block"
    assert all((TOP / test).exists() for test in ELSEWHERE.values())


def test_fences_are_understood() -> None:
    """A block that the pattern of these tests misses would be untested."""
    for page in PAGES:
        fences = re.findall(r"^\s*```", page.read_text(), re.M)
        assert len(fences) % 2 == 0, page


@pytest.mark.parametrize("block", blocks("sh"), ids=lambda block: block.name)
def test_shell_parses(block: Block) -> None:
    """By bash, and each command of ours by its own parser."""
    subprocess.run(["bash", "-n", "-c", block.code], check=True)
    for line in lines_of(block.code):
        if "$" not in line:
            check_line(line)
    for file in FILES.findall(block.code):
        assert (TOP / file).exists(), file


def test_a_wrong_line_does_not_parse() -> None:
    """The check is worth something: each of these lines has one mistake."""
    for line in (
        "cohort ingets COHORT",
        "cohort ingest COHORT data --layuot x",
        "cohort run COHORT circles --radius 10:60",
        "cohort run COHORT circles --polarity brihgt",
        "cohort export COHORT circles",
        "cohort status COHORT --where",
        "cohort run COHORT circles --where 'subject = 1'",
        "cohort train COHORT DIR --masks masks/ --step 4",
        "make tset",
        "pip install '.[dicmo]'",
    ):
        with pytest.raises((Exception, SystemExit)):
            check_line(line)


def test_commands_in_sentences_parse() -> None:
    """Of inline code that is a whole command: one with COHORT, and no other placeholder."""
    seen = 0
    for page in PAGES:
        for code in re.findall(r"(?<!`)`(cohort [^`]*COHORT[^`]*)`(?!`)", page.read_text()):
            if not re.search(r"\.\.\.|…|OPERATION", code):
                check_cohort(shlex.split(code)[1:])
                seen += 1
    assert seen >= 25


@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.name)
def test_settings_are_valid(block: Block) -> None:
    if "[project]" in block.code:
        assert tomllib.loads(block.code)["project"]["entry-points"]
        assert block.page in ELSEWHERE, "whose test installs it"
    else:
        parse_config(block.code.encode())


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.name)
def test_python_is_python(block: Block) -> None:
    ast.parse(block.code, block.page)


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.name)
def test_manifests_are_valid(block: Block, tmp_path: Path) -> None:
    """A kustomization builds, and what it builds is valid."""
    assert "kind: Kustomization" in block.code
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    own = tmp_path / "own"
    own.mkdir()
    text = block.code.replace("path/to/deploy/kubernetes", "../kubernetes")
    (own / "kustomization.yaml").write_text(text)
    made = kustomize(own)
    assert {manifest["kind"] for manifest in made} >= {"CronJob", "PodTemplate", "ConfigMap"}
    for manifest in made:
        validate(manifest)
    settings = next(m["data"] for m in made if m["kind"] == "ConfigMap" and "COHORT" in m["data"])
    assert settings["COHORT"].startswith("s3://")


def test_every_page_has_one_title() -> None:
    for page in DOCS.rglob("*.md"):
        text = re.sub(r"^\s*```.*?^\s*```", "", page.read_text(), flags=re.M | re.S)
        if page in PAGES:
            assert len(re.findall(r"^# ", text, re.M)) == 1, page
