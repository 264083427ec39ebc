"""``cohort export``: write tables to files of other programs, atomically."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import typer

from engine.conditions.compiling import filter_rows
from engine.errors import ParameterError, UsageError
from engine.execution.progress import pluralise
from engine.store.backend.atomic_write import atomic_replace
from engine.store.backend.base import Store
from engine.store.catalog.tables import expand_fields, read_images
from jobs.framework import app, command
from jobs.opening import opened
from jobs.options import CohortPath
from jobs.output import Output

if TYPE_CHECKING:
    from engine import Cohort

_SPACE = " \t\r\n\v\f\u00a0\ufeff"
_BEGINS = "=+\\-@'\uff1d\uff0b\uff0d\uff20"  # also as full-width characters, which Excel converts
FORMULA = f"(^|[;,\t\r\n])([{_SPACE}]*[{_BEGINS}]|[\t\r\n\x00])"
"""Position at which a spreadsheet may recognise a formula: the start of a cell, and after a
character that some spreadsheets treat as the end of one (OWASP, CSV Injection). An apostrophe at
this position turns it into text. An existing apostrophe there is doubled, so that a reader can
always remove exactly one."""

_GUARDED = re.compile(FORMULA.replace(")(", ")(?="))

WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    ".csv": lambda rows, path: pyarrow.csv.write_csv(rows, path),
    ".parquet": lambda rows, path: pq.write_table(rows, path),
    ".arrow": lambda rows, path: pyarrow.feather.write_feather(rows, path),
}
"""Writers of tables, by suffix."""

GEOJSON = ".geojson"
"""Suffix of outlines of objects."""

H5AD = ".h5ad"
"""Suffix of AnnData, objects by measurements."""

CATALOG = "images"
"""Name under which the catalog is exported."""


def require_target(file: Path, store: Store | None = None) -> None:
    """Check that a table can be written to this file.

    Parameters
    ----------
    store
        The table's cohort, whose own folders are excluded.

    Raises
    ------
    ParameterError, UsageError
        If the suffix is unknown, the folder is missing, or the file is a folder or inside the
        cohort.
    """
    known = (*WRITERS, GEOJSON, H5AD)
    if file.suffix.lower() not in known:
        raise ParameterError("FILE", str(file), f"a name ending in {', '.join(known)}")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {file.parent}; make it first.")
    if file.is_dir():
        raise UsageError(f"{file} is a folder; give the name of a file.")
    own = store.as_local_path("tables") if store is not None else None
    if own is not None and own.parent.resolve() in file.resolve().parent.parents:
        raise UsageError(f"{file} would be among the cohort's own files; choose another folder.")


def without_formulas(rows: pa.Table) -> pa.Table:
    r"""Return a table without spreadsheet formulas in its text and column names.

    ``frame.replace(r"(^|[;,\t\r\n])'", r"\1", regex=True)`` of pandas restores the text.

    Examples
    --------
    >>> without_formulas(pa.table({"=a": ["-1", "a-1"], "b": [-1, 2]})).to_pydict()
    {"'=a": ["'-1", 'a-1'], 'b': [-1, 2]}
    """
    columns = [_guard(c) if _is_text(c.type) else c for c in rows.columns]
    return pa.table(columns, [_GUARDED.sub(r"\1'", name) for name in rows.column_names])


def without_lists(rows: pa.Table) -> pa.Table:
    """Return a table whose nested values are JSON.

    Examples
    --------
    >>> without_lists(pa.table({"a": [[1, 2], None], "b": [3, 4]})).to_pydict()
    {'a': ['[1, 2]', None], 'b': [3, 4]}
    """
    for n, field in enumerate(rows.schema):
        if pa.types.is_nested(field.type):
            values = rows.column(n).to_pylist()
            texts = [None if v is None else json.dumps(v, default=str) for v in values]
            rows = rows.set_column(n, field.name, pa.array(texts, pa.string()))
    return rows


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
    """Write a table to a file, which is replaced atomically.

    Parameters
    ----------
    raw
        Write text to CSV unchanged, including text that spreadsheets treat as a formula.

    Raises
    ------
    UsageError
        If the format can't store a column, or the file can't be written.
    StoreFull, StoreReadOnly
    """
    suffix = file.suffix.lower()
    if suffix == ".csv":
        rows = without_lists(rows)
        rows = rows if raw else without_formulas(rows)
    with atomic_replace(file.resolve(), shown=file) as temporary:  # follow links
        WRITERS[suffix](rows.replace_schema_metadata(None), temporary)


@command(app)
def export(
    output: Output,
    place: CohortPath,
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="E.g. circles_by_image, or images.")
    ],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help=".csv, .parquet, .arrow, .geojson or .h5ad.")
    ],
    *,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="Only rows with, e.g. radius_px > 20.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="CSV: keep text that spreadsheets treat as a formula.")
    ] = False,
) -> int:
    """Write a table to a file; the suffix selects the format.

    In CSV, an apostrophe precedes text that a spreadsheet would treat as a formula, and lists are
    JSON. GeoJSON has the outlines of objects, for QuPath: choose one image with --where. AnnData
    (.h5ad) has objects by measurements. The table images is the catalog.
    """
    cohort = opened(output, place)
    require_target(file, cohort.store)
    catalog = table == CATALOG and CATALOG not in cohort.tables()
    rows = _catalog(cohort, where) if catalog else cohort.arrow_table(table, where)
    suffix = file.suffix.lower()
    if suffix == GEOJSON:
        from engine.tables.geojson import write_features

        with atomic_replace(file.resolve(), shown=file) as temporary, temporary.open("wb") as out:
            write_features(cohort.store, table, rows, out.write)
    elif suffix == H5AD:
        from engine.tables.h5ad import write_h5ad

        with atomic_replace(file.resolve(), shown=file) as temporary:
            write_h5ad(cohort.store, table, rows, temporary)
    else:
        write_export(rows, file, raw=raw)
    output.result(
        {"table": table, "rows": rows.num_rows, "file": str(file)},
        f"Wrote {pluralise(rows.num_rows, 'rows')} of {table} to {file}.",
    )
    return 0


def _catalog(cohort: Cohort, where: str | None) -> pa.Table:
    """Return the current row of each image, also of failed and orphaned ones."""
    rows = expand_fields(read_images(cohort.store)[1])
    return rows if where is None else filter_rows(rows, where)
