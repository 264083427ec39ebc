"""Models that come with the engine, by name."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parents[1] / "weights"
"""A folder for each model; its card names the command that made it."""


def shipped_models() -> tuple[str, ...]:
    """Return the names of the models that come with the engine."""
    return tuple(sorted(path.parent.name for path in WEIGHTS.glob("*/card.json")))


def find_model(model: str | Path) -> Path:
    """Return a model's folder: that of a name that is shipped, or else the path itself.

    A folder of the same name is meant by ``./name``.

    Examples
    --------
    >>> find_model("./marrow")
    PosixPath('marrow')
    """
    known = isinstance(model, str) and model in shipped_models()
    return WEIGHTS / model if known else Path(model)
