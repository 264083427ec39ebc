"""Histograms as inline SVG: one row per subject, a shared axis, counts and units as text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.qc.statistics import COUNT, Histogram, round_to
from engine.visible import escape

WIDTH = 360
LEFT, RIGHT = 46, 18
ROW, PLOT = 78, 46
"""Height of a row and of the bars in it, SVG units."""

MOST_ROWS = 8
"""Maximum rows; further subjects share the last one."""


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


def chart(histogram: Histogram, subjects: tuple[str, ...], title: str, of: str) -> str:
    """Return a histogram as SVG.

    Parameters
    ----------
    title
        Measure with its unit, as title below the axis.
    of
        Name of the counted items: "circles", "images".
    """
    rows = rows_shown(histogram, subjects)
    if not rows:
        return ""
    low, high = float(histogram.edges[0]), float(histogram.edges[-1])
    span = WIDTH - LEFT - RIGHT

    def across(value: float) -> float:
        return LEFT + (value - low) / (high - low) * span

    height = len(rows) * ROW + 40
    told = "; ".join(
        f"{name}: {int(counts.sum())} {of}, mean {number(mean)}" for name, counts, mean in rows
    )
    out = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(f"{title}. {told}")}">'
    ]
    # Each row is scaled to its own maximum, printed at the left.
    for n, (name, counts, mean) in enumerate(rows):
        base = n * ROW + ROW - 8
        most = max(int(counts.max()), 1)
        short = name if len(name) <= 24 else name[:23] + "…"
        out.append(
            f'<text x="{LEFT}" y="{base - PLOT - 8}"><tspan class="who">{escape(short)}</tspan>'
            f'<tspan class="dim" dx="8">{int(counts.sum()):,} {escape(of)}, mean {number(mean)}'
            "</tspan></text>"
        )
        path = f"M{across(low):.1f} {base}"
        for edge, count in zip(histogram.edges, counts, strict=False):
            path += f"H{across(float(edge)):.1f}V{base - PLOT * count / most:.1f}"
        path += f"H{across(high):.1f}V{base}Z"
        out.append(f'<path class="bars" d="{path}"/>')
        out.append(f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>')
        out.append(f'<text class="dim end" x="{LEFT - 6}" y="{base - PLOT + 9}">{most:,}</text>')
        out.append(f'<text class="dim end" x="{LEFT - 6}" y="{base}">0</text>')
        if np.isfinite(mean):
            x = across(mean)
            out.append(f'<path class="mean" d="M{x:.1f} {base}V{base - PLOT}"/>')
    base = len(rows) * ROW - 8
    for tick in ticks(low, high, 1.0 if histogram.measure == COUNT else 0.0):
        x = across(tick)
        out.append(f'<path class="axis" d="M{x:.1f} {base}v5"/>')
        out.append(f'<text class="dim mid" x="{x:.1f}" y="{base + 18}">{number(tick)}</text>')
    out.append(
        f'<text class="mid" x="{LEFT + span / 2:.0f}" y="{base + 38}">{escape(title)}</text></svg>'
    )
    return "".join(out)
