"""Columns of the catalog that are kept as texts in its map ``header``.

Format 1 fixes the columns on disk, and ``header`` takes further facts by name. Reading the catalog
turns some of them into columns, so that images catalogued by earlier versions have them too.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc

from engine.store.arrow import make_array, make_scalar

CHANNEL_NAMES, TIME_STEP = "channel_names", "time_step_s"
"""Names of columns, and of the facts that they are derived from: a JSON list of names, one for each
channel and empty if it has none; the time between frames of the series, seconds."""

DERIVED = pa.schema([(CHANNEL_NAMES, pa.list_(pa.string())), (TIME_STEP, pa.float64())])
"""Derived columns; null for images without the fact."""


def derive_columns(images: pa.Table, names: Collection[str]) -> pa.Table:
    """Return catalog rows with some columns of `DERIVED`.

    Examples
    --------
    >>> kind = pa.map_(pa.string(), pa.string())
    >>> rows = pa.table({"header": pa.array([[("channel_names", '["DAPI"]')], []], kind)})
    >>> derive_columns(rows, ["channel_names"])["channel_names"].to_pylist()
    [['DAPI'], None]
    """
    for name in names:
        field = DERIVED.field(name)
        images = images.append_column(field, _column(images["header"], field))
    return images


def _column(header: pa.ChunkedArray, field: pa.Field) -> pa.Array:
    texts = pc.map_lookup(header, make_scalar(field.name, pa.string()), "first")
    # Each text is parsed once, since a million images share a few.
    coded = texts.combine_chunks().dictionary_encode()
    read = _name_lists if field.name == CHANNEL_NAMES else _numbers
    return read(coded.dictionary.to_pylist()).take(coded.indices)


def _name_lists(texts: Sequence[str]) -> pa.Array:
    lists = [json.loads(text) for text in texts]
    ends = make_array([0, *accumulate(map(len, lists))], pa.int32())
    names = make_array([name for names in lists for name in names], pa.string())
    return pa.ListArray.from_arrays(ends, names)


def _numbers(texts: Sequence[str]) -> pa.Array:
    return make_array([float(text) for text in texts], pa.float64())
