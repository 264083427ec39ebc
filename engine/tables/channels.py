"""Channels of images as columns of tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.operations.base import Operation


def image_channels(images: pa.Table) -> list[tuple[str, ...]]:
    """Return the channels of each image, as columns are called by them: names, or else numbers."""
    counts = images["channels"].to_pylist()
    named = images["channel_names"].to_pylist() if "channel_names" in images.column_names else []
    found = []
    for n, count in enumerate(counts):
        names = named[n] if named else None
        found.append(columns_of_channels(names or [str(i) for i in range(count or 0)]))
    return found


def columns_of_channels(names: Sequence[str]) -> tuple[str, ...]:
    """Return names that conditions can have; equal ones are numbered.

    Examples
    --------
    >>> columns_of_channels(["DAPI", "Alexa 488", "DAPI"])
    ('DAPI', 'Alexa_488', 'DAPI_2')
    """
    found: list[str] = []
    for n, name in enumerate(names):
        plain = re.sub(r"\W+", "_", name).strip("_") or str(n)
        found.append(f"{plain}_{n}" if plain in found else plain)
    return tuple(found)


def all_channels(images: pa.Table) -> tuple[str, ...]:
    """Return the channels of all images, in order of their first appearance."""
    each = dict.fromkeys(image_channels(images))
    return tuple(dict.fromkeys(name for names in each for name in names))


def expand_channels(
    operation: Operation,
    columns: Mapping[str, pa.Array],
    image: NDArray[np.int64],
    images: pa.Table,
) -> dict[str, pa.Array]:
    """Return columns of objects, with one for each channel in place of each list.

    Parameters
    ----------
    image
        Row of each object's image in ``images``.
    """
    channels = image_channels(images)
    expanded: dict[str, pa.Array] = {}
    for name, column in columns.items():
        if name not in operation.channel_columns:
            expanded[name] = column
            continue
        offsets = column.offsets.to_numpy()
        called = operation.expanded_columns(name)
        for channel, new in zip(operation.table_channels, called, strict=True):
            place = np.array([c.index(channel) if channel in c else -1 for c in channels], int)
            at = place[image]
            there = (at >= 0) & (offsets[:-1] + at < offsets[1:])
            index = pa.array(np.where(there, offsets[:-1] + at, 0), mask=~there)
            expanded[new] = column.values.take(index)
    return expanded
