"""Atomic, durable file writes: a temporary file, then a rename."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from engine.errors import UsageError
from engine.store.backend.local import NO_SYNC
from engine.store.backend.os_errors import refusal


def atomic_write(path: Path, data: bytes) -> None:
    """Replace a file atomically and durably: a reader finds either the old or the new bytes.

    Raises
    ------
    StoreFull, StoreReadOnly
    UsageError
        If the file can't be written for another reason, e.g. because its folder is a file.
    """
    try:
        make_folder(path.parent)
        number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        named = refusal(error, str(path))
        raise named or UsageError(f"{path} can't be written: {error.strerror}.") from None


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and make each name durable."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are durable (fsync)."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(number)
