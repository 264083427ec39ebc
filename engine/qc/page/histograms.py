"""Layout of histograms: one row per subject, a shared axis, counts and units as text."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.qc.statistics import COUNT, Histogram, round_to

WIDTH = 360
LEFT, RIGHT = 46, 342
"""Ends of the axis, SVG units."""

ROW, PLOT, BASE = 78, 46, 70
"""Height of a row and of the bars in it, and the axis below them, SVG units."""

MOST_ROWS = 8
"""Maximum rows; further subjects share the last one."""


class Row(NamedTuple):
    """Histogram of one group; ``bars`` is an SVG path, ``mean_x`` is None without a mean."""

    name: str
    total: int
    mean: float
    most: int
    bars: str
    mean_x: float | None


class Chart(NamedTuple):
    """Histograms of a measure on one axis, whose ``ticks`` are positions and values."""

    title: str
    of: str
    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, float], ...]
    width: int = WIDTH
    left: int = LEFT
    right: int = RIGHT
    row: int = ROW
    base: int = BASE
    top: int = BASE - PLOT

    @property
    def height(self) -> int:
        """Height of all rows with the axis."""
        return len(self.rows) * self.row + 40


def number(value: float) -> str:
    """Format a number for people.

    Examples
    --------
    >>> [number(v) for v in (30.0, 45.02, 0.98765, 12345.6, 0.0, float("nan"))]
    ['30', '45.0', '0.988', '12,346', '0', '–']
    """
    if not np.isfinite(value):
        return "\N{EN DASH}"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def rows_shown(
    histogram: Histogram, subjects: tuple[str, ...]
) -> list[tuple[str, NDArray[np.int64], float]]:
    """Return name, counts and mean of each row: the largest subjects, and all others as one."""
    totals = histogram.counts.sum(axis=1)
    present = [n for n in range(len(subjects)) if totals[n]]
    order = sorted(present, key=lambda n: -totals[n])
    own = order if len(order) <= MOST_ROWS else order[: MOST_ROWS - 1]
    rows = [
        (subjects[n] or "no subject", histogram.counts[n], float(histogram.means[n]))
        for n in sorted(own)
    ]
    rest = [n for n in order if n not in set(own)]
    if rest:
        mean = float(np.average(histogram.means[rest], weights=totals[rest]))
        rows.append((f"{len(rest)} other subjects", histogram.counts[rest].sum(axis=0), mean))
    return rows


def ticks(low: float, high: float, least_step: float = 0.0) -> list[float]:
    """Return two to six round numbers in a range.

    Examples
    --------
    >>> ticks(14.2, 66.0)
    [20.0, 40.0, 60.0]
    """
    span = max(high - low, 1e-12)
    power = 10.0 ** np.floor(np.log10(span / 3))
    step = power * max(n for n in (1, 2, 5, 10) if n * power <= span / 2.5 or n == 1)
    step = max(step, least_step)
    first = np.ceil(low / step - 1e-9)
    return round_to(step, np.arange(first, high / step + 1e-9) * step).tolist()


def chart(histogram: Histogram, groups: tuple[str, ...], title: str, of: str) -> Chart | None:
    """Lay out a histogram; None if it counts nothing.

    Parameters
    ----------
    title
        Measure with its unit, as title below the axis.
    of
        Name of the counted items: "circles", "images".
    """
    found = rows_shown(histogram, groups)
    if not found:
        return None
    low, high = float(histogram.edges[0]), float(histogram.edges[-1])

    def across(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (RIGHT - LEFT)

    rows = []
    for name, counts, mean in found:
        most = max(int(counts.max()), 1)
        steps = "".join(
            f"H{across(float(edge)):.1f}V{BASE - PLOT * count / most:.1f}"
            for edge, count in zip(histogram.edges, counts, strict=False)
        )
        bars = f"M{LEFT} {BASE}{steps}H{RIGHT}V{BASE}Z"
        mean_x = across(mean) if np.isfinite(mean) else None
        rows.append(Row(name, int(counts.sum()), mean, most, bars, mean_x))
    marks = ticks(low, high, 1.0 if histogram.measure == COUNT else 0.0)
    return Chart(title, of, tuple(rows), tuple((across(tick), tick) for tick in marks))
