"""Functions that open and create cohorts."""

from __future__ import annotations

from pathlib import Path

from engine.cohort.cohort import Cohort
from engine.errors import UsageError
from engine.store.backend.base import STAGING
from engine.store.backend.open import open_store
from engine.store.config import create_cohort, declare_roots


def open_cohort(url: str | Path) -> Cohort:
    """Open a cohort.

    Raises
    ------
    NoCohort, FormatTooNew
    """
    return Cohort(open_store(url))


def create_cohort_at(url: str | Path, *, layout: str | None = None) -> Cohort:
    """Open a cohort, or create it if there is none.

    Raises
    ------
    UsageError
        If the folder holds other files, or is a file.
    """
    store = open_store(url)
    others = (e for e in store.list() if not e.path.startswith(f"{STAGING}/"))  # ignore leftovers
    if store.size("cohort.json") is None and next(others, None) is not None:
        raise UsageError(f"{url} is not empty and holds no cohort; give a new or empty folder.")
    try:
        create_cohort(store)
    except NotADirectoryError:
        raise UsageError(
            f"{url} can't be a folder: it, or one above it, is a file. Give a new or empty folder."
        ) from None
    if store.size("cohort.toml") is None:
        declare_roots(store, {}, layout)
    return Cohort(store)
