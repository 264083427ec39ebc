"""Pages of the documentation and their code blocks."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parents[2]
DOCS = TOP / "docs"
PAGES = sorted(
    path
    for path in [*DOCS.rglob("*.md"), *TOP.glob("*.md"), TOP / "deploy" / "README.md"]
    if not {"generated", "_build", "python"} & set(path.relative_to(TOP).parts)
)
FENCES = re.compile(r"^([ ]*)```([^\n]*)\n(.*?)^\1```", re.M | re.S)


class Block(NamedTuple):
    """A fenced block, without its indentation."""

    page: str
    language: str
    code: str

    @property
    def name(self) -> str:
        """The page and the first line, for messages and exceptions."""
        return f"{self.page}: {self.code.partition(chr(10))[0].split('#')[0].strip()}"


def blocks(*languages: str, page: str | None = None) -> list[Block]:
    """Return the code blocks of some languages (or all), in order; directives are left out."""
    return [
        Block(str(path.relative_to(TOP)), language, textwrap.dedent(code))
        for path in PAGES
        if page in (None, str(path.relative_to(TOP)))
        for _, language, code in FENCES.findall(path.read_text())
        if not language.startswith("{") and (not languages or language in languages)
    ]
