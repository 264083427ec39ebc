"""Sources as people name them: what can be taken, and what is said where nothing can."""

from __future__ import annotations

from pathlib import Path

from engine.errors import NoSource, NothingFound
from engine.sources.files import walk_files

FORMATS = "PNG, TIFF, JPEG or DICOM"
"""What can be ingested, in words."""

WITHHELD = (
    "{} DICOM files lie in a root that is not confidential: nothing of them was taken or written "
    "down. Give their folder as a root of its own, or set confidential = true below [roots.NAME] "
    "in cohort.toml, which renames all files of that root (docs/privacy.md)."
)


def require_files(source: str) -> None:
    """Refuse a source in which there is nothing at all.

    Raises
    ------
    NoSource, NothingFound
    """
    path = Path(source)
    if not path.exists():
        raise NoSource(source)
    if path.is_dir() and next(walk_files(path), None) is None:
        raise NothingFound(f"The folder {source} is empty", "Check the path of SOURCE.")
