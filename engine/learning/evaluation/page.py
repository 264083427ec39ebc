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
from engine.store.backend.atomic_write import atomic_write
from engine.visible import escape

PAGE = "index.html"
PLOTS = "plots.png"

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem;
  color: #222; background: #fff }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem .9rem .25rem 0; text-align: right; font-variant-numeric: tabular-nums }
td:first-child, th:first-child { text-align: left }
th { border-bottom: 1px solid #ccc; font-weight: 600 }
img { max-width: 100%; height: auto; display: block }
figure { margin: 1.2rem 0 } figcaption { margin-bottom: .3rem }
.false { color: #c8141e; font-weight: 600 } .missed { color: #0c8a3c; font-weight: 600 }
.quiet { color: #666 }
"""

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
    count = len(made.images)
    rows = "".join(
        _row(label_of(n), told(n, i.value), told_ends(n, i))
        if np.isfinite(i.value)
        else _row(label_of(n), told_interval(n, i), "")
        for n, i in figures.items()
    )
    table = f"<table>{_row('', 'value', '95 % interval', tag='th')}{rows}</table>"
    shown = "".join(_figure(row) for row in made.images.to_dict("records") if row["picture"])
    panels = ", ".join(made.classes[1:])
    flattered = f"<p class=false>{escape(made.flattered)}</p>" if made.flattered else ""
    left = "".join(f"<p>{escape(line)}</p>" for line in told_left_out(made.left_out))
    body = (
        f"<h1>{escape(made.of)} against masks of {count:,} "
        f"image{'s' if count != 1 else ''}</h1>{flattered}{left}{table}"
        f"<p class=quiet>{told_sureness(count)}</p>"
        f'<img src="{PLOTS}" alt="Confusion matrix and agreement of densities">'
        f"<h2>Where it errs, worst images first</h2><p>The image, then {escape(panels)}: "
        "<span class=false>red</span> was found and not drawn, <span class=missed>green</span> was "
        f"drawn and not found.</p>{shown}"
    )
    return _write(folder, made.of, body)


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
    first, second = (one.of for one in pair)
    rows = "".join(
        _row(
            label_of(d.figure),
            told(d.figure, d.first),
            told(d.figure, d.second),
            signed(d.figure, d.change),
        )
        for d in differences
    )
    head = _row("", f"A: {first}", f"B: {second}", "B less A (95 % interval)", tag="th")
    shown = "".join(
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<img src="{escape(a)}" alt="A"><br><img src="{escape(b)}" alt="B"></figure>'
        for caption, a, b in pictures
    )
    body = (
        f"<h1>A: {escape(first)}, B: {escape(second)}</h1><table>{head}{rows}</table>"
        "<p class=quiet>The interval is of the images' differences, so it is narrower than those "
        "of the two figures; where it does not hold 0, one is the better.</p>"
        f"<h2>Where they differ most</h2><p>A above, B below.</p>{shown}"
    )
    return _write(folder, f"{pair[0].of} and {pair[1].of}", body)


def signed(figure: str, change: Interval) -> str:
    """Return a difference with its interval, for a cell or a line."""
    scale, unit, digits = (100, " points", 2) if figure.startswith("density_") else (1, "", 3)
    if figure == "density_correlation":
        scale, unit, digits = 1, "", 3
    if not np.isfinite(change.value):
        return "n/a"
    value, low, high = (f"{scale * v:+.{digits}f}" for v in change)
    return f"{value}{unit} ({low} to {high})"


def _figure(row: Mapping[Any, Any]) -> str:
    dsc = told("dsc", float(row["dsc"]))
    density = ""
    if "density_error" in row:
        true, found = (float(row[n]) for n in ("density_true", "density_found"))
        density = f", bone density {100 * found:.2f} % (drawn: {100 * true:.2f} %)"
    who = f"{row['subject']} " if row["subject"] else ""
    caption = escape(f"{who}{row['name']}: DSC {dsc}{density}")
    source = escape(str(row["picture"]))
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<img loading=lazy src="{source}" alt="{caption}"></figure>'
    )


def _row(*cells: str, tag: str = "td") -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def _write(folder: Path, title: str, body: str) -> Path:
    text = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{STYLE}</style>{body}</html>\n"
    )
    atomic_write(folder / PAGE, text.encode())
    return folder / PAGE
