"""Files that are whole at any moment: written aside, and put in place by a rename."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from engine.errors import StoreFull, StoreReadOnly


def write_aside(path: Path, data: bytes) -> None:
    """Put bytes in place of a file, durably: a reader finds the old ones or the new ones, whole.

    Raises
    ------
    StoreFull, StoreReadOnly
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except PermissionError:
        raise StoreReadOnly(str(path)) from None
    except OSError:
        raise StoreFull(str(path)) from None
