"""Which weights of a training are kept, and the models that are made of them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from engine.learning.models.bundle import open_bundle, write_bundle
from engine.learning.models.card import Card

BEST: Mapping[str, tuple[str | None, int]] = {
    "best-loss": ("loss", 1),
    "best-density": ("density_error", 1),
    "best-dsc": ("dsc", -1),
    "last": (None, 1),
}
"""Models by their folder's name: the metric that decides, and the sign that makes it small."""


@dataclass(frozen=True, slots=True)
class Best:
    """Weights that were the best in something.

    Attributes
    ----------
    step
        When; names the file that holds them.
    value
        What they were the best in, so that less is better.
    metrics
        Of that validation.
    """

    step: int
    value: float
    metrics: dict[str, float]

    PATTERN: ClassVar[str] = "kept-*.safetensors"

    @staticmethod
    def file_of(step: int) -> str:
        """Return the name of the file with the weights of some step."""
        return f"kept-{step:08d}.safetensors"

    def as_state(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {"step": self.step, "value": self.value, "metrics": self.metrics}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Best:
        """Return what a checkpoint kept."""
        return cls(state["step"], state["value"], dict(state["metrics"]))


def write_bundles(
    folder: Path, card: Card, best: Mapping[str, Best], trained_on: Iterable[str]
) -> dict[str, str]:
    """Make a model of all that was kept, in place of those of an earlier part of the training.

    Parameters
    ----------
    folder
        Of the training; each model becomes a folder in it.
    card
        Of all of them; the metrics are filled in here.
    best
        What was kept, by the folder's name.
    trained_on
        Content digests of the images that all of them learnt from.

    Returns
    -------
    The models' folders by their names.
    """
    made = {}
    for name, kept in best.items():
        metrics = {k: round(v, 6) for k, v in kept.metrics.items() if math.isfinite(v)}
        filled = card.model_copy(update={"metrics": {"step": float(kept.step), **metrics}})
        weights = (folder / Best.file_of(kept.step)).read_bytes()
        place = folder / name
        if place.exists():
            shutil.rmtree(place)
        write_bundle(place, filled, weights, trained_on)
        made[name] = str(open_bundle(place).directory)
    return made
