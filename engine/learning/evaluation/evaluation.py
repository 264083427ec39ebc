"""Evaluation of labels against masks: tables per image and in total."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import ParameterError, UsageError
from engine.learning.datasets.left_out import LeftOut
from engine.learning.evaluation.bootstrap import (
    AGREEING,
    UNKNOWN,
    Interval,
    agreement_of,
    bootstrap,
    correlation_of,
    mean_of,
    median_of,
    shares_of,
)
from engine.learning.evaluation.overlap import describe_overlap
from engine.learning.evaluation.scores import MARROW, densities_of, dice_of, relative_error
from engine.store.backend.atomic_write import atomic_write

if TYPE_CHECKING:
    import pandas as pd

IMAGES = "images.parquet"
SUMMARY = "summary.parquet"
ABOUT = "evaluation.json"


class NoEvaluation(UsageError):
    """The folder holds no evaluation: (folder,)."""

    def __str__(self) -> str:
        return f"No evaluation in {self.args[0]}. Make one with: cohort evaluate COHORT DIR"


@dataclass(frozen=True, slots=True)
class Scored:
    """Pixel counts of one image: true classes in rows, found classes in columns."""

    image_id: str
    name: str
    subject: str
    counts: tuple[tuple[int, ...], ...]
    picture: str = ""
    learnt_from: str | None = None

    @property
    def confusion(self) -> NDArray[np.int64]:
        """The counts as an array (classes, classes)."""
        return np.asarray(self.counts, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Evaluation: its subject, its images by ascending score, and its figures.

    Attributes
    ----------
    of
        Name of the evaluated labels, for display.
    classes
        Names, in the order of the labels.
    images
        One row per image, the worst first: ``image_id``, ``name``, ``subject``, ``picture``,
        ``learnt_from`` (what the model was trained on: "image", another one of its "subject", or
        "no"; None if unknown),
        ``dsc`` (mean without background), ``dsc_<class>``; for marrow ``density_true``,
        ``density_found``, ``density_error`` (relative).
    counts
        (images, classes, classes) pixels in the same order, true classes in rows.
    left_out
        Selected images that were not evaluated, with the reasons.
    """

    of: str
    classes: tuple[str, ...]
    images: pd.DataFrame
    counts: NDArray[np.int64]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def marrow(self) -> bool:
        """True if the classes define a bone density."""
        return self.classes == MARROW

    @property
    def overlap_warning(self) -> str | None:
        """Warning for an evaluation on training images; None if there are none."""
        if "learnt_from" not in self.images:  # an evaluation of an older version
            return None
        return describe_overlap(list(self.images["learnt_from"]), self.images["subject"])

    def pairs(self) -> NDArray[np.float64]:
        """Return true and found density (images, 2) of the images with both."""
        pairs = self.images[["density_true", "density_found"]].to_numpy(float)
        return np.asarray(pairs[np.isfinite(pairs).all(axis=1)])

    def summary(self) -> dict[str, Interval]:
        """Return the figures by name, each with its interval over images."""
        dsc = self.images[["dsc", *(f"dsc_{name}" for name in self.classes)]].to_numpy(float)
        names = ["dsc", *(f"dsc_{name}" for name in self.classes)]
        found = {
            n: _of(*ends) for n, ends in zip(names, _each(bootstrap(dsc, mean_of)), strict=True)
        }
        if self.marrow:
            errors = self.images["density_error"].to_numpy(float)
            found["density_error"] = _of(*bootstrap(errors, median_of))
            found |= self._agreement()
        return found

    def _agreement(self) -> dict[str, Interval]:
        names = ("density_bias", "density_limit_low", "density_limit_high")
        found = dict.fromkeys(("density_correlation", *names), UNKNOWN)
        pairs = self.pairs()
        if len(pairs):
            each = _each(bootstrap(pairs, agreement_of))
            kept = len(names) if len(pairs) >= AGREEING else 1
            found |= {n: _of(*ends) for n, ends in list(zip(names, each, strict=True))[:kept]}
        if len(pairs) >= AGREEING:
            found["density_correlation"] = _of(*bootstrap(pairs, correlation_of))
        return found

    def shares(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the confusion matrix as shares of the true class, and its interval's ends."""
        return bootstrap(self.counts, shares_of)


def evaluation_of(of: str, classes: Sequence[str], scored: Sequence[Scored]) -> Evaluation:
    """Return the evaluation of some images, the worst first: by mean DSC, then by density.

    Parameters
    ----------
    of
        Name of the evaluated labels.
    classes
        Names, in the order of the labels; the first is the background.
    scored
        Counts of each image, in any order.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for one in scored:
        dice = dice_of(one.confusion)
        known = dice[1:][np.isfinite(dice[1:])]
        row: dict[str, Any] = {
            "image_id": one.image_id,
            "name": one.name,
            "subject": one.subject,
            "picture": one.picture,
            "learnt_from": one.learnt_from,
            "dsc": float(known.mean()) if len(known) else float("nan"),
            **{f"dsc_{name}": float(v) for name, v in zip(classes, dice, strict=True)},
        }
        if tuple(classes) == MARROW:
            true, found = densities_of(one.confusion)
            row |= {
                "density_true": true,
                "density_found": found,
                "density_error": relative_error(true, found),
            }
        rows.append(row)
    frame = pd.DataFrame(rows)
    by = ["dsc", "image_id"]
    order = frame.sort_values(by, na_position="last").index.to_numpy()
    counts = np.stack([scored[n].confusion for n in order])
    return Evaluation(of, tuple(classes), frame.loc[order].reset_index(drop=True), counts)


def require_place(folder: Path) -> None:
    """Check that a folder may hold an evaluation: files in it are replaced and removed.

    Raises
    ------
    ParameterError
        If the folder is neither empty nor an evaluation.
    """
    other = folder.exists() and not folder.is_dir()
    if other or (folder.is_dir() and any(folder.iterdir()) and not (folder / ABOUT).exists()):
        expected = "a new or empty folder, or one of an earlier evaluation"
        raise ParameterError("DIR", str(folder), expected)


def claim_place(folder: Path) -> None:
    """Mark a folder as an evaluation, so that an interrupted one can be repeated."""
    if not (folder / ABOUT).exists():
        atomic_write(folder / ABOUT, b"{}\n")


def write_evaluation(folder: Path, made: Evaluation) -> dict[str, Interval]:
    """Write the tables of an evaluation; return its figures.

    ``images.parquet`` has a row per image with its counts as ``pixels_<true>_as_<found>``;
    ``summary.parquet`` a row per figure.
    """
    import pandas as pd

    frame = made.images.copy()
    for i, true in enumerate(made.classes):
        for j, found in enumerate(made.classes):
            frame[f"pixels_{true}_as_{found}"] = made.counts[:, i, j]
    _write_table(folder / IMAGES, frame)
    figures = made.summary()
    rows = [{"figure": name, **interval._asdict()} for name, interval in figures.items()]
    _write_table(folder / SUMMARY, pd.DataFrame(rows))
    left_out = [one.as_json() for one in made.left_out]
    about = {"of": made.of, "classes": list(made.classes), "left_out": left_out}
    atomic_write(folder / ABOUT, json.dumps(about, indent=2).encode() + b"\n")
    return figures


def read_evaluation(folder: Path) -> Evaluation:
    """Read the tables that `write_evaluation` wrote.

    Raises
    ------
    NoEvaluation
    """
    try:
        about = json.loads((folder / ABOUT).read_text())
        frame = pq.read_table(folder / IMAGES).to_pandas()
        classes = tuple(about["classes"])
        columns = [f"pixels_{true}_as_{found}" for true in classes for found in classes]
        counts = frame[columns].to_numpy(np.int64).reshape(len(frame), len(classes), len(classes))
        left = tuple(
            LeftOut(one["reason"], one["count"], tuple(one["first"]))
            for one in about.get("left_out", ())
        )
        return Evaluation(about["of"], classes, frame.drop(columns=columns), counts, left)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        raise NoEvaluation(str(folder)) from None


def _write_table(path: Path, frame: pd.DataFrame) -> None:
    kept = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), kept)
    atomic_write(path, kept.getvalue().to_pybytes())


def _each(
    ends: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
) -> list[tuple[Any, Any, Any]]:
    return list(zip(*ends, strict=True))


def _of(value: Any, low: Any, high: Any) -> Interval:
    return Interval(float(value), float(low), float(high))
