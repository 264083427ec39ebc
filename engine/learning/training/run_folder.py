"""The folder of a training: who may work in it, and why it can't be gone on with."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import EngineError, StoreReadOnly, UsageError
from engine.store.root.atomic_write import make_folder

CHECKPOINT = "checkpoint.pt"
LOCK = ".lock"


class OtherTraining(UsageError):
    """A folder holds another training than the one that was asked for: (folder, what differs)."""

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
    """The loss of a training is no number any more: (folder, step)."""

    def __str__(self) -> str:
        folder, step = self.args
        return (
            f"The loss was no number any more at step {step}: train in a new folder with a smaller "
            f"--learning-rate. What was best until then, if anything was, is in {folder}."
        )


class CheckpointUnreadable(EngineError):
    """A checkpoint can't be read: (file, why)."""

    def __str__(self) -> str:
        file, why = self.args
        return f"{file} is no checkpoint of this engine ({why}). Remove it to begin anew."


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder; what a killed one left aside is removed.

    The lock ends with the process that holds it, however that ends.

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
