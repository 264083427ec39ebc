"""Fine-tuning: initialise training from an existing model."""

from __future__ import annotations

from typing import Any

from engine.errors import ParameterError, WorkerUnfit
from engine.learning.models.bundle import Bundle
from engine.learning.models.card import ONNX, ClassCard
from engine.learning.models.weights import load_weights
from engine.learning.training.settings import TrainingSettings


def finetune_settings(
    settings: TrainingSettings, bundle: Bundle, classes: tuple[ClassCard, ...]
) -> TrainingSettings:
    """Return settings that start from a model: its architecture and its digest.

    Parameters
    ----------
    settings
        All other settings.
    bundle
        The model to start from.
    classes
        Classes of the masks.

    Raises
    ------
    ParameterError
        If the model has different classes, or is an ONNX graph, which can't be trained.
    """
    card = bundle.card
    if card.architecture == ONNX:
        raise ParameterError("start", card.name, "a network of ours, not an ONNX graph")
    if [c.name for c in card.classes] != [c.name for c in classes]:
        named = ", ".join(c.name for c in classes)
        raise ParameterError("start", card.name, f"a model of the masks' classes, {named}")
    values = settings.model_dump() | {
        "architecture": card.architecture,
        "options": card.options,
        "start": bundle.digest,
    }
    return TrainingSettings(**values)


def load_initial_weights(
    network: Any, bundle: Bundle | None, settings: TrainingSettings, half: tuple[float, ...]
) -> None:
    """Load a model's weights into a network of the same architecture.

    Raises
    ------
    WorkerUnfit
        If the model is not the one named in the settings.
    ParameterError
        If the model takes different channels, or its normalisation differs from that of training.
    """
    if bundle is None or bundle.digest != settings.start:
        raise WorkerUnfit("the model to start from is missing, or is a different one.")
    card = bundle.card
    if card.mean != half or card.sd != half:
        raise ParameterError("start", card.name, f"a model with mean and sd {half}")
    network.load_state_dict(load_weights(bundle.read_weights(), bundle.directory / WEIGHTS))


WEIGHTS = "weights.safetensors"


def made_by(bundle: Bundle | None, command: str | None) -> str | None:
    """Return the commands that made a model, in order."""
    earlier = bundle.card.made_by if bundle is not None else None
    return " && ".join(filter(None, (earlier, command))) or None
