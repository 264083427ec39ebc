"""Folders of phantoms: each is marked by the options that it was made with."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import ParameterError

MARK = "phantom.json"


def mark_of(command: str, options: Mapping[str, Any], **more: str) -> bytes:
    """Return the content of a folder's mark."""
    return (json.dumps({"made_by": command, "options": options, **more}, indent=2) + "\n").encode()


def claim_folder(root: Path, mark: bytes, expected: str) -> None:
    """Create a folder and its mark, or refuse one that holds anything else.

    Raises
    ------
    ParameterError
        With the text ``expected``.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        there = {path.name for path in root.iterdir()}
        if there and (MARK not in there or (root / MARK).read_bytes() != mark):
            raise ParameterError("directory", str(root), expected)
        write_if_new(root / MARK, mark)
    except OSError as error:
        raise ParameterError("directory", f"{root} ({error.strerror})", expected) from None


def write_if_new(path: Path, data: bytes) -> None:
    """Write a file and its folder, unless it has the same content."""
    if not (path.exists() and path.read_bytes() == data):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def replace_if_new(part: Path, path: Path) -> None:
    """Move a complete file to its place, unless one of the same content is there already."""
    if path.exists() and filecmp.cmp(part, path, shallow=False):
        part.unlink()
    else:
        part.replace(path)
