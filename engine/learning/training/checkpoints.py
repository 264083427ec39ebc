"""Atomic checkpoints: after a kill at any moment, a training resumes from a complete state."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from engine.learning.training.run_folder import CHECKPOINT, CheckpointUnreadable, OtherTraining
from engine.store.backend.atomic_write import atomic_write

FORMAT = 1


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a training's complete state; see `read_checkpoint`."""
    kept = io.BytesIO()
    torch.save({"format": FORMAT, **state}, kept)
    atomic_write(folder / CHECKPOINT, kept.getvalue())


def read_checkpoint(folder: Path, identity: dict[str, str]) -> dict[str, Any] | None:
    """Return the state of a previous training, or None without a checkpoint.

    It is read as data: a pickle that names anything but tensors and plain containers is refused.

    Parameters
    ----------
    folder
        Folder of the training.
    identity
        Digests that must match, by display name: ``settings``, ``images``.

    Raises
    ------
    OtherTraining
        If the checkpoint has different settings or images.
    CheckpointUnreadable
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = dict(state["identity"])
        known = state["format"] == FORMAT
    except Exception as error:  # a decoder's text may quote the file
        raise CheckpointUnreadable(path, type(error).__name__) from None
    if not known:
        raise CheckpointUnreadable(path, f"format {state['format']}, not {FORMAT}")
    for name, digest in identity.items():
        if found.get(name) != digest:
            raise OtherTraining(str(folder), name)
    return dict(state)
