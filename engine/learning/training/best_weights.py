"""Best weights of a training, and the models made from them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from engine.learning.models.bundle import open_bundle, write_bundle
from engine.learning.models.card import Card

SELECTION_CRITERIA: Mapping[str, tuple[str | None, int]] = {
    "best-loss": ("loss", 1),
    "best-density": ("density_error", 1),
    "best-dsc": ("dsc", -1),
    "last": (None, 1),
}
"""Models by folder name: the deciding metric, and the sign with which it is minimised."""


@dataclass(frozen=True, slots=True)
class BestWeights:
    """Best weights by one criterion.

    Attributes
    ----------
    step
        Training step; names the file with the weights.
    value
        Value of the criterion; lower is better.
    metrics
        All metrics of that validation.
    """

    step: int
    value: float
    metrics: dict[str, float]

    PATTERN: ClassVar[str] = "kept-*.safetensors"

    @staticmethod
    def file_of(step: int) -> str:
        """Return the name of the file with the weights of a step."""
        return f"kept-{step:08d}.safetensors"

    def as_state(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return {"step": self.step, "value": self.value, "metrics": self.metrics}

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> BestWeights:
        """Restore an instance from a checkpoint."""
        return cls(state["step"], state["value"], dict(state["metrics"]))


def write_bundles(
    folder: Path, card: Card, best: Mapping[str, BestWeights], trained_on: Iterable[str]
) -> dict[str, str]:
    """Write a model for each criterion, replacing those of earlier steps.

    Parameters
    ----------
    folder
        Folder of the training; each model becomes a subfolder.
    card
        Card of all models; the metrics are filled in here.
    best
        Best weights, by the model's folder name.
    trained_on
        Content digests of the training images.

    Returns
    -------
    The models' folders by their names.
    """
    made = {}
    for name, kept in best.items():
        metrics = {k: round(v, 6) for k, v in kept.metrics.items() if math.isfinite(v)}
        filled = card.model_copy(update={"metrics": {"step": float(kept.step), **metrics}})
        weights = (folder / BestWeights.file_of(kept.step)).read_bytes()
        place = folder / name
        if place.exists():
            shutil.rmtree(place)
        write_bundle(place, filled, weights, trained_on)
        made[name] = str(open_bundle(place).directory)
    return made
