"""Sphinx extension that writes fragments of pages from the code before Sphinx reads the sources.

`docs/generated/*.md` are included by pages of the reference; `docs/tutorials/*.ipynb` are copies of
`notebooks/`. Git ignores all of them.
"""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
NOTEBOOKS = DOCS.parent / "notebooks"
COLUMNS = DOCS / "reference" / "columns.toml"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table; a cell's line breaks and bars are made harmless."""
    lines = [head, tuple("---" for _ in head), *rows]
    cells = (
        " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) for row in lines
    )
    return "".join(f"| {row} |\n" for row in cells)


def parameters_of(docstring: str) -> dict[str, str]:
    """Return the description of each parameter in a numpydoc docstring."""
    found = re.search(r"Parameters\n-+\n(.*?)(?=\n\n?[A-Z][a-z]+\n-+\n|\Z)", docstring, re.S)
    entries = re.findall(r"^(\S.*)\n((?:(?:[ ]+.*)?\n?)*)", found[1] + "\n", re.M) if found else []
    # Double backticks are reStructuredText's; single ones are Markdown's.
    return {
        name: text.strip().replace("``", "`")
        for names, text in entries
        for name in re.split(r",\s*", names)
    }


def literal(value: object) -> str:
    """Return a value as code; nothing for None."""
    return "" if value is None else f"`{value}`"


# Commands


