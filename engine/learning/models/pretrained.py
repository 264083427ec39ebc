"""Pretrained models of the engine, by name."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parents[1] / "weights"
"""Folder of the models, one folder each; a model's card names the command that made it."""


def pretrained_models() -> tuple[str, ...]:
    """Return the names of the pretrained models."""
    return tuple(sorted(path.parent.name for path in WEIGHTS.glob("*/card.json")))


def resolve_model(model: str | Path) -> Path:
    """Return the folder of a pretrained model by name, or else the path itself.

    Use ``./name`` for a folder with the same name as a pretrained model.

    Examples
    --------
    >>> resolve_model("./marrow")
    PosixPath('marrow')
    """
    known = isinstance(model, str) and model in pretrained_models()
    return WEIGHTS / model if known else Path(model)
