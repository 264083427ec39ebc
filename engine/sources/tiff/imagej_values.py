"""ImageJ's metadata of values and channels: calibration to units, labels and colour tables.

Source: ImageJ 1.x, `ij.measure.Calibration`, `ij.io.FileSaver.getDescriptionString`,
`ij.io.FileOpener.decodeDescriptionString` and `ij.io.TiffEncoder`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

STRAIGHT_LINE, NO_FUNCTION = 0, 20
"""Functions of `ij.measure.Calibration`: value = c0 + c1 x stored, and none; all others are
curves."""

NOT_APPLIED, INVALID = "calibrated", "rescale_invalid"
"""Findings, see `engine.header.FINDINGS`."""

_SIGNED_SHIFT = 32768  # ImageJ adds it to signed values of 16 bits as it reads them
_LINEAR_TYPES = frozenset({"uint8", "uint16", "int16"})


def read_calibration(
    fields: Mapping[str, Any], dtype: str, *, as_stored: bool
) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Return (slope, intercept) from a plane's values to ImageJ's, and findings.

    Parameters
    ----------
    fields
        Fields of ImageJ's description.
    dtype
        Type of the plane's values.
    as_stored
        True if the plane's values are measurements as stored: neither inverted nor colours.

    Returns
    -------
    None if the file's values are the units, or if the function is not a straight line for all
    values; the latter is a finding.

    Examples
    --------
    >>> read_calibration({"cf": 0, "c0": -32768.0, "c1": 1.0}, "uint16", as_stored=True)
    ((1.0, -32768.0), ())
    >>> read_calibration({"cf": 3, "c0": 0.1, "c1": 2.0}, "uint16", as_stored=True)
    (None, ('calibrated',))
    """
    function = fields.get("cf", NO_FUNCTION)
    if function == NO_FUNCTION:
        return None, ()
    if function != STRAIGHT_LINE or "c0" not in fields or "c1" not in fields:
        return None, (NOT_APPLIED,)
    intercept, slope = number_or_nan(fields["c0"]), number_or_nan(fields["c1"])
    if not (math.isfinite(intercept) and math.isfinite(slope)):
        return None, (INVALID,)
    if dtype == "int16":
        intercept += slope * _SIGNED_SHIFT
    if (slope, intercept) == (1.0, 0.0):
        return None, ()
    if not as_stored or dtype not in _LINEAR_TYPES or _clips(fields, dtype, slope, intercept):
        return None, (NOT_APPLIED,)
    return (slope, intercept), ()


def _clips(fields: Mapping[str, Any], dtype: str, slope: float, intercept: float) -> bool:
    """Return True if some values would be negative, and ImageJ clips them to 0."""
    if str(fields.get("zeroclip", "false")).lower() != "true":
        return False
    ends = np.iinfo(dtype)
    return min(slope * ends.min, slope * ends.max) + intercept < 0


def number_or_nan(value: Any) -> float:
    """Return a value of a header as a number; NaN if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def read_channel_labels(fields: Mapping[str, Any], pages: NDArray[np.int64]) -> tuple[str, ...]:
    """Return the names of channels if the labels of the pages are per channel.

    ImageJ's labels belong to pages, and often name files. They name channels if all pages of a
    channel have one label, and channels have different ones.

    Parameters
    ----------
    pages
        Number of each page, axes t, z, c.
    """
    labels, count = fields.get("Labels"), pages.shape[-1]
    if count == 1 or not isinstance(labels, list) or len(labels) != pages.size:
        return ()
    found = [{str(labels[i]).strip() for i in pages[..., c].ravel()} for c in range(count)]
    names = tuple(next(iter(labels_of_one)) for labels_of_one in found)
    alike = all(len(labels_of_one) == 1 for labels_of_one in found)
    return names if alike and all(names) and len({*names}) == count else ()


def read_channel_colours(fields: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Return the brightest colour of each channel's table as RRGGBB; empty if all are grey."""
    tables = fields.get("LUTs")
    if not isinstance(tables, list) or len(tables) != count:
        return ()
    ends = [np.asarray(table)[:, -1] for table in tables if np.shape(table) == (3, 256)]
    if len(ends) != count or all(np.ptp(end) == 0 for end in ends):
        return ()
    return tuple("".join(f"{int(part):02X}" for part in end) for end in ends)
