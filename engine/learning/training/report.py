"""Progress and result of a training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a training.

    Attributes
    ----------
    step, steps
        Batches done, and their total number.
    loss
        Loss of the last batch.
    metrics
        Metrics of a validation; empty between validations.
    """

    step: int
    steps: int
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """Result of a training.

    Attributes
    ----------
    folder
        Folder of the training.
    step, steps
        Batches done, and their total number; fewer if it was stopped.
    resumed_at
        Step of the checkpoint from which it was resumed; 0 without one.
    trained, held_out
        Numbers of images.
    subjects_held_out
        The held-out subjects.
    models
        Folders of the bundles, by criterion, and the last one.
    metrics
        Metrics of each model.
    elapsed_s
        Duration of this part of the training.
    """

    folder: str
    step: int
    steps: int
    resumed_at: int
    trained: int
    held_out: int
    subjects_held_out: tuple[str, ...]
    models: dict[str, str]
    metrics: dict[str, dict[str, float]]
    elapsed_s: float

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values."""
        return asdict(self)
