"""Figures of a code base: sizes, complexity, parameters, import cycles and words of its prose.

``python -m tests.measure_code [FOLDER ...]`` prints a table; by default of ``engine`` and ``jobs``.
Complexity counts branches, loops, handlers, comprehensions and boolean operators, plus one. Prose
is docstrings, strings under constants, and comments.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

BRANCHES = (
    ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension,
    ast.Assert, ast.match_case,
)  # fmt: skip

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

DOCUMENTED = (ast.Module, ast.ClassDef, *FUNCTIONS)

OBLIQUE = re.compile(r"(What|Which|Who|Whose|How|Where|Whether)\b")

WORDS = {
    '"what" per 1,000 words': r"\bwhat\b",
    '"there" per 1,000 words': r"\bthere\b",
    "aside, told, anew, nobody, somebody, whoever": (
        r"\b(aside|told|anew|nobody|somebody|whoever)\b"
    ),
    "of which, of whom, of those": r"\bof (which|whom|those)\b",
}


def complexity(function: ast.AST) -> int:
    """Return the complexity of a function, with those inside it."""
    found = 1
    for node in ast.walk(function):
        found += isinstance(node, BRANCHES)
        if isinstance(node, ast.BoolOp):
            found += len(node.values) - 1
    return found


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of parameters, without ``self`` and ``cls``."""
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def prose_of(text: str, tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings, the strings under constants, and the comments of a file."""
    for node in ast.walk(tree):
        for statement in getattr(node, "body", ()) if isinstance(node, DOCUMENTED) else ():
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
            ):
                yield statement.value.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")


def imports_of(module: str, tree: ast.Module, known: set[str]) -> set[str]:
    """Return the known modules that a module imports, also lazily or for types only."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return (found & known) - {module}


def cycles(graph: dict[str, set[str]]) -> list[int]:
    """Return the sizes of the strongly connected components with more than one module."""
    reached = {start: _reached(graph, start) for start in graph}
    groups = {frozenset(b for b in reached[a] if a in reached.get(b, ())) | {a} for a in graph}
    return sorted((len(group) for group in groups if len(group) > 1), reverse=True)


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    left = [start]
    while left:
        for other in graph.get(left.pop(), ()):
            if other not in found:
                found.add(other)
                left.append(other)
    return found


def share(count: float, whole: float) -> str:
    """Format a share in percent."""
    return f"{100 * count / max(whole, 1):.1f} %"


def measure(folders: list[str]) -> dict[str, str]:
    """Return the figures of all Python files below some folders."""
    files = sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
    texts = {path: path.read_text() for path in files}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    sizes = [len(text.splitlines()) for text in texts.values()]
    functions = [n for tree in trees.values() for n in ast.walk(tree) if isinstance(n, FUNCTIONS)]
    lengths = [(f.end_lineno or f.lineno) - f.lineno + 1 for f in functions]
    complexities = {f: complexity(f) for f in functions}
    counts = [parameters(f) for f in functions]
    documents: dict[str, list[str]] = defaultdict(list)
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED) and (text := ast.get_docstring(node)):
                documents[type(node).__name__].append(text)
    names = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    graph = {name: imports_of(name, trees[path], set(names)) for name, path in names.items()}
    prose = [text for path in files for text in prose_of(texts[path], trees[path])]
    words = sum(len(re.findall(r"[A-Za-z]+", text)) for text in prose)
    folders_of = Counter(path.parent for path in files if path.name != "__init__.py")
    public = [f for f in functions if not f.name.startswith("_")]
    most = max(complexities, key=lambda f: complexities[f])
    oblique = {
        kind: share(sum(bool(OBLIQUE.match(one)) for one in found), len(found))
        for kind, found in documents.items()
    }
    return {
        "files": f"{len(files):,}",
        "lines": f"{sum(sizes):,}",
        "mean / median / max file": (
            f"{statistics.mean(sizes):.0f} / {statistics.median(sizes):.0f} / {max(sizes)}"
        ),
        "most files in a folder": f"{max(folders_of.values())}",
        "functions, mean length": f"{len(functions):,}, {statistics.mean(lengths):.1f}",
        "functions over 50 lines": share(sum(n > 50 for n in lengths), len(lengths)),
        "complexity over 10": share(sum(n > 10 for n in complexities.values()), len(functions)),
        "max complexity": f"{complexities[most]} ({most.name})",
        "over 8 parameters": f"{sum(n > 8 for n in counts)}",
        "max parameters": f"{max(counts)}",
        "import cycles (sizes)": ", ".join(map(str, cycles(graph))) or "none",
        "public functions with a docstring": share(
            sum(bool(ast.get_docstring(f)) for f in public), len(public)
        ),
        "module docstrings that begin What/Which/How/Where/Who": oblique.get("Module", "-"),
        "class docstrings likewise": oblique.get("ClassDef", "-"),
        "function docstrings likewise": oblique.get("FunctionDef", "-"),
        **{
            label: f"{1000 * sum(len(re.findall(p, t.lower())) for t in prose) / words:.1f}"
            for label, p in WORDS.items()
        },
    }


def main() -> None:
    """Print the figures."""
    for label, value in measure(sys.argv[1:] or ["engine", "jobs"]).items():
        print(f"{label:60} {value}")


if __name__ == "__main__":
    main()
