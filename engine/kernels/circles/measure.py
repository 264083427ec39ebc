"""Grey-value measures inside circles and in the background ring around them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels._jit import Floats, Plane, Whole, compiled
from engine.kernels.planes import as_plane

RING_GAP_PX = 2.0
"""Gap between the edge and the background ring: blur has faded by then."""

RING_SHARE = 0.2
RING_LEAST_PX = 2.0
"""Width of the background ring: a fifth of the radius, but at least 2 px."""

MEASURES = np.dtype(
    [
        ("mean", np.float64),
        ("sd", np.float64),
        ("min", np.float64),
        ("median", np.float64),
        ("max", np.float64),
        ("background_mean", np.float64),
        ("contrast", np.float64),
        ("area_px", np.int64),
        ("touches_border", np.bool_),
    ]
)
"""Fields of `measure_circles`; in grey levels unless said otherwise."""

_GREY_LEVELS = {"u1": 1 << 8, "u2": 1 << 16}
"""Types with so few values that their histogram gives the median."""


@compiled
def median_of_values(values: Floats, count: int) -> float:
    """Return the median of the first ``count`` values; sort them in place."""
    part = values[:count]
    part.sort()
    return 0.5 * (part[(count - 1) // 2] + part[count // 2])


@compiled
def median_of_histogram(histogram: Whole, low: int, high: int, count: int) -> float:
    """Return the median from counts of integers from ``low`` to ``high``; zero the counts."""
    first = (count - 1) // 2
    second = count // 2
    lower = -1
    upper = -1
    below = 0
    for value in range(low, high + 1):
        below += histogram[value]
        histogram[value] = 0
        if lower < 0 and below > first:
            lower = value
        if upper < 0 and below > second:
            upper = value
    return 0.5 * (lower + upper)


@compiled
def list_neighbours(circles: Floats, outer: Floats, neighbours: Whole, first: Whole) -> None:
    """List, for each circle, the other circles that reach within its ``outer`` radius.

    Write the start of each list to ``first`` (n + 1,), and the lists to ``neighbours`` while it has
    room.
    """
    count = 0
    for c in range(circles.shape[0]):
        first[c] = count
        for n in range(circles.shape[0]):
            dy = circles[n, 0] - circles[c, 0]
            dx = circles[n, 1] - circles[c, 1]
            reach = outer[c] + circles[n, 2]
            if n != c and dy * dy + dx * dx < reach * reach:
                if count < neighbours.size:
                    neighbours[count] = n
                count += 1
    first[circles.shape[0]] = count


@compiled
def measure(
    plane: Plane,
    circles: Floats,
    neighbours: Whole,
    first: Whole,
    values: Floats,
    histogram: Whole,
    out: Floats,
    flags: NDArray[np.bool_],
) -> None:
    """Write the measures of all circles.

    Parameters
    ----------
    plane
        (y, x).
    circles
        (n, 3 or more) float64: y, x, radius in the plane's pixels.
    neighbours, first
        Indices of the circles that may reach into another one's ring, in concatenated lists, and
        the start of each list, (n + 1,).
    values
        Buffer of float64 for the pixels of one circle, used if ``histogram`` is empty.
    histogram
        Zeroed counts for each value of an unsigned type, or empty.
    out
        (n, 8) float64, written: mean, sd, min, median, max, background mean, contrast, area.
    flags
        (n,) bool, written: whether part of the circle lies outside the plane.
    """
    height, width = plane.shape
    for c in range(circles.shape[0]):
        cy = circles[c, 0]
        cx = circles[c, 1]
        radius = circles[c, 2]
        inner = radius + RING_GAP_PX
        outer = inner + max(RING_LEAST_PX, RING_SHARE * radius)
        inside = radius * radius
        ring_low = inner * inner
        ring_high = outer * outer
        count = 0
        total = 0.0
        lowest = np.inf
        highest = -np.inf
        ring_count = 0
        ring_total = 0.0
        area = 0
        for y in range(
            max(0, int(np.ceil(cy - outer))), min(height, int(np.floor(cy + outer)) + 1)
        ):
            dy = y - cy
            left = max(0, int(np.ceil(cx - outer)))
            for x in range(left, min(width, int(np.floor(cx + outer)) + 1)):
                dx = x - cx
                square = dy * dy + dx * dx
                if square <= inside:
                    area += 1
                    value = np.float64(plane[y, x])
                    if not abs(value) < np.inf:
                        continue
                    total += value
                    lowest = min(lowest, value)
                    highest = max(highest, value)
                    if histogram.size > 0:
                        histogram[int(plane[y, x])] += 1
                    else:
                        values[count] = value
                    count += 1
                elif ring_low <= square <= ring_high:
                    free = True
                    for k in range(first[c], first[c + 1]):
                        n = neighbours[k]
                        ny = y - circles[n, 0]
                        nx = x - circles[n, 1]
                        if ny * ny + nx * nx <= circles[n, 2] * circles[n, 2]:
                            free = False
                            break
                    value = np.float64(plane[y, x])
                    if free and abs(value) < np.inf:
                        ring_total += value
                        ring_count += 1
        mean = total / count if count > 0 else np.nan
        # A second pass: a difference of large sums would lose a small standard deviation.
        squares = 0.0
        for y in range(
            max(0, int(np.ceil(cy - radius))), min(height, int(np.floor(cy + radius)) + 1)
        ):
            dy = y - cy
            left = max(0, int(np.ceil(cx - radius)))
            for x in range(left, min(width, int(np.floor(cx + radius)) + 1)):
                dx = x - cx
                if dy * dy + dx * dx <= inside:
                    value = np.float64(plane[y, x])
                    if abs(value) < np.inf:
                        squares += (value - mean) * (value - mean)
        background = ring_total / ring_count if ring_count > 0 else np.nan
        out[c, 0] = mean
        out[c, 1] = np.sqrt(squares / count) if count > 0 else np.nan
        out[c, 2] = lowest if count > 0 else np.nan
        if count == 0:
            out[c, 3] = np.nan
        elif histogram.size > 0:
            out[c, 3] = median_of_histogram(histogram, int(lowest), int(highest), count)
        else:
            out[c, 3] = median_of_values(values, count)
        out[c, 4] = highest if count > 0 else np.nan
        out[c, 5] = background
        out[c, 6] = mean - background
        out[c, 7] = area
        flags[c] = (
            cy - radius < -0.5
            or cx - radius < -0.5
            or cy + radius > height - 0.5
            or cx + radius > width - 0.5
        )


def measure_circles(plane: NDArray[Any], circles: NDArray[np.float64]) -> NDArray[np.void]:
    """Measure a plane's grey values inside each circle and around it.

    Parameters
    ----------
    plane
        Grey values (y, x): bool, integers or floats. Values that are not finite are ignored.
    circles
        Array (n, 3 or more): centre y and x in the plane, radius, pixels; further columns are
        ignored.

    Returns
    -------
    Structured array (n,) of `MEASURES`. Over the pixels with their centres inside: ``mean``, ``sd``
    (population), ``min``, ``median`` (mean of the middle two), ``max``. ``background_mean``: mean
    of the pixels with centres from 2 px outside the edge to a fifth of the radius (at least 2 px)
    further, except those inside any other circle given. ``contrast``: mean minus background_mean.
    All in grey levels, NaN without such pixels. ``area_px``: number of pixels inside, usable or
    not. ``touches_border``: whether any part of the circle lies outside the plane.

    Raises
    ------
    ParameterError
        If the plane is not two-dimensional or not real, or the circles are not finite rows with
        radii over 0.

    Examples
    --------
    >>> plane = np.zeros((32, 32), np.uint8)
    >>> plane[10:20, 10:20] = 100
    >>> row = measure_circles(plane, np.array([[14.5, 14.5, 4.0]]))[0]
    >>> float(row["mean"]), int(row["area_px"]), bool(row["touches_border"])
    (100.0, 52, False)
    """
    image = as_plane(plane)
    rows = np.ascontiguousarray(circles, np.float64)
    if rows.ndim != 2 or rows.shape[1] < 3:
        raise ParameterError("circles", f"of shape {rows.shape}", "rows of y, x, radius")
    rows = np.ascontiguousarray(rows[:, :3])
    if not np.isfinite(rows).all() or (rows[:, 2] <= 0).any():
        raise ParameterError("circles", "with radii or places out of range", "finite, radii over 0")
    if image.dtype.kind == "b":
        image = image.view(np.uint8)
    table = np.empty((len(rows), 8))
    flags = np.empty(len(rows), np.bool_)
    if len(rows):
        most = int((2 * np.ceil(rows[:, 2].max()) + 1) ** 2)
        grey_levels = _GREY_LEVELS.get(image.dtype.str[1:], 0)
        whole = grey_levels > 0
        histogram = np.zeros(grey_levels, np.int64)
        values = np.empty(0 if whole else min(most, image.size))
        neighbours, first = _ring_neighbours(rows)
        measure(image, rows, neighbours, first, values, histogram, table, flags)
    out = np.empty(len(rows), MEASURES)
    for column, name in enumerate(MEASURES.names or ()):
        out[name] = flags if name == "touches_border" else table[:, column]
    return out


def _ring_neighbours(rows: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return concatenated lists of the circles that reach into each circle's ring."""
    radius = rows[:, 2]
    outer = radius + RING_GAP_PX + np.maximum(RING_LEAST_PX, RING_SHARE * radius)
    first = np.zeros(len(rows) + 1, np.int64)
    # A buffer for all pairs would grow with the square of thousands of circles: count first.
    list_neighbours(rows, outer, np.empty(0, np.int64), first)
    neighbours = np.empty(first[-1], np.int64)
    list_neighbours(rows, outer, neighbours, first)
    return neighbours, first