def arguments_of(command: Any) -> str:
    """Return the usage and the tables of one command's arguments and options."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    parts = []
    if arguments:
        rows = ((f"`{p.metavar}`", p.help or "", "yes" if p.required else "") for p in arguments)
        parts.append(table(("argument", "meaning", "required"), rows))
    rows = (
        (f"`{' '.join([*p.opts[:1], *([p.metavar] if p.metavar else [])])}`", p.help or "",
         "" if p.default is None or p.default is False else f"`{p.default}`")
        for p in options
        if not getattr(p, "hidden", False) and "--help" not in p.opts
    )  # fmt: skip
    parts.append(table(("option", "meaning", "default"), rows))
    return "\n".join(parts)


def commands() -> str:
    """Return the reference of all commands."""
    import typer.main

    from jobs.cli import app

    def walk(group: Any, path: str) -> Iterable[str]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, f"{path} {name}")
                continue
            usage = [f"{path} {name}"]
            for p in command.params:
                if p.param_type_name == "argument":
                    many = "..." if getattr(p, "nargs", 1) == -1 else ""
                    usage.append(f"{p.metavar}{many}" if p.required else f"[{p.metavar}]{many}")
            text = inspect.cleandoc(command.help or "")
            yield f"## {path} {name}\n```\n{' '.join(usage)} [options]\n```\n\n{text}\n"
            yield arguments_of(command)

    return "\n".join(walk(typer.main.get_command(app), "cohort"))


def operations() -> str:
    """Return the parameters of the operations that are built in."""
    from engine.operations.registry import BUILT_IN, find_operation

    parts = []
    for name, kind in zip(BUILT_IN, map(find_operation, BUILT_IN), strict=True):
        text = inspect.getdoc(kind) or ""
        meaning = parameters_of(text)
        rows = []
        for parameter, field in kind.model_fields.items():
            option = f"`--{parameter.replace('_', '-')}`"
            rows.append((option, meaning[parameter], literal(field.get_default())))
        parts += [
            f"### {name}\n{text.splitlines()[0]}\n",
            table(("option", "meaning", "default"), rows),
        ]
    return "\n".join(parts)


# Reasons and errors


def source_reasons() -> str:
    """Return why sources fail."""
    from engine.operations.failure_reasons import OF_SOURCES
    from engine.sources import REASONS

    rows = ((f"`{code}`", text, OF_SOURCES.get(code, "")) for code, text in REASONS.items())
    return table(("reason", "meaning", "what to do"), rows)


def result_reasons() -> str:
    """Return why operations fail."""
    from engine.operations.failure_reasons import OF_RESULTS

    rows = (
        (f"`{code.removesuffix('_ingest')}`", text, advice.replace("{operation}", "OPERATION"))
        for code, (text, advice) in OF_RESULTS.items()
    )
    return table(("reason", "meaning", "what to do"), rows)


def drawing_reasons() -> str:
    """Return why drawings are not used."""
    from engine.ingest.annotations.matching import MATCHING_REASONS
    from engine.sources.annotations import DRAWING_REASONS

    rows = ((f"`{code}`", text) for code, text in {**DRAWING_REASONS, **MATCHING_REASONS}.items())
    return table(("reason", "meaning"), rows)


def image_findings() -> str:
    """Return what may be odd about an image."""
    from engine.header import FINDINGS

    return table(("finding", "meaning"), ((f"`{code}`", text) for code, text in FINDINGS.items()))


def contour_checks() -> str:
    """Return the checks of contours."""
    from engine.operations.cardiac.findings import CHECKS

    return table(("check", "figure"), ((f"`{code}`", text) for code, text in CHECKS.items()))


def errors() -> str:
    """Return all errors of the engine, by exit code."""
    import importlib
    import pkgutil

    import engine
    import jobs
    from engine.errors import EngineError

    for package in (engine, jobs):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            try:
                importlib.import_module(module.name)
            except ImportError:  # of an extra that is not installed
                continue
    found: dict[str, type[EngineError]] = {}
    left = [EngineError]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.__module__.partition(".")[0] in ("engine", "jobs"):
            found[kind.__name__] = kind
    rows = (
        (
            f"`{name}`",
            str(kind.exit_code),
            # The arguments, in parentheses at the end, are for who raises it.
            re.sub(r":? \([\w, ]*,?\)\.", ".", (kind.__doc__ or "").split("\n\n")[0]).replace(
                "``", "`"
            ),
        )
        for name, kind in sorted(found.items(), key=lambda one: (one[1].exit_code, one[0]))
    )
    return table(("error", "exit code", "raised if"), rows)


# Columns


def columns(title: str, schema: Any, described: Mapping[str, str]) -> str:
    """Return a schema as a table.

    Raises
    ------
    ValueError
        If `columns.toml` describes other columns than the schema has.
    """
    names = {field.name for field in schema}
    if names != set(described):
        odd = ", ".join(sorted(names ^ set(described)))
        raise ValueError(f"{COLUMNS.name}, [{title}]: columns differ from the schema's: {odd}")
    rows = ((f"`{f.name}`", f"`{f.type}`", described[f.name]) for f in schema)
    return table(("column", "type", "meaning"), rows)


def schemas() -> dict[str, Any]:
    """Return the schemas that `columns.toml` describes, by section."""
    import pyarrow as pa

    from engine.operations.cardiac import bloodpool, findings, tables
    from engine.operations.registry import BUILT_IN, find_operation
    from engine.store.catalog.annotations import SCHEMA as ANNOTATIONS
    from engine.store.catalog.tables import IMAGES, SHARDS
    from engine.store.results import result_schema

    def listed(name: str) -> Any:
        kind = find_operation(name)
        return pa.schema([f for f in kind.object_schema if f.name not in kind.hidden_columns])

    return {
        **{name: listed(name) for name in BUILT_IN},
        "images": IMAGES,
        "shards": SHARDS,
        "annotations": ANNOTATIONS,
        "results": result_schema(pa.schema([])),
        "contour_findings": findings.COLUMNS,
        "contour_volumes": tables.VOLUME_SCHEMA,
        "contour_function": tables.FUNCTION_SCHEMA,
        "bloodpool_by_subject": bloodpool.BY_SUBJECT_SCHEMA,
    }


def column_fragments() -> dict[str, str]:
    """Return a fragment for each schema."""
    described = tomllib.loads(COLUMNS.read_text())
    return {
        f"columns-{name}": columns(name, schema, described.get(name, {}))
        for name, schema in schemas().items()
    }


def default_of(field: Any) -> str:
    """Return the default of a pydantic field as code."""
    required = field.is_required()
    return "required" if required else literal(field.get_default(call_default_factory=True))


def configuration() -> str:
    """Return the entries of cohort.toml with their defaults."""
    from engine.store import config

    described = tomllib.loads((DOCS / "reference" / "configuration.toml").read_text())
    sections = {
        "": config.CohortConfig,
        "roots.NAME": config.RootConfig,
        "annotations.NAME": config.AnnotationConfig,
        "limits": config.Limits,
        "slides": config.SlidesConfig,
        "pseudonyms": config.PseudonymsConfig,
    }
    parts = []
    for title, kind in sections.items():
        texts = described[title or "top"]
        tables = {name.partition(".")[0] for name in sections} | {"operations"}
        fields = {n: f for n, f in kind.model_fields.items() if title or n not in tables}
        if set(fields) != set(texts):
            raise ValueError(f"configuration.toml, [{title}]: {set(fields) ^ set(texts)}")
        rows = ((f"`{name}`", texts[name], default_of(f)) for name, f in fields.items())
        heading = f"## `[{title}]`\n" if title else "## Top of the file\n"
        parts += [heading, table(("entry", "meaning", "default"), rows)]
    return "\n".join(parts)


FRAGMENTS: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "operations": operations,
    "source-reasons": source_reasons,
    "result-reasons": result_reasons,
    "drawing-reasons": drawing_reasons,
    "image-findings": image_findings,
    "contour-checks": contour_checks,
    "errors": errors,
    "configuration": configuration,
}


def fragments() -> dict[str, str]:
    """Return all fragments by name."""
    return {**{name: make() for name, make in FRAGMENTS.items()}, **column_fragments()}


# Sphinx


def write_if_changed(path: Path, text: str) -> None:
    """Write a file only if its content differs, so that Sphinx reads only changed pages."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def copy_notebooks() -> None:
    """Copy the notebooks to the tutorials, with links into docs/ made relative to there."""
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        text = re.sub(r"\]\(\.\./docs/([^)]+)\)", r"](../\1)", notebook.read_text())
        write_if_changed(DOCS / "tutorials" / notebook.name, text)


def generate(_app: object = None) -> None:
    """Write everything that is made from the code."""
    copy_notebooks()
    for name, text in fragments().items():
        write_if_changed(DOCS / "generated" / f"{name}.md", text)


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    app.connect("builder-inited", generate)
    return {"parallel_read_safe": True}
