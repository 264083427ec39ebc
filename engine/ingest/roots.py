"""Resolve the sources of an ingest to roots and paths; declare new roots in cohort.toml."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, NoSource, NothingFound, UsageError
from engine.ingest.discovery import holds_confidential
from engine.privacy import Pseudonyms
from engine.sources.locations.base import absolute, containing_folder, open_location
from engine.sources.locations.dicomweb import is_dicomweb
from engine.sources.locations.folder import escape_path
from engine.store.backend.base import Store
from engine.store.config import (
    CohortConfig,
    declare_roots,
    locate_root,
    new_root_name,
    read_config,
    roots_inside,
)

CONFIDENTIAL_ROOT = "dicom"
"""Name of a new root with confidential files, since its folder's name may be a patient's."""


def resolve_sources(
    store: Store,
    sources: Sequence[str | Path],
    layout: str | None,
    pseudonyms: Callable[[], Pseudonyms],
) -> list[tuple[str, str]]:
    """Return (root name, path below it) for each source, or for all declared roots.

    A source inside a declared root belongs to it; any other becomes a new root, which is
    confidential if it holds any DICOM file. Roots inside a source are included.

    Parameters
    ----------
    store
        Storage of the cohort.
    sources
        Files, folders, URLs of an object store (``s3://bucket/prefix``), or DICOMweb services
        (``dicomweb+https://host/path``).
    layout
        Pattern for the folders of new roots.
    pseudonyms
        Called before a confidential root is declared; raises if there is no key.

    Raises
    ------
    NoSource, NothingFound, NoPseudonymKey, OtherPseudonymKey
    ConfigError
        If a declared root has another layout.
    UsageError
        If a source lies in the cohort itself.
    """
    config = read_config(store)
    if not sources:
        if not config.roots:
            raise NothingFound(
                "cohort.toml names no sources", "Give one: cohort ingest COHORT SOURCE"
            )
        for name in config.roots:
            _require_layout(config, name, layout)
        return [(name, "") for name in config.roots]
    scopes = []
    for source in sources:
        if is_dicomweb(str(source)):
            scopes.append((_declare_service(store, str(source).rstrip("/"), pseudonyms), ""))
            config = read_config(store)
            continue
        if not str(source).strip():  # an empty path would be the working directory
            raise NoSource("'' (an empty name)")
        path = absolute(source)
        if f"{path}/".startswith(f"{store.url}/"):
            raise UsageError(f"{source} lies in the cohort itself. Name the folder of your images.")
        located = locate_root(path, config)
        # a missing root gives a better error itself
        base = containing_folder(path) if located is None or located[1] else path
        if base is None:
            raise NoSource(str(source))
        if located is None:
            _declare_root(store, config, base, layout, pseudonyms)
            config = read_config(store)
            located = locate_root(path, config)
        if located is None:
            raise ConfigError("cohort.toml", "a new root was not kept")
        _require_layout(config, located[0], layout)
        scopes.append((located[0], escape_path(located[1])))
        # A root inside a source owns its files, which no other root lists.
        inside = roots_inside(path, config)
        scopes += [
            (name, "") for name in inside if open_location(config.roots[name].path).is_there()
        ]
    return scopes


def _require_layout(config: CohortConfig, name: str, layout: str | None) -> None:
    """Reject a layout that would have no effect: an existing root keeps its own."""
    kept = config.roots[name].layout or config.layout
    if layout not in (None, kept):
        raise ConfigError(
            f"cohort.toml, roots.{name}",
            f"the layout of this source is {kept!r}. To change it, write layout = {layout!r} "
            "there, and then: cohort ingest COHORT --rehash",
        )


def _declare_service(store: Store, url: str, pseudonyms: Callable[[], Pseudonyms]) -> str:
    """Return the name of a DICOMweb service's root, which is always confidential."""
    config = read_config(store)
    for name, known in config.roots.items():
        if known.path == url:
            return name
    pseudonyms()
    name = new_root_name("dicomweb", config)
    declare_roots(store, {name: {"path": url, "confidential": True}}, None)
    return name


def _declare_root(
    store: Store,
    config: CohortConfig,
    base: str,
    layout: str | None,
    pseudonyms: Callable[[], Pseudonyms],
) -> None:
    entry: dict[str, Any] = {"path": base}
    name = new_root_name(base, config)
    if layout is not None:
        entry["layout"] = layout
    if holds_confidential(base):
        pseudonyms()  # fails without a key, before anything is written
        name = new_root_name(CONFIDENTIAL_ROOT, config)
        entry["confidential"] = True
    declare_roots(store, {name: entry}, None)


def roots_used(config: CohortConfig, scopes: Sequence[tuple[str, str]]) -> set[str]:
    """Return the roots whose names an ingest must resolve: its own, and those with annotations."""
    drawn_on = set(config.roots) if config.annotations else set()
    return {name for name, _ in scopes} | drawn_on
