"""Models whose weights were verified against their cards, each once."""

from __future__ import annotations

from functools import lru_cache

from engine.learning.models.bundle import Bundle, open_bundle
from engine.learning.models.card import CARD_FILE
from engine.learning.models.pretrained import resolve_model


def checked_bundle(model: str) -> Bundle:
    """Return a bundle, by its folder or name, after verifying that its weights match its card."""
    card = resolve_model(model) / CARD_FILE
    stat = card.stat() if card.is_file() else None
    return _checked_at(model, stat.st_mtime_ns if stat else 0)


@lru_cache(maxsize=4)
def _checked_at(model: str, card_mtime_ns: int) -> Bundle:
    bundle = open_bundle(model)
    bundle.read_weights()
    return bundle
