"""Objects as AnnData (``.h5ad``), for scanpy, squidpy and other tools for single cells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from engine.errors import MissingExtra, NothingFound
from engine.operations.column_order import described_columns, number_column
from engine.store.backend.base import Store
from engine.store.tables import read_provenance

PLACE = ("x", "y")
"""Columns of ``obsm["spatial"]``, pixels."""


def write_h5ad(store: Store, table: str, rows: pa.Table, path: Path) -> None:
    """Write a table of objects as AnnData; anndata must be installed.

    ``X`` (float64) has the measurements, one column each; ``obs`` has all other columns, among them
    the subject and its columns of the subjects' CSV (``_`` for ``/`` in names);
    ``obsm["spatial"]`` has x and y, pixels; ``uns["cohort"]`` names the operation and its key.
    Objects are called ``<image_id>-<number>``.

    Raises
    ------
    NothingFound
        If the table has no objects with a position, or no measurements.
    MissingExtra
    """
    try:
        import anndata
    except ImportError:
        raise MissingExtra("anndata", "anndata", "to write .h5ad files") from None
    origin = read_provenance(store, table) or {}
    number = number_column(rows.column_names)
    if number is None or "image_id" not in rows.column_names:
        raise NothingFound(
            f"{table} has no objects", ".h5ad needs a table of objects, such as nuclei or measure."
        )
    described = {*PLACE, *described_columns(rows.column_names)}
    measured = [f.name for f in rows.schema if _is_number(f.type) and f.name not in described]
    if not measured:
        raise NothingFound(f"{table} has no measurements", "Choose another table.")
    frame = rows.to_pandas()
    pairs = zip(frame["image_id"], frame[number], strict=True)
    frame.index = _text(f"{image_id}-{n}" for image_id, n in pairs)
    kept = [name for name in frame if name not in {*measured, *PLACE}]
    made = anndata.AnnData(
        X=frame[measured].to_numpy("float64", na_value=float("nan")),
        obs=pd.DataFrame({_key(name): _as_stored(frame[name]) for name in kept}, frame.index),
        var=pd.DataFrame(index=_text(measured)),
        obsm={"spatial": frame[list(PLACE)].to_numpy("float64", na_value=float("nan"))},
        uns={"cohort": {name: str(origin.get(name)) for name in ("operation", "version", "key")}},
    )
    made.write_h5ad(path)


def _key(name: str) -> str:
    """Return a column's name as a key of HDF5: without a slash, and none of anndata's own."""
    return "_index_" if name == "_index" else name.replace("/", "_")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _text(values: Iterable[str]) -> pd.Index:
    """Return an index of Python's strings; anndata can't write those of Arrow."""
    return pd.Index(list(values), dtype=object)


def _as_stored(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column in a form that HDF5 holds: text as categories, times as text."""
    if column.dtype.kind in "iufb":
        return column
    values = [None if value is None or value is pd.NaT else str(value) for value in column]
    categories = _text(sorted({value for value in values if value is not None}))
    return pd.Series(pd.Categorical(values, categories), column.index)
