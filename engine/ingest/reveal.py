"""Find the catalog rows of a file, by recomputing its pseudonyms, which are irreversible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.errors import NothingFound
from engine.ingest.discovery import source_name
from engine.privacy import Pseudonyms
from engine.sources.locations.base import absolute_path, open_location
from engine.sources.locations.folder import escape_path
from engine.store.backend.base import Store
from engine.store.catalog.tables import read_images
from engine.store.config import CohortConfig, locate_root

COLUMNS = ("source", "state", "reason", "series", "fields")


def find_catalog_rows(
    store: Store, config: CohortConfig, source: str | Path, pseudonyms: Callable[[], Pseudonyms]
) -> Iterator[dict[str, Any]]:
    """Yield the catalog's rows of a file, or of all files in a folder; see `Upkeep.reveal`."""
    located = locate_root(absolute_path(source), config)
    if located is None:
        raise NothingFound(
            "SOURCE is not inside a root of cohort.toml", "Give a path below one of its [roots]."
        )
    name, below = located
    names = pseudonyms() if config.roots[name].confidential else None
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_images(store, COLUMNS)[1].to_pylist():
        rows.setdefault(row["source"], []).append(row)
    base = config.roots[name].path
    for found in open_location(base).walk(escape_path(below)):
        hidden = source_name(name, found.path, names)
        here = {"path": f"{base.rstrip('/')}/{found.path}", "source": hidden}
        for row in rows.get(hidden, [{"image_id": None, "state": "unknown", "fields": ()}]):
            yield {
                **here,
                "image_id": row["image_id"],
                "state": row["state"],
                "reason": row.get("reason"),
                "subject": dict(row["fields"] or ()).get("subject"),
                "series": row.get("series"),
            }
