"""Plots of evaluations: confusion matrix, and agreement of densities."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from engine.errors import MissingExtra
from engine.learning.evaluation.evaluation import Evaluation

DOT = "#0072b2"


def draw_plots(made: Evaluation) -> bytes:
    """Return a PNG: the confusion matrix, and for marrow correlation and Bland-Altman.

    Raises
    ------
    MissingExtra
        If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure  # without pyplot: no window and no global state
    except ImportError:
        raise MissingExtra("matplotlib", "segment", "to plot evaluations") from None
    paired = made.marrow and len(made.pairs()) > 0
    figure = Figure(figsize=(13.5 if paired else 4.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Any] = figure.subplots(1, 3 if paired else 1, squeeze=False)[0].tolist()
    _confusion(axes[0], made)
    if paired:
        _correlation(axes[1], made)
        _agreement(axes[2], made)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=100)
    return drawn.getvalue()


def _confusion(axis: Any, made: Evaluation) -> None:
    shares, low, high = made.shares()
    axis.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(*shares.shape):
        if np.isfinite(shares[i, j]):
            told = f"{100 * shares[i, j]:.1f}\n{100 * low[i, j]:.1f} to {100 * high[i, j]:.1f}"
            colour = "white" if shares[i, j] > 0.5 else "black"
            axis.text(j, i, told, ha="center", va="center", fontsize=8, color=colour)
    ticks = range(len(made.classes))
    axis.set_xticks(ticks, made.classes)
    axis.set_yticks(ticks, made.classes)
    axis.set(xlabel="found", ylabel="drawn", title="Pixels of a class, % (95 % interval)")


def _correlation(axis: Any, made: Evaluation) -> None:
    pairs = 100 * made.pairs()
    r = made.summary()["density_correlation"]
    low, high = pairs.min(), pairs.max()
    room = max(0.05 * (high - low), 0.5)
    ends = (low - room, high + room)
    axis.plot(ends, ends, color="0.7", linewidth=1, zorder=0)
    axis.scatter(pairs[:, 0], pairs[:, 1], s=16, color=DOT)
    axis.set(xlim=ends, ylim=ends, aspect="equal", xlabel="drawn, %", ylabel="found, %")
    told = f"r = {r.value:.3f} ({r.low:.3f} to {r.high:.3f})" if np.isfinite(r.value) else ""
    axis.set_title(f"Bone density  {told}")
    _open(axis)


def _agreement(axis: Any, made: Evaluation) -> None:
    pairs = 100 * made.pairs()
    figures = made.summary()
    axis.scatter(pairs.mean(axis=1), pairs[:, 1] - pairs[:, 0], s=16, color=DOT)
    for name, style in (
        ("density_bias", "-"),
        ("density_limit_low", "--"),
        ("density_limit_high", "--"),
    ):
        line = figures[name]
        if np.isfinite(line.value):
            axis.axhline(100 * line.value, color="0.4", linewidth=1, linestyle=style)
            axis.axhspan(100 * line.low, 100 * line.high, color="0.4", alpha=0.12, linewidth=0)
            axis.annotate(
                f"{100 * line.value:+.2f}",
                (1, 100 * line.value),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
            )
    axis.axhline(0, color="0.8", linewidth=1, zorder=0)
    axis.set(
        xlabel="mean of drawn and found, %",
        ylabel="found less drawn, points",
        title="Bland-Altman: bias, limits of agreement",
    )
    _open(axis)


def _open(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
