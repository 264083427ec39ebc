"""Beginning with the weights of a model that is there, to learn less from fewer images."""

from __future__ import annotations

from typing import Any

from engine.errors import ParameterError, WorkerUnfit
from engine.learning.models.bundle import Bundle
from engine.learning.models.card import ONNX, ClassCard
from engine.learning.models.weights import parse_weights
from engine.learning.training.settings import TrainingSettings


def starting_with(
    settings: TrainingSettings, bundle: Bundle, classes: tuple[ClassCard, ...]
) -> TrainingSettings:
    """Return settings that begin with a model: its architecture, and its digest.

    Parameters
    ----------
    settings
        What else is asked for.
    bundle
        The model.
    classes
        What the masks tell apart.

    Raises
    ------
    ParameterError
        If it has other classes, or is a graph, which can't be trained.
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


def load_start(
    network: Any, bundle: Bundle | None, settings: TrainingSettings, half: tuple[float, ...]
) -> None:
    """Put a model's weights into a network of its architecture.

    Raises
    ------
    WorkerUnfit
        If the model is not the one that the settings name.
    ParameterError
        If it takes other channels, or was normalised otherwise than trainings are.
    """
    if bundle is None or bundle.digest != settings.start:
        raise WorkerUnfit("the model to begin with is not there, or is another one.")
    card = bundle.card
    if card.mean != half or card.sd != half:
        raise ParameterError("start", card.name, f"one of pixels less {half}, divided by that")
    network.load_state_dict(parse_weights(bundle.read_weights(), bundle.directory / WEIGHTS))


WEIGHTS = "weights.safetensors"


def made_by(bundle: Bundle | None, command: str | None) -> str | None:
    """Return the commands that made a model, one after the other."""
    earlier = bundle.card.made_by if bundle is not None else None
    return " && ".join(filter(None, (earlier, command))) or None
