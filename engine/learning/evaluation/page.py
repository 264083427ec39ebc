"""HTML page of an evaluation or of a comparison; self-contained on any file share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.learning.datasets.left_out import told_left_out
from engine.learning.evaluation.bootstrap import AGREEING, Interval
from engine.learning.evaluation.comparison import Difference
from engine.learning.evaluation.evaluation import Evaluation
from engine.pages.rendering import render
from engine.store.backend.atomic_write import atomic_write

PAGE = "index.html"
PLOTS = "plots.png"

LABELS = {
    "dsc": "DSC, mean of classes but the background",
    "density_error": "Bone density, relative error (median)",
    "density_correlation": "Bone density, correlation",
    "density_bias": "Bone density, bias (points)",
    "density_limit_low": "Bone density, lower limit of agreement (points)",
    "density_limit_high": "Bone density, upper limit of agreement (points)",
}

PERCENT = ("density_error",)
UNTOLD = {
    "density_correlation": f"n/a: needs {AGREEING} images whose densities differ",
    "density_limit_low": f"n/a: needs {AGREEING} images",
    "density_limit_high": f"n/a: needs {AGREEING} images",
}
"""Explanations of undefined figures; by default no image shows the class."""

ROUGH = 10
"""Number of images below which intervals are rough."""

POINTS = ("density_bias", "density_limit_low", "density_limit_high")


def label_of(figure: str) -> str:
    """Return the display name of a figure."""
    return LABELS.get(figure, f"DSC, {figure.removeprefix('dsc_').replace('_', ' ')}")


def told(figure: str, value: float) -> str:
    """Return the formatted value of a figure.

    Examples
    --------
    >>> told("density_error", 0.0123), told("dsc", 0.98765), told("dsc", float("nan"))
    ('1.2 %', '0.988', 'n/a')
    """
    if not np.isfinite(value):
        return "n/a"
    if figure in PERCENT:
        return f"{100 * value:.1f} %"
    return f"{100 * value:+.2f}" if figure in POINTS else f"{value:.3f}"


def told_interval(figure: str, interval: Interval) -> str:
    """Return a figure with its interval for a line, or the reason why it is undefined."""
    if not np.isfinite(interval.value):
        return UNTOLD.get(figure, "n/a: no image shows it")
    ends = told_ends(figure, interval)
    return f"{told(figure, interval.value)} ({ends})" if ends else told(figure, interval.value)


def told_ends(figure: str, interval: Interval) -> str:
    """Return an interval for a cell; "" if undefined."""
    if not np.isfinite(interval.low):
        return ""
    return f"{told(figure, interval.low)} to {told(figure, interval.high)}"


def told_sureness(images: int) -> str:
    """Explain intervals, with a warning if the images are few."""
    rough = f", which is rough for as few as {images}" if images < ROUGH else ""
    return f"Intervals (95 %) are percentiles of 2,000 draws of whole images{rough}."


def write_page(folder: Path, made: Evaluation, figures: Mapping[str, Interval]) -> Path:
    """Write ``index.html``: figures, plots, and error maps, those of the worst images first."""
    rows = [
        (label_of(n), told(n, i.value), told_ends(n, i))
        if np.isfinite(i.value)
        else (label_of(n), told_interval(n, i), "")
        for n, i in figures.items()
    ]
    shown = [row for row in made.images.to_dict("records") if row["picture"]]
    return _write(
        folder,
        "learning/evaluation/evaluation.html.jinja",
        made=made,
        notes=told_left_out(made.left_out),
        rows=rows,
        intervals=told_sureness(len(made.images)),
        plots=PLOTS,
        pictures=[(_caption(row), row["picture"]) for row in shown],
    )


def write_comparison(
    folder: Path,
    pair: tuple[Evaluation, Evaluation],
    differences: Sequence[Difference],
    pictures: Sequence[tuple[str, str, str]],
) -> Path:
    """Write ``index.html`` of a comparison of two evaluations.

    Parameters
    ----------
    folder
        Target folder.
    pair
        The two evaluations.
    differences
        Differences of their figures.
    pictures
        Caption, and the links of both pictures, of the images that differ most.
    """
    rows = [
        (
            label_of(d.figure),
            told(d.figure, d.first),
            told(d.figure, d.second),
            signed(d.figure, d.change),
        )
        for d in differences
    ]
    names = [one.of for one in pair]
    template = "learning/evaluation/comparison.html.jinja"
    return _write(folder, template, names=names, rows=rows, pictures=pictures)


def signed(figure: str, change: Interval) -> str:
    """Return a difference with its interval, for a cell or a line."""
    scale, unit, digits = (100, " points", 2) if figure.startswith("density_") else (1, "", 3)
    if figure == "density_correlation":
        scale, unit, digits = 1, "", 3
    if not np.isfinite(change.value):
        return "n/a"
    value, low, high = (f"{scale * v:+.{digits}f}" for v in change)
    return f"{value}{unit} ({low} to {high})"


def _caption(row: Mapping[Any, Any]) -> str:
    density = ""
    if "density_error" in row:
        true, found = (float(row[n]) for n in ("density_true", "density_found"))
        density = f", bone density {100 * found:.2f} % (drawn: {100 * true:.2f} %)"
    who = f"{row['subject']} " if row["subject"] else ""
    return f"{who}{row['name']}: DSC {told('dsc', float(row['dsc']))}{density}"


def _write(folder: Path, template: str, **values: object) -> Path:
    atomic_write(folder / PAGE, render(template, **values).encode())
    return folder / PAGE
