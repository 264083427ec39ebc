"""Checks of sources before an ingest, with the messages for users."""

from __future__ import annotations

from engine.errors import NothingFound
from engine.ingest.roots import Source
from engine.privacy import NoPseudonymKey, read_key
from engine.sources.locations.base import open_location
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


def require_files(source: Source) -> None:
    """Raise an error for a source that contains nothing.

    Raises
    ------
    NoSource, NothingFound
    """
    if source.is_service:
        return
    if source.folder == source.path and open_location(source.folder).is_empty():
        raise NothingFound(f"The folder {source.given} is empty", "Check the path of SOURCE.")


def require_key(source: Source, cohort: str) -> None:
    """Raise an error for a confidential source without a key, before a cohort is created.

    Raises
    ------
    NoPseudonymKey
    """
    try:
        read_key(outside=None if "://" in cohort else cohort)
    except NoPseudonymKey:
        if source.is_service or source.survey.confidential:
            raise
