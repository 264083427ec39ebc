"""Grey-value measures inside circles and in the background ring around them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels._jit import Floats, Plane, Whole, compiled
from engine.kernels.planes import as_plane

RING_GAP_PX = 2.0
"""Gap between the edge and the background ring: blur has faded by then."""

RING_WIDTH_SHARE = 0.2
RING_LEAST_PX = 2.0
"""Width of the background ring: a fifth of the radius, but at least 2 px."""

MEASURES = np.dtype(
    [
        ("mean_intensity", np.float64),
        ("sd_intensity", np.float64),
        ("min_intensity", np.float64),
        ("median_intensity", np.float64),
        ("max_intensity", np.float64),
        ("background_mean", np.float64),
        ("contrast", np.float64),
        ("area_px", np.int64),
        ("touches_border", np.bool_),
    ],
    align=True,
)
"""Columns that `measure_circles` adds to a circle; in grey levels unless said otherwise."""

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


class Neighbours(NamedTuple):
    """Circles that may reach into the ring of each circle."""

    members: Whole
    """Concatenated lists of circles."""
    first: Whole
    """(n + 1,) int64: start of each circle's list."""


@compiled
def list_neighbours(circles: Floats, outer: Floats, members: Whole, first: Whole) -> None:
    """List, for each circle, the other circles that reach within its ``outer`` radius.

    Write the fields of `Neighbours`; lists beyond the room of ``members`` are counted, not written.
    """
    count = 0
    for c in range(circles.shape[0]):
        first[c] = count
        for n in range(circles.shape[0]):
            dy = circles[n, 0] - circles[c, 0]
            dx = circles[n, 1] - circles[c, 1]
            reach = outer[c] + circles[n, 2]
            if n != c and dy * dy + dx * dx < reach * reach:
                if count < members.size:
                    members[count] = n
                count += 1
    first[circles.shape[0]] = count


@compiled
def span(centre: float, reach: float, size: int) -> tuple[int, int]:
    """Return the first pixel within reach of a centre, and the one after the last."""
    return max(0, int(np.ceil(centre - reach))), min(size, int(np.floor(centre + reach)) + 1)


@compiled
def in_neighbour(circles: Floats, neighbours: Neighbours, c: int, y: int, x: int) -> bool:
    """Return whether a pixel is inside any neighbour of circle ``c``."""
    members, first = neighbours
    for k in range(first[c], first[c + 1]):
        n = members[k]
        dy = y - circles[n, 0]
        dx = x - circles[n, 1]
        if dy * dy + dx * dx <= circles[n, 2] * circles[n, 2]:
            return True
    return False


@compiled
def sum_squares(plane: Plane, circle: Floats, mean: float) -> float:
    """Return the sum of squared differences from the mean of the usable pixels in a circle."""
    cy, cx, radius = circle[0], circle[1], circle[2]
    top, bottom = span(cy, radius, plane.shape[0])
    left, right = span(cx, radius, plane.shape[1])
    squares = 0.0
    for y in range(top, bottom):
        dy = y - cy
        for x in range(left, right):
            dx = x - cx
            if dy * dy + dx * dx <= radius * radius:
                value = np.float64(plane[y, x])
                if abs(value) < np.inf:
                    squares += (value - mean) * (value - mean)
    return squares


@compiled
def measure(
    plane: Plane,
    circles: Floats,
    neighbours: Neighbours,
    values: Floats,
    histogram: Whole,
    out: NDArray[np.void],
) -> None:
    """Write the measures of all circles.

    Parameters
    ----------
    plane
        (y, x).
    circles
        (n, 3 or more) float64: y, x, radius in the plane's pixels.
    neighbours
        Circles that may reach into another one's ring.
    values
        Buffer of float64 for the pixels of one circle, used if ``histogram`` is empty.
    histogram
        Zeroed counts for each value of an unsigned type, or empty.
    out
        (n,) of `MEASURES`, written.
    """
    height, width = plane.shape
    for c in range(circles.shape[0]):
        cy, cx, radius = circles[c, 0], circles[c, 1], circles[c, 2]
        inner = radius + RING_GAP_PX
        outer = inner + max(RING_LEAST_PX, RING_WIDTH_SHARE * radius)
        inside = radius * radius
        ring_low = inner * inner
        ring_high = outer * outer
        count = ring_count = area = 0
        total = ring_total = 0.0
        lowest = np.inf
        highest = -np.inf
        top, bottom = span(cy, outer, height)
        left, right = span(cx, outer, width)
        for y in range(top, bottom):
            dy = y - cy
            for x in range(left, right):
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
                    value = np.float64(plane[y, x])
                    if abs(value) < np.inf and not in_neighbour(circles, neighbours, c, y, x):
                        ring_total += value
                        ring_count += 1
        row = out[c]
        row["area_px"] = area
        row["touches_border"] = (
            cy - radius < -0.5
            or cx - radius < -0.5
            or cy + radius > height - 0.5
            or cx + radius > width - 0.5
        )
        row["background_mean"] = ring_total / ring_count if ring_count > 0 else np.nan
        if count == 0:
            row["mean_intensity"] = row["sd_intensity"] = row["contrast"] = np.nan
            row["min_intensity"] = row["median_intensity"] = row["max_intensity"] = np.nan
            continue
        mean = total / count
        row["mean_intensity"] = mean
        # A second pass: a difference of large sums would lose a small standard deviation.
        row["sd_intensity"] = np.sqrt(sum_squares(plane, circles[c], mean) / count)
        row["min_intensity"] = lowest
        row["max_intensity"] = highest
        row["contrast"] = mean - row["background_mean"]
        if histogram.size > 0:
            middle = median_of_histogram(histogram, int(lowest), int(highest), count)
        else:
            middle = median_of_values(values, count)
        row["median_intensity"] = middle


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
    Structured array (n,) of `MEASURES`. Over the pixels with their centres inside:
    ``mean_intensity``, ``sd_intensity`` (population), ``min_intensity``, ``median_intensity`` (mean
    of the middle two), ``max_intensity``. ``background_mean``: mean of the pixels with centres from
    2 px outside the edge to a fifth of the radius (at least 2 px) further, except those inside any
    other circle given. ``contrast``: mean_intensity minus background_mean. All in grey levels, NaN
    without such pixels. ``area_px``: number of pixels inside, usable or not. ``touches_border``:
    whether any part of the circle lies outside the plane.

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
    >>> float(row["mean_intensity"]), int(row["area_px"]), bool(row["touches_border"])
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
    out = np.empty(len(rows), MEASURES)
    if len(rows):
        most = int((2 * np.ceil(rows[:, 2].max()) + 1) ** 2)
        grey_levels = _GREY_LEVELS.get(image.dtype.str[1:], 0)
        histogram = np.zeros(grey_levels, np.int64)
        values = np.empty(0 if grey_levels > 0 else min(most, image.size))
        measure(image, rows, _ring_neighbours(rows), values, histogram, out)
    return out


def _ring_neighbours(rows: NDArray[np.float64]) -> Neighbours:
    """Return the circles that reach into each circle's ring."""
    radius = rows[:, 2]
    outer = radius + RING_GAP_PX + np.maximum(RING_LEAST_PX, RING_WIDTH_SHARE * radius)
    first = np.zeros(len(rows) + 1, np.int64)
    # A buffer for all pairs would grow with the square of thousands of circles: count first.
    list_neighbours(rows, outer, np.empty(0, np.int64), first)
    members = np.empty(first[-1], np.int64)
    list_neighbours(rows, outer, members, first)
    return Neighbours(members, first)
