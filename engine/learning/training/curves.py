"""Training curves: a table and a plot."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.store.backend.atomic_write import atomic_write

CURVES = "curves.parquet"
PICTURE = "curves.png"


def write_curves(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write a row per validation as Parquet.

    Parameters
    ----------
    folder
        Folder of the training.
    rows
        Rows with ``step``, ``learning_rate``, ``train_loss``, ``loss``, and other metrics.
    """
    kept = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), kept)
    atomic_write(folder / CURVES, kept.getvalue())


def write_picture(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Plot the rows of `write_curves`; takes half a second."""
    atomic_write(folder / PICTURE, _drawn(rows))


def _drawn(rows: Sequence[Mapping[str, float]]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no window and no global state

    steps = [row["step"] for row in rows]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, dsc, density = figure.subplots(1, 3)
    marker = "o" if len(rows) == 1 else ""
    loss.plot(steps, [row["train_loss"] for row in rows], marker=marker, label="crops trained on")
    loss.plot(steps, [row["loss"] for row in rows], marker=marker, label="images held out")
    loss.set(title="Loss", xlabel="step", yscale="log")
    loss.legend(loc="upper right", frameon=False)
    for name in [n for n in rows[0] if n.startswith("dsc_")]:
        values = [row[name] for row in rows]
        dsc.plot(steps, values, marker=marker, label=name.removeprefix("dsc_"))
    dsc.set(title="DSC, images held out", xlabel="step", ylim=(min(0.8, *_seen(rows)), 1.0))
    dsc.legend(loc="lower right", frameon=False)
    density.plot(steps, [100 * row["density_error"] for row in rows], marker=marker)
    density.set(title="Bone density, median error (%)", xlabel="step", ylim=(0, None))
    for axis in (loss, dsc, density):
        axis.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    return drawn.getvalue()


def _seen(rows: Sequence[Mapping[str, float]]) -> list[float]:
    values = [v for row in rows for n, v in row.items() if n.startswith("dsc_") and v == v]
    return [min(values)] if values else [0.0]
