"""Folder of a training: its lock, and errors about resuming it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import EngineError, StoreReadOnly, UsageError
from engine.store.backend.atomic_write import make_folder

CHECKPOINT = "checkpoint.pt"
LOCK = ".lock"


class OtherTraining(UsageError):
    """The folder holds a different training: (folder, difference)."""

    def __str__(self) -> str:
        folder, differs = self.args
        return (
            f"{folder} holds a training with other {differs}. Give a new folder, or the settings "
            "and images that it was begun with."
        )


class TrainingBusy(EngineError):
    """Another process trains in this folder: (folder,)."""

    def __str__(self) -> str:
        return f"Another process is training in {self.args[0]}. Wait for it, or give a new folder."


class TrainingDiverged(EngineError):
    """The loss of a training is no longer finite: (folder, step)."""

    def __str__(self) -> str:
        folder, step = self.args
        return (
            f"The loss was not finite at step {step}: train in a new folder with a smaller "
            f"--learning-rate. The best models until then, if any, are in {folder}."
        )


class CheckpointUnreadable(EngineError):
    """A checkpoint can't be read: (file, reason)."""

    def __str__(self) -> str:
        file, why = self.args
        return f"{file} is not a checkpoint of this engine ({why}). Remove it to start again."


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a training's folder against other processes, and remove staged files of a killed one.

    The lock ends with the process that holds it, whatever ends the process.

    Raises
    ------
    TrainingBusy, StoreReadOnly
    """
    try:
        make_folder(folder)
        file = (folder / LOCK).open("w")
    except OSError:
        raise StoreReadOnly(str(folder)) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingBusy(str(folder)) from None
        for left in folder.glob(f".{CHECKPOINT}.*"):
            left.unlink(missing_ok=True)
        yield
