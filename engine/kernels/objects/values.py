"""Intensities inside objects: mean, least, greatest, standard deviation, median."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.kernels._jit import Floats, Plane, compiled
from engine.kernels.objects.runs import Runs
from engine.kernels.planes import as_plane

STATISTICS = (
    "intensity_mean",
    "intensity_min",
    "intensity_max",
    "intensity_std",
    "intensity_median",
)
"""Columns of `measure_values`."""


@compiled
def summarise(values: Floats, median: bool, found: Floats) -> None:
    """Write the statistics of some values; all are NaN if one value is."""
    total, low, high = 0.0, values[0], values[0]
    missing = False
    for value in values:
        missing = missing or np.isnan(value)
        total += value
        low = min(low, value)
        high = max(high, value)
    if missing:
        found[:] = np.nan
        return
    mean = total / values.size
    squares = 0.0
    for value in values:
        squares += (value - mean) ** 2
    found[0] = mean
    found[1] = low
    found[2] = high
    found[3] = np.sqrt(squares / values.size)
    if median:
        found[4] = np.median(values)


@compiled
def measure_values(plane: Plane, runs: Runs, largest: int, median: bool, found: Floats) -> None:
    """Measure the values of one channel inside each object.

    Parameters
    ----------
    plane
        (y, x) of real values.
    largest
        Pixels of the largest object.
    median
        Also find the median, which takes most of the time.
    found
        (n, 5) float64: filled with `STATISTICS`.
    """
    values = np.empty(largest, np.float64)
    for i in range(found.shape[0]):
        count = 0
        for place in range(runs.first[i], runs.first[i + 1]):
            run = runs.order[place]
            for x in range(runs.start[run], runs.stop[run]):
                values[count] = plane[runs.row[run], x]
                count += 1
        summarise(values[:count], median, found[i])


def value_columns(
    intensities: NDArray[Any], runs: Runs, largest: int, median: bool
) -> dict[str, Floats]:
    """Return the statistics of each object by channel, ``intensity_mean-0`` and so on.

    As `skimage.measure.regionprops` defines them (the standard deviation is that of the pixels,
    ``ddof=0``), but computed in double precision for all types.
    """
    columns: dict[str, Floats] = {}
    for channel, plane in enumerate(intensities):
        found = np.empty((runs.first.size - 1, len(STATISTICS)))
        measure_values(as_plane(plane, "intensities"), runs, largest, median, found)
        columns |= {f"{name}-{channel}": found[:, n] for n, name in enumerate(STATISTICS)}
    return columns
