"""Unreferenced files of a cohort: harmless, and removed by gc."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

from engine.errors import CorruptStore, MissingObject
from engine.store.backend.base import ObjectInfo, Store
from engine.store.catalog.annotations import annotations_ledger, has_annotations
from engine.store.catalog.tables import images_ledger, shards_ledger
from engine.store.catalog.unnamed import unnamed_stacks
from engine.store.delta.ledger import Ledger
from engine.store.pictures import folder_of_picture, folders_there, paths_of, read_picture_index
from engine.store.results import results_ledger, versions_there

PREFIXES = ("pixels/", "catalog/", "results/", "tables/.fragments/", "qc/", ".staging/")
"""Prefixes that gc searches. No file elsewhere is ever removed."""

LOCK = ".staging/lock"

_PART = r"[0-9a-f]{12}-[0-9a-f]{32}\.parquet"
_LEDGER = r"(?P<ledger>catalog/(?:images|shards|annotations)|results/[^/]+/v\d+)"

# Names that the engine gives; any other name below a prefix is a foreign file.
PIXELS = re.compile(
    r"pixels/(?P<stack>[^/]+)\.zarr/(?:labels/[^/]+/)?(?:(?:\d+/)?zarr\.json|\d+/c(?:/\d+)+)"
)
PART = re.compile(rf"{_LEDGER}/(?:key=[0-9a-f]+/)?{_PART}")
ASIDE = re.compile(
    rf"{_LEDGER}/(?:\.room|_delta_log/_commit_[^/]+\.tmp|_delta_log/[^/]+#\d+)"
    r"|tables/\.fragments/[^/]+/[^/]+|\.staging/.+"
)


@dataclass(frozen=True, slots=True)
class ReferencedFiles:
    """Files referenced by commits, by area; None for an area with an unreadable ledger.

    None means that every file of the area may be referenced. ``pictures`` are referenced by the
    index in their folder. ``spared`` are stacks that images reference without a row of shards.
    """

    pixels: frozenset[str] | None
    parts: dict[str, frozenset[str] | None]
    pictures: dict[str, frozenset[str] | None] = field(default_factory=dict)
    spared: frozenset[str] | None = frozenset()

    def is_unreferenced(self, path: str) -> bool:
        """Return True if a file is the engine's own and unreferenced."""
        if path == LOCK:
            return False
        if match := PIXELS.fullmatch(path):
            if self.pixels is None or self.spared is None or match["stack"] in self.spared:
                return False
            return path not in self.pixels
        if match := PART.fullmatch(path):
            named = self.parts.get(match["ledger"], frozenset())
            return named is not None and path not in named
        if (folder := folder_of_picture(path)) is not None:
            shown = self.pictures.get(folder, frozenset())
            return shown is not None and path not in shown
        return ASIDE.fullmatch(path) is not None


def all_ledgers(store: Store) -> Iterator[Ledger]:
    """Yield the ledgers of a cohort: of the catalog, and of each operation and version.

    Those of results have no operation's schema, so do not read their objects.
    """
    yield images_ledger(store)
    yield shards_ledger(store)
    if has_annotations(store):
        yield annotations_ledger(store)
    prefix = "results/"
    names = {entry.path[len(prefix) :].split("/", 1)[0] for entry in store.list(prefix)}
    for name in sorted(names):
        for version in versions_there(store, name):
            yield results_ledger(store, name, version, pa.schema([]))


def list_managed_files(store: Store) -> list[ObjectInfo]:
    """Return all files in the searched prefixes. List them before reading the ledgers."""
    return [entry for prefix in PREFIXES for entry in store.list(prefix)]


def managed_folders(store: Store) -> list[str]:
    """Return the paths or URLs of the folders with the cohort's own files."""
    return [f"{store.url}/{prefix.split('/', 1)[0]}" for prefix in PREFIXES]


def read_referenced(store: Store) -> ReferencedFiles:
    """Return the files that the ledgers reference now."""
    spared = _or_none(lambda: unnamed_stacks(store))  # images first: shards are committed before
    shards = shards_ledger(store)
    return ReferencedFiles(
        _or_none(lambda: shards.read(shards.snapshot().parts, ["path"])["path"].to_pylist()),
        {ledger.path: _or_none(partial(_part_paths, ledger)) for ledger in all_ledgers(store)},
        {
            folder: _or_none(partial(_picture_paths, store, folder))
            for folder in folders_there(store)
        },
        spared,
    )


def _picture_paths(store: Store, folder: str) -> Iterable[str]:
    return paths_of(read_picture_index(store, folder).values(), folder)


def _part_paths(ledger: Ledger) -> list[str]:
    return [f"{ledger.path}/{part.path}" for part in ledger.snapshot().parts]


def _or_none(read: Callable[[], Iterable[str]]) -> frozenset[str] | None:
    try:
        return frozenset(read())
    except (CorruptStore, MissingObject):
        return None


def find_unreferenced(store: Store) -> list[ObjectInfo]:
    """Return the unreferenced files, by path.

    Files are listed first and the ledgers read second, so that files committed in between count as
    referenced.
    """
    there = list_managed_files(store)
    named = read_referenced(store)
    return sorted((e for e in there if named.is_unreferenced(e.path)), key=lambda entry: entry.path)
