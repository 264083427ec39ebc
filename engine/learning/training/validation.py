"""Validation of a network during training, on whole held-out images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.geometry import Region
from engine.kernels.tiling.inference import Batches, classes_of, predict_tiled
from engine.kernels.tiling.plan import plan_tiled
from engine.learning.datasets.samples import Array, Sample
from engine.learning.evaluation.scores import (
    MARROW,
    confusion,
    densities_of,
    dice_of,
    relative_error,
)
from engine.learning.models.bundle import Predictor

LEAST_PROBABLE = 1e-7
"""Lower limit of probabilities, which keeps logarithms finite."""

Metrics = dict[str, float]


def validate(
    predictor: Predictor,
    samples: Sequence[Sample],
    classes: Sequence[str],
    tile_px: int,
    halo_px: int,
    batch: int,
) -> Metrics:
    """Return loss, mean DSC, DSC of each class, and the density's error.

    Images are predicted whole, in tiles, as `segment` does. The loss is the training loss, averaged
    over images; DSC is a mean over the images that have the class; the density's error is the
    median of the relative errors. Undefined values are NaN.

    Parameters
    ----------
    predictor
        Prediction function.
    samples
        Held-out samples.
    classes
        Their names, in the order of the labels.
    tile_px, halo_px, batch
        Tiling of images.
    """
    losses, dices, errors = [], [], []
    for sample in samples:
        loss, counts = _one(predictor, sample, len(classes), tile_px, halo_px, batch)
        losses.append(loss)
        dices.append(dice_of(counts))
        if tuple(classes) == MARROW:
            errors.append(relative_error(*densities_of(counts)))
    by_class = _means(np.asarray(dices))
    known = np.asarray(errors)[np.isfinite(errors)] if errors else np.empty(0)
    return {
        "loss": float(np.mean(losses)),
        "dsc": float(np.mean(by_class[1:][np.isfinite(by_class[1:])])),
        **{f"dsc_{name}": float(value) for name, value in zip(classes, by_class, strict=True)},
        "density_error": float(np.median(known)) if len(known) else float("nan"),
    }


def predicted_bands(
    predictor: Predictor, pixels: Array, tile_px: int, halo_px: int, batch: int
) -> Iterator[tuple[Region, NDArray[np.float32]]]:
    """Yield regions that cover an image (c, y, x), and the probabilities in them."""
    shape = (pixels.shape[1], pixels.shape[2])
    plan = plan_tiled(shape, (tile_px, tile_px), halo_px, multiple=predictor.multiple_px)

    def read(region: Region) -> NDArray[Any]:
        return pixels[:, *region.slices]

    for band in predict_tiled(read, plan, Batches(predictor, batch)):
        yield band.region, band.planes


def _one(
    predictor: Predictor, sample: Sample, classes: int, tile_px: int, halo_px: int, batch: int
) -> tuple[float, NDArray[np.int64]]:
    counts = np.zeros((classes, classes), np.int64)
    surprise, both, found = 0.0, np.zeros(classes), np.zeros(classes)
    for region, planes in predicted_bands(predictor, sample.pixels, tile_px, halo_px, batch):
        true = sample.labels[region.slices]
        planes = planes[:classes]
        right = np.take_along_axis(planes, true[None].astype(np.intp), axis=0)[0]
        surprise -= float(np.log(np.maximum(right, LEAST_PROBABLE)).sum(dtype=np.float64))
        both += np.bincount(true.ravel(), right.ravel(), classes)
        found += planes.sum(axis=(1, 2), dtype=np.float64)
        counts += confusion(true, classes_of(planes, classes), classes)
    there = counts.sum(axis=1)
    dice = (2 * both / np.maximum(found + there, 1))[there > 0]
    return surprise / max(1, there.sum()) + 1 - float(dice.mean()), counts


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each column, ignoring NaN."""
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=0)
    count = known.sum(axis=0)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
