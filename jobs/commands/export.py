"""``cohort export``: tables as files of other programs; a file appears whole or not at all."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import typer

from engine.errors import ParameterError, UsageError
from engine.execution.progress import counted
from engine.store.root.base import Root
from engine.store.root.os_errors import refusals_named
from jobs.framework import app, command
from jobs.opening import opened
from jobs.options import CohortPath
from jobs.output import Output

_SPACE = " \t\r\n\v\f\u00a0\ufeff"
_BEGINS = "=+\\-@'\uff1d\uff0b\uff0d\uff20"  # also as wide characters, which Excel narrows
FORMULA = f"(^|[;,\t\r\n])([{_SPACE}]*[{_BEGINS}]|[\t\r\n\x00])"
"""Where a spreadsheet may begin to read a formula: at the start of a cell, and behind what some
spreadsheets take for the end of one (OWASP, CSV Injection). An apostrophe there makes it text, and
an apostrophe of its own gets one too, so each is known to be ours: reading leaves out one there."""

_GUARDED = re.compile(FORMULA.replace(")(", ")(?="))

WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    ".csv": lambda rows, path: pyarrow.csv.write_csv(rows, path),
    ".parquet": lambda rows, path: pq.write_table(rows, path),
    ".arrow": lambda rows, path: pyarrow.feather.write_feather(rows, path),
}
"""What writes a table, by suffix."""


def require_target(file: Path, root: Root | None = None) -> None:
    """Check that a table can become this file.

    Parameters
    ----------
    root
        The cohort whose table it is. Files in its folders are its own.

    Raises
    ------
    ParameterError, UsageError
        If the suffix is unknown, the folder is not there, the file is a folder, or the cohort's.
    """
    if file.suffix.lower() not in WRITERS:
        raise ParameterError("FILE", str(file), f"a name ending in {', '.join(WRITERS)}")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {file.parent}; make it first.")
    if file.is_dir():
        raise UsageError(f"{file} is a folder; give the name of a file.")
    own = root.local_path("tables") if root is not None else None
    if own is not None and own.parent.resolve() in file.resolve().parent.parents:
        raise UsageError(f"{file} would be among the cohort's own files; choose another folder.")


def without_formulas(rows: pa.Table) -> pa.Table:
    r"""Return a table in whose text and names of columns no spreadsheet reads a formula.

    ``frame.replace(r"(^|[;,\t\r\n])'", r"\1", regex=True)`` of pandas gives the text back.

    Examples
    --------
    >>> without_formulas(pa.table({"=a": ["-1", "a-1"], "b": [-1, 2]})).to_pydict()
    {"'=a": ["'-1", 'a-1'], 'b': [-1, 2]}
    """
    columns = [_guard(c) if _is_text(c.type) else c for c in rows.columns]
    return pa.table(columns, [_GUARDED.sub(r"\1'", name) for name in rows.column_names])


def _guard(column: pa.ChunkedArray) -> pa.ChunkedArray:
    found = pc.fill_null(pc.match_substring_regex(column, FORMULA), False)
    formulas = found.combine_chunks()
    if not pc.any(formulas).as_py():
        return column
    guarded = [_GUARDED.sub(r"\1'", text) for text in column.filter(formulas).to_pylist()]
    return pc.replace_with_mask(column, formulas, pa.array(guarded, column.type))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def write_export(rows: pa.Table, file: Path, *, raw: bool = False) -> None:
    """Write a table to a file, which is replaced whole.

    Parameters
    ----------
    raw
        Write text to CSV as it is, also where a spreadsheet takes it for a formula.

    Raises
    ------
    UsageError
        If the format can't hold a column, or the file can't be written.
    StoreFull, StoreReadOnly
    """
    suffix = file.suffix.lower()
    if suffix == ".csv" and not raw:
        rows = without_formulas(rows)
    nested = [f"{f.name} ({f.type})" for f in rows.schema if pa.types.is_nested(f.type)]
    if suffix == ".csv" and nested:
        raise UsageError(f"CSV can't hold {', '.join(nested)}; use .parquet or .arrow.")
    target = file.resolve()  # a link stays one
    aside = target.with_name(f".{target.stem}-{secrets.token_hex(4)}{suffix}")
    try:
        with refusals_named(str(file)):
            WRITERS[suffix](rows.replace_schema_metadata(None), aside)
            aside.replace(target)
    except OSError as error:
        if error.errno is None:
            raise
        raise UsageError(f"{file} can't be written: {error.strerror}.") from None
    finally:
        aside.unlink(missing_ok=True)


@command(app)
def export(
    output: Output,
    place: CohortPath,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="E.g. circles_by_image.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".csv, .parquet or .arrow.")],
    *,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="Only rows with, e.g. radius_px > 20.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="CSV: also text that a spreadsheet takes for a formula.")
    ] = False,
) -> int:
    """Write a table to a file; the suffix says which kind.

    In CSV, text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    cohort = opened(output, place)
    require_target(file, cohort.root)
    rows = cohort.arrow_table(table, where)
    write_export(rows, file, raw=raw)
    output.result(
        {"table": table, "rows": rows.num_rows, "file": str(file)},
        f"Wrote {counted(rows.num_rows, 'rows')} of {table} to {file}.",
    )
    return 0
