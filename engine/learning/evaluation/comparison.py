"""Paired comparison of two evaluations of the same images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import UsageError
from engine.learning.evaluation.bootstrap import (
    AGREEING,
    UNKNOWN,
    Interval,
    bootstrap,
    correlation_of,
    mean_of,
    median_of,
)
from engine.learning.evaluation.evaluation import Evaluation

if TYPE_CHECKING:
    import pandas as pd

DIFFERENCES = "differences.parquet"

SHOWN = 24
"""Number of pairs of pictures on a page."""


class NothingShared(UsageError):
    """Two evaluations can't be compared: (reason,)."""

    def __str__(self) -> str:
        return f"The two can't be compared: {self.args[0]}."


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of both evaluations over their common images, and the second minus the first."""

    figure: str
    first: float
    second: float
    change: Interval


def compare(first: Evaluation, second: Evaluation) -> tuple[list[Difference], pd.DataFrame]:
    """Return the differences of two evaluations' figures, and their images side by side.

    Images are resampled in pairs, so the difficulty of an image for both cancels out.

    Parameters
    ----------
    first, second
        Of the same classes, with at least one common image.

    Returns
    -------
    Differences; and the common images, those that differ most first, with columns ``<figure>_a``
    and ``<figure>_b``.

    Raises
    ------
    NothingShared
        If classes differ, or the evaluations have no image in common.
    """
    if first.classes != second.classes:
        raise NothingShared(
            f"one has the classes {', '.join(first.classes)}, the other {', '.join(second.classes)}"
        )
    both = first.images.merge(
        second.images.drop(columns=["name", "subject"]), on="image_id", suffixes=("_a", "_b")
    )
    if both.empty:
        raise NothingShared("they have no image in common")
    found = [
        _difference(both, name, name, mean_of)
        for name in ("dsc", *(f"dsc_{name}" for name in first.classes))
    ]
    if first.marrow:
        found.append(_difference(both, "density_error", "density_error", median_of))
        found.append(_correlations(both))
    apart = (both["dsc_b"] - both["dsc_a"]).abs()
    order = apart.sort_values(ascending=False, na_position="last", kind="stable").index
    return found, both.loc[order].reset_index(drop=True)


def _difference(
    both: pd.DataFrame,
    figure: str,
    column: str,
    statistic: Callable[[NDArray[Any]], NDArray[np.float64]],
) -> Difference:
    values = both[[f"{column}_a", f"{column}_b"]].to_numpy(float)

    def change(drawn: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(statistic(drawn[..., 1]) - statistic(drawn[..., 0]))

    first, second = (float(statistic(values[None, :, n])[0]) for n in (0, 1))
    return Difference(
        figure, first, second, Interval(*(float(v) for v in bootstrap(values, change)))
    )


def _correlations(both: pd.DataFrame) -> Difference:
    columns = [f"density_{what}_{side}" for side in "ab" for what in ("true", "found")]
    values = both[columns].to_numpy(float)
    values = values[np.isfinite(values).all(axis=1)]
    if len(values) < AGREEING:
        return Difference("density_correlation", UNKNOWN.value, UNKNOWN.value, UNKNOWN)

    def change(drawn: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(correlation_of(drawn[..., 2:]) - correlation_of(drawn[..., :2]))

    first, second = (float(correlation_of(values[None, :, n : n + 2])[0]) for n in (0, 2))
    ends = (float(v) for v in bootstrap(values, change))
    return Difference("density_correlation", first, second, Interval(*ends))


def table_of(both: pd.DataFrame) -> bytes:
    """Return the common images, as from `compare`, as Parquet."""
    kept = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(both, preserve_index=False), kept)
    return kept.getvalue().to_pybytes()


def worst_pictures(
    both: pd.DataFrame, folders: tuple[Path, Path], page: Path
) -> list[tuple[str, str, str]]:
    """Return the caption and links, relative to a page's folder, of the images that differ most.

    Parameters
    ----------
    both
        As returned by `compare`.
    folders
        Folders of the two evaluations.
    page
        Folder of the page.
    """
    found = []
    for row in both.head(SHOWN).to_dict("records"):
        caption = f"{row['subject']} {row['name']}: DSC {row['dsc_a']:.3f} and {row['dsc_b']:.3f}"
        a, b = (
            os.path.relpath(folder / str(row[f"picture_{side}"]), page)
            for folder, side in zip(folders, "ab", strict=True)
        )
        found.append((caption, a, b))
    return found
