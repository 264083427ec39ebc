"""Training in a process of its own; cheap to import, since test processes are forked from it."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import torch

from engine.learning.datasets.samples import Sample
from engine.learning.training.loop import run_training
from engine.learning.training.settings import TrainingSettings

KEEP_EVERY_S = 0.1
"""Short enough that a kill finds a checkpoint, long enough that it also loses some steps."""


def train_aloud(
    folder: Path, samples: list[Sample], settings: TrainingSettings, told: Connection
) -> None:
    """Train, and report each step."""
    torch.set_num_threads(1)
    run_training(
        folder,
        samples,
        settings,
        keep_every_s=KEEP_EVERY_S,
        progress=lambda now: told.send(now.step),
    )
