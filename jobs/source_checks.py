"""Checks of sources before an ingest, with the messages for users."""

from __future__ import annotations

from engine.errors import NoSource, NothingFound
from engine.ingest.discovery import holds_confidential
from engine.privacy import NoPseudonymKey, read_key
from engine.sources.locations.base import absolute, containing_folder, open_location
from engine.sources.locations.dicomweb import is_dicomweb
from engine.sources.registry import format_titles

WITHHELD = (
    "{} DICOM files lie in a root that is not confidential: nothing of them was taken or written "
    "down. Give their folder as a root of its own, or set confidential = true below [roots.NAME] "
    "in cohort.toml, which renames all files of that root (docs/explanation/privacy.md)."
)


def list_formats() -> str:
    """Return the names of the supported formats, as text."""
    *others, last = format_titles()
    return f"{', '.join(others)} or {last}"


def require_files(source: str) -> None:
    """Raise an error for a source that contains nothing.

    Raises
    ------
    NoSource, NothingFound
    """
    if is_dicomweb(source):
        return
    path = absolute(source)
    base = containing_folder(path)
    if base is None or not source.strip():  # e.g. an unset shell variable
        raise NoSource(source or "'' (an empty name)")
    if base == path and open_location(base).is_empty():
        raise NothingFound(f"The folder {source} is empty", "Check the path of SOURCE.")


def require_key(source: str, cohort: str) -> None:
    """Raise an error for a confidential source without a key, before a cohort is created.

    Raises
    ------
    NoPseudonymKey
    """
    try:
        read_key(outside=None if "://" in cohort else cohort)
    except NoPseudonymKey:
        base = source if is_dicomweb(source) else containing_folder(absolute(source))
        if is_dicomweb(source) or (base is not None and holds_confidential(base)):
            raise
