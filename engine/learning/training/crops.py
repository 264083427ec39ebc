"""Random crops as a pure function of seed and step, so that a training can resume anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import NothingFound
from engine.geometry import YX, Region
from engine.learning.datasets.samples import CELL_PX
from engine.learning.training.settings import Augmentation

LATTICE_PX = 64
"""Distance of the points with a random displacement, pixels."""

MARGIN_PX = 2
"""Margin for interpolation around the outermost position, pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Crop:
    """Square crop of a sample.

    Attributes
    ----------
    sample
        Number of the sample.
    position
        (2, side, side) float32: y and x in the sample, pixels, of each of the crop's pixels.
    """

    sample: int
    position: NDArray[np.float32]

    def source(self, shape: YX) -> Region:
        """Return the part of a plane from which the crop is interpolated."""
        low = np.floor(self.position.min(axis=(1, 2))).astype(int) - MARGIN_PX
        high = np.ceil(self.position.max(axis=(1, 2))).astype(int) + 1 + MARGIN_PX
        sides = np.asarray(shape)
        start = np.clip(low, 0, sides - 1)
        stop = np.clip(high, start + 1, sides)
        return Region((int(start[0]), int(start[1])), (int(stop[0]), int(stop[1])))


def crop_rng(seed: int, step: int, place: int, stream: int) -> np.random.Generator:
    """Return the random numbers of one crop of one batch, independent of any earlier draw."""
    return np.random.default_rng((seed, step, place, stream))


def choose_crop(
    cells: Sequence[NDArray[np.int32]],
    side: int,
    change: Augmentation,
    rng: np.random.Generator,
) -> Crop:
    """Return a random crop centred in tissue: turned, scaled, mirrored and deformed.

    Parameters
    ----------
    cells
        Tissue positions of each sample, from `engine.learning.datasets.samples.tissue_cells`.
        Samples are equally likely, whatever their size; samples without tissue are not used.
    side
        Side of the crop, pixels.
    change
        Strengths of the changes.
    rng
        Random numbers of this crop alone, from `crop_rng`.

    Raises
    ------
    NothingFound
        If no sample has tissue.
    """
    usable = [number for number, found in enumerate(cells) if len(found)]
    if not usable:
        raise NothingFound("No mask marks any tissue", "Look at the masks: all is background.")
    sample = usable[int(rng.integers(len(usable)))]
    cell = cells[sample][int(rng.integers(len(cells[sample])))]
    centre = cell + rng.random(2) * CELL_PX
    log_scale = np.log(change.scale)
    scale = np.exp(rng.uniform(-log_scale, log_scale))
    angle = rng.uniform(0, 2 * np.pi) if change.turn else 0.0
    mirrored = bool(change.flip and rng.random() < 0.5)
    points = side // LATTICE_PX + 4
    bend = rng.standard_normal((2, points, points)) * change.elastic_px
    steps = np.arange(side) - (side - 1) / 2
    y, x = np.meshgrid(steps, -steps if mirrored else steps, indexing="ij")
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    position = np.stack((cos * y - sin * x, sin * y + cos * x)) + centre[:, None, None]
    if change.elastic_px:
        position += _smooth(bend, side)
    return Crop(sample, position.astype(np.float32))


def _smooth(lattice: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Return a cubic B-spline (2, side, side) through a lattice (2, n, n) of values."""
    at = np.arange(side) / LATTICE_PX
    first = at.astype(int)
    t = at - first
    weights = np.zeros((side, lattice.shape[1]))
    taps = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for k, tap in enumerate(taps):
        weights[np.arange(side), first + k] = tap / 6
    return np.asarray(weights @ lattice @ weights.T)
