"""How far a training is, and what it came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is.

    Attributes
    ----------
    step, steps
        Batches done, of how many.
    loss
        Of the last batch.
    metrics
        What was just validated; empty between validations.
    """

    step: int
    steps: int
    loss: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a training came to.

    Attributes
    ----------
    folder
        Where it is.
    step, steps
        Batches done, of how many; less where it was stopped.
    resumed_at
        Step of the checkpoint that it went on from; 0 where there was none.
    trained, held_out
        Numbers of images.
    subjects_held_out
        Whose images they are that nothing was learnt from.
    models
        Folders of the bundles, by what they are the best in, and the last.
    metrics
        Of each of them.
    elapsed_s
        Of this part of it.
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
        """Return the report as plain values."""
        return asdict(self)
