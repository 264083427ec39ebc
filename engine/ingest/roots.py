"""Resolve the sources of an ingest to roots and paths; declare new roots in cohort.toml."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, NoSource, NothingFound, UsageError
from engine.ingest.discovery import Survey, survey_folder
from engine.privacy import Pseudonyms
from engine.sources.locations.base import absolute_path, containing_folder, open_location
from engine.sources.locations.dicomweb import is_dicomweb
from engine.sources.locations.folder import FileStat, escape_path
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


@dataclass(frozen=True)
class Source:
    """Source as a user names it; each of its properties is found out once.

    Attributes
    ----------
    given
        File, folder, URL of an object store (``s3://bucket/prefix``), or DICOMweb service
        (``dicomweb+https://host/path``).
    """

    given: str

    @property
    def is_service(self) -> bool:
        """True for a DICOMweb service."""
        return is_dicomweb(self.given)

    @cached_property
    def path(self) -> str:
        """Absolute path, or URL.

        Raises
        ------
        NoSource
            If the name is empty, e.g. that of an unset shell variable.
        """
        if not self.given.strip():  # an empty path would be the working directory
            raise NoSource("'' (an empty name)")
        return self.given.rstrip("/") if self.is_service else absolute_path(self.given)

    @cached_property
    def folder(self) -> str:
        """Folder or prefix: itself, or the containing one of a file.

        Raises
        ------
        NoSource
            If it does not exist.
        """
        found = containing_folder(self.path)
        if found is None:
            raise NoSource(self.given)
        return found

    @cached_property
    def survey(self) -> Survey:
        """Survey of its folder."""
        return survey_folder(self.folder)

    @property
    def files(self) -> tuple[FileStat, ...]:
        """Files of its folder if `survey` listed them all, otherwise empty; walks nothing."""
        survey = vars(self).get("survey")
        return () if survey is None or self.folder != self.path else survey.files


@dataclass(frozen=True, slots=True)
class IngestRequest:
    """Sources of an ingest, resolved and checked.

    Attributes
    ----------
    config
        Content of cohort.toml, with the roots of new sources.
    scopes
        (root name, path below it) to ingest; "" is the whole root.
    pseudonyms
        If a root is confidential; never leaves the driver.
    walked
        Files of the roots that were walked to resolve them, by name.
    """

    config: CohortConfig
    scopes: tuple[tuple[str, str], ...]
    pseudonyms: Pseudonyms | None = None
    walked: Mapping[str, tuple[FileStat, ...]] = field(default_factory=dict)


def resolve_sources(
    store: Store,
    sources: Sequence[str | Path | Source],
    layout: str | None,
    pseudonyms: Callable[[], Pseudonyms],
) -> IngestRequest:
    """Resolve sources, or all declared roots, to roots and paths below them.

    A source inside a declared root belongs to it; any other becomes a new root, which is
    confidential if it holds any DICOM file. Roots inside a source are included.

    Parameters
    ----------
    store
        Storage of the cohort.
    sources
        See `Source`.
    layout
        Pattern for the folders of new roots.
    pseudonyms
        Gives the pseudonyms; called only if a root is confidential, before it is declared. Raises
        NoPseudonymKey without a key.

    Raises
    ------
    NoSource, NothingFound, NoPseudonymKey, OtherPseudonymKey
    ConfigError
        If a declared root has another layout.
    UsageError
        If a source lies in the cohort itself.
    """
    config = read_config(store)
    pseudonyms = cache(pseudonyms)
    if not sources:
        if not config.roots:
            raise NothingFound(
                "cohort.toml names no sources", "Give one: cohort ingest COHORT SOURCE"
            )
        for name in config.roots:
            _require_layout(config, name, layout)
        return _request(config, [(name, "") for name in config.roots], {}, pseudonyms)
    scopes: list[tuple[str, str]] = []
    walked: dict[str, tuple[FileStat, ...]] = {}
    for given in sources:
        source = given if isinstance(given, Source) else Source(str(given))
        path = source.path
        if source.is_service:
            name, config = _declare_service(store, config, path, pseudonyms)
            scopes.append((name, ""))
            continue
        if f"{path}/".startswith(f"{store.url}/"):
            raise UsageError(
                f"{source.given} lies in the cohort itself. Name the folder of your images."
            )
        located = locate_root(path, config)
        if located is None:
            config = _declare_root(store, config, source, layout, pseudonyms)
            located = locate_root(path, config)
        elif located[1]:  # a missing root gives a better error itself
            _ = source.folder
        if located is None:
            raise ConfigError("cohort.toml", "a new root was not kept")
        name, below = located
        _require_layout(config, name, layout)
        scopes.append((name, escape_path(below)))
        if not below and source.files:
            walked[name] = source.files
        # A root inside a source owns its files, which no other root lists.
        inside = roots_inside(path, config)
        scopes += [(name, "") for name in inside if open_location(config.roots[name].path).exists()]
    return _request(config, scopes, walked, pseudonyms)


def _request(
    config: CohortConfig,
    scopes: Iterable[tuple[str, str]],
    walked: Mapping[str, tuple[FileStat, ...]],
    pseudonyms: Callable[[], Pseudonyms],
) -> IngestRequest:
    # Annotations may be drawn on the images of any root.
    used = config.roots if config.annotations else {name for name, _ in scopes}
    hidden = any(config.roots[name].confidential for name in used)
    return IngestRequest(config, tuple(scopes), pseudonyms() if hidden else None, walked)


def _require_layout(config: CohortConfig, name: str, layout: str | None) -> None:
    """Reject a layout that would have no effect: an existing root keeps its own."""
    kept = config.roots[name].layout or config.layout
    if layout not in (None, kept):
        raise ConfigError(
            f"cohort.toml, roots.{name}",
            f"the layout of this source is {kept!r}. To change it, write layout = {layout!r} "
            "there, and then: cohort ingest COHORT --rehash",
        )


def _declare_service(
    store: Store, config: CohortConfig, url: str, pseudonyms: Callable[[], Pseudonyms]
) -> tuple[str, CohortConfig]:
    """Return the name of a DICOMweb service's root, which is always confidential."""
    for name, known in config.roots.items():
        if known.path == url:
            return name, config
    pseudonyms()
    name = new_root_name("dicomweb", config)
    return name, declare_roots(store, {name: {"path": url, "confidential": True}}, None)


def _declare_root(
    store: Store,
    config: CohortConfig,
    source: Source,
    layout: str | None,
    pseudonyms: Callable[[], Pseudonyms],
) -> CohortConfig:
    entry: dict[str, Any] = {"path": source.folder}
    name = new_root_name(source.folder, config)
    if layout is not None:
        entry["layout"] = layout
    if source.survey.confidential:
        pseudonyms()  # fails without a key, before anything is written
        name = new_root_name(CONFIDENTIAL_ROOT, config)
        entry["confidential"] = True
    return declare_roots(store, {name: entry}, None)
