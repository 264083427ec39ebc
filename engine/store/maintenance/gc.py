"""Garbage collection of unreferenced files: leftovers of killed writers, and replaced parts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import MissingObject, ParameterError
from engine.store.backend.base import Store
from engine.store.delta.integrity import actions
from engine.store.maintenance.unreferenced import (
    PART,
    PREFIXES,
    ReferencedFiles,
    all_ledgers,
    find_unreferenced,
    read_referenced,
)

OLDER_THAN_S = 24 * 3600.0
"""Minimum age of removed files, seconds: no ingest or run takes a day to commit its files."""

STAGING = ".staging"


@dataclass(frozen=True, slots=True)
class UnreferencedFile:
    """Unreferenced file, or an empty folder (size 0, the path ends with a slash).

    ``age_s`` counts from the write, or, for a replaced part, from the commit that replaced it: a
    reader may have started just before.
    """

    path: str
    size: int
    age_s: float

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "age_s": round(self.age_s, 3)}


def plan_gc(store: Store, older_than_s: float = OLDER_THAN_S) -> tuple[UnreferencedFile, ...]:
    """Return the files to remove: unreferenced and old enough.

    Parameters
    ----------
    older_than_s
        Minimum age, seconds. Younger files may belong to a running ingest or run.

    Returns
    -------
    Leftovers, sorted by path. Foreign files are never among them.

    Raises
    ------
    ParameterError
        If ``older_than_s`` is negative.
    """
    if not older_than_s >= 0:
        raise ParameterError("older_than_s", older_than_s, "at least 0")
    now = time.time()
    entries = find_unreferenced(store)
    replaced = _replaced_since(store, now - older_than_s)
    found = []
    for entry in entries:
        # Read after the listing, so that parts replaced in between are known.
        age = now - max(entry.modified_s, replaced.get(entry.path, entry.modified_s))
        found.append(UnreferencedFile(entry.path, entry.size, age))
    found += _empty_folders(store, now)
    return tuple(left for left in found if left.age_s >= older_than_s)


def collect(store: Store, leftovers: Iterable[UnreferencedFile]) -> tuple[UnreferencedFile, ...]:
    """Remove leftovers after checking again that they are unreferenced.

    Parameters
    ----------
    leftovers
        From `plan_gc`.

    Returns
    -------
    The removed leftovers. Files committed since the plan stay.

    Raises
    ------
    StoreReadOnly
    """
    named = read_referenced(store)
    removed = [left for left in leftovers if _is_left(named, left)]
    for left in removed:
        if left.path.endswith("/"):
            _remove_folder(store, left.path)
        else:
            store.delete(left.path)
    _remove_empty_parents(store, removed)
    return tuple(removed)


def _is_left(named: ReferencedFiles, left: UnreferencedFile) -> bool:
    if left.path.endswith("/"):
        return left.path.startswith(f"{STAGING}/")
    return named.is_unreferenced(left.path)


def _replaced_since(store: Store, since_s: float) -> dict[str, float]:
    """Return the times at which parts were removed from their ledgers, since a given time."""
    found: dict[str, float] = {}
    for ledger in all_ledgers(store):
        for entry in store.list(f"{ledger.path}/_delta_log/"):
            if entry.modified_s >= since_s and entry.path.endswith(".json"):
                for path in _removed_by(store, entry.path):
                    found[f"{ledger.path}/{path}"] = entry.modified_s
    return {path: at for path, at in found.items() if PART.fullmatch(path)}


def _removed_by(store: Store, log_entry: str) -> Iterator[str]:
    # verify reports unreadable log entries; their ledger can't be read either.
    with contextlib.suppress(ValueError, TypeError, KeyError, MissingObject):
        for action in actions(store.read(log_entry)):
            if "remove" in action:
                yield str(action["remove"]["path"])


def _empty_folders(store: Store, now: float) -> Iterator[UnreferencedFile]:
    """Yield the empty folders of writers that were killed before their first write."""
    base = store.as_local_path(STAGING)
    if base is None or not base.is_dir():
        return
    for folder in sorted(path for path in base.iterdir() if path.is_dir()):
        with contextlib.suppress(OSError):  # its writer may end at this moment
            if not any(folder.iterdir()):
                yield UnreferencedFile(f"{STAGING}/{folder.name}/", 0, now - folder.stat().st_mtime)


def _remove_folder(store: Store, path: str) -> None:
    local = store.as_local_path(path)
    if local is not None:
        with contextlib.suppress(OSError):  # no longer empty, or removed
            Path(local).rmdir()


def _remove_empty_parents(store: Store, removed: Iterable[UnreferencedFile]) -> None:
    """Remove the folders below the known ones that are now empty."""
    folders = {
        "/".join(pieces[:n]) + "/"
        for left in removed
        if (pieces := left.path.rstrip("/").split("/"))
        for n in range(1, len(pieces))
    }
    kept = {*PREFIXES, "catalog/images/", "catalog/shards/", "catalog/annotations/"}
    for folder in sorted(folders, key=len, reverse=True):
        if folder not in kept and any(folder.startswith(prefix) for prefix in PREFIXES):
            _remove_folder(store, folder)
