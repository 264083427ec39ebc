"""A training in a process of its own; light to import, since processes are forked that have it."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import torch

from engine.learning.datasets.samples import Sample
from engine.learning.training.loop import run_training
from engine.learning.training.settings import TrainingSettings

KEEP_EVERY_S = 0.1
"""Often enough that a kill finds something kept, seldom enough that it also loses something."""


def train_aloud(
    folder: Path, samples: list[Sample], settings: TrainingSettings, told: Connection
) -> None:
    """Train, and tell each step."""
    torch.set_num_threads(1)
    run_training(
        folder,
        samples,
        settings,
        keep_every_s=KEEP_EVERY_S,
        progress=lambda now: told.send(now.step),
    )
