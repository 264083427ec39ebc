"""Which images are meant: a condition on the catalog's columns, and a number."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from engine.errors import NothingFound, ParameterError, UsageError
from engine.store.catalog import IMAGES, ORPHANED, READY, with_fields

ABOUT = ("source", "series", "instance", "channels", "height", "width", "dtype")
"""Columns of the catalog that people ask for, beside the fields of the layout."""

VALUES = 5
"""Values of a column that an error names."""


def select_images(
    images: pa.Table, where: str | None, limit: int | None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the catalog's rows of the images that a run speaks of: those with pixels.

    Parameters
    ----------
    images
        The catalog's current rows, by image_id.
    where
        A condition on the catalog's columns and the layout's fields in pandas' query syntax,
        e.g. ``subject == 's1'``.
    limit
        Take the first so many.
    columns
        What is wanted of them; all by default. The rest is not copied: there may be a million.

    Raises
    ------
    UsageError
        If the condition names a column that is not there, or is not one.
    """
    ready = pc.is_in(images["state"], value_set=pa.array([READY, ORPHANED]))
    wanted = images if columns is None else images.select(list(columns))
    if where is None:
        kept = wanted.filter(ready)
    else:
        frame = with_fields(images).to_pandas()
        chosen = filter_rows(frame[ready.to_numpy()], where)
        kept = wanted.take(pa.array(chosen.index.to_numpy(), pa.int64()))
    if limit is None:
        return kept
    if limit < 1:
        raise ParameterError("--limit", limit, "at least 1")
    return kept.slice(0, limit)


def require_all(where: str | None, limit: int | None, declare: bool) -> None:
    """Refuse to declare by some images what holds for all.

    Raises
    ------
    UsageError
    """
    if declare and (where is not None or limit is not None):
        raise UsageError("--declare is of all images: leave it out, or both --where and --limit.")


def filter_rows(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Return the rows that a condition holds for, with errors that name the columns there are."""
    try:
        kept = frame.eval(where, engine="python", local_dict={}, global_dict={})
        if not (isinstance(kept, pd.Series) and pd.api.types.is_bool_dtype(kept)):
            raise TypeError(where)
        return frame[kept]
    except Exception as error:  # pandas raises a dozen types for what people mistype
        raise NothingFound(
            f"--where {where!r} can't be used: {_why_not(error, frame)}",
            "Example: --where \"subject == 's1'\"",
        ) from None


def values_told(images: pa.Table, where: str) -> str:
    """Say what values the columns have that a condition names, so that it can be mended."""
    frame = with_fields(images).to_pandas()
    told = []
    for column in frame.columns:
        if re.search(rf"\b{re.escape(str(column))}\b", where):
            values = sorted(frame[column].dropna().unique().tolist(), key=str)
            more = f" and {len(values) - VALUES:,} more" if len(values) > VALUES else ""
            told.append(f"{column} has {', '.join(map(repr, values[:VALUES])) or 'no value'}{more}")
    return f"Of all images {'; '.join(told)}." if told else "The condition names no column."


def _why_not(error: Exception, frame: pd.DataFrame) -> str:
    """Say which name of a condition is no column, and which it may have been."""
    name = re.search("'(.+?)'", str(error)) if isinstance(error, (NameError, KeyError)) else None
    if name is None:
        return "it is no condition"
    close = difflib.get_close_matches(name[1], list(frame.columns), n=1)
    meant = f"did you mean {close[0]!r}" if close else "text is written in quotes"
    fields = [column for column in frame.columns if column not in IMAGES.names]
    known = ", ".join([*fields, *ABOUT])
    return f"there is no column {name[1]!r} ({meant}; columns: {known} and more)"
