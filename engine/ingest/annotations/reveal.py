"""Find the ledger rows of an annotation file, by recomputing its pseudonyms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.privacy import Pseudonyms
from engine.sources.annotations import SUFFIXES
from engine.sources.locations.folder import walk_files
from engine.store.backend.base import Store
from engine.store.catalog.annotations import annotations_ledger, has_annotations, read_light
from engine.store.catalog.tables import RETIRED
from engine.store.config import CohortConfig


def drawing_name(annotation: str, path: str, pseudonyms: Pseudonyms | None) -> str:
    """Return the name of an annotation file in the ledger: set and path, or its pseudonyms."""
    return f"{annotation}/{path if pseudonyms is None else pseudonyms.path(path, SUFFIXES)}"


def reveal_drawings(
    store: Store, config: CohortConfig, source: str | Path, pseudonyms: Pseudonyms | None
) -> Iterator[dict[str, Any]]:
    """Yield the ledger's rows of an annotation file, or of all files in a folder."""
    place = Path(os.path.abspath(source))  # noqa: PTH100 - takes out "..", follows no link
    if not has_annotations(store):
        return
    ledger = annotations_ledger(store)
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_light(ledger, ledger.snapshot()).to_pylist():
        if row["state"] != RETIRED:
            rows.setdefault(row["source"], []).append(row)
    for name, declared in config.annotations.items():
        base = Path(declared.path)
        if not (place.is_relative_to(base) or base.is_relative_to(place)) or not base.is_dir():
            continue
        for found in walk_files(base):
            here = base / found.path
            if not here.is_relative_to(place):
                continue
            for row in rows.get(drawing_name(name, found.path, pseudonyms), ()):
                kept = {key: row[key] for key in ("source", "image_id", "state", "reason")}
                yield {"path": os.fspath(here), **kept, "subject": None, "series": None}
