"""Files cohort.toml, which users edit, and cohort.json, written once."""

from __future__ import annotations

import contextlib
import os
import tomllib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import tomlkit
import tomlkit.items
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from engine.errors import (
    AlreadyExists,
    ConfigError,
    FormatTooNew,
    MissingObject,
    NoCohort,
    did_you_mean,
)
from engine.store.backend.base import Store
from engine.store.path_pattern import DEFAULT_LAYOUT, PathPattern
from engine.store.sealed_json import seal, unseal

FORMAT = 1
"""Version of the on-disk layout that this engine writes."""

TOML = "cohort.toml"
JSON = "cohort.json"

IDENTITY_FORM: dict[str, Any] = {"field": "digest", "indent": 2}
"""Form of cohort.json, see `seal`."""


class RootConfig(BaseModel):
    """Folder or prefix that holds sources."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    layout: str | None = None
    spacing_um: tuple[float, float] | None = None
    """Pixel size (y, x), micrometres, of files without one."""
    channels: tuple[str, ...] = ()
    """Names of the channels of its images; they take precedence over those of files."""
    confidential: bool = False
    """Write pseudonyms instead of file names; a root with DICOM must be confidential."""

    @field_validator("path")
    @classmethod
    def _place(cls, path: str) -> str:
        if "://" in path:
            return path
        if not path.startswith("/"):  # relative to a folder that depends on the caller
            raise ValueError(f"{path!r} is relative; write the whole path, from the first /")
        return os.path.normpath(path)

    @field_validator("channels")
    @classmethod
    def _channels(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        if not all(name.strip() for name in channels) or len({*channels}) < len(channels):
            raise ValueError(f"{list(channels)}: each channel needs a name of its own")
        return channels


class PseudonymsConfig(BaseModel):
    """Entry about the pseudonym key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key_check: str
    """Digest that identifies the key."""


class AnnotationConfig(BaseModel):
    """Folder of drawings on images; further entries are options of its format."""

    model_config = ConfigDict(extra="allow", frozen=True)

    path: str
    format: str
    images: str | None = None
    """Name of the root that holds the annotated images; any root by default."""
    structures: dict[str, str] = Field(default_factory=dict)
    """Structure names in the cohort, by their names in the files."""

    @property
    def options(self) -> dict[str, Any]:
        """Options of the format."""
        return dict(self.model_extra or {})


class Limits(BaseModel):
    """Size limits of sources, images and shards."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_decoded_bytes: int = Field(default=2 * 1024**3, gt=0)
    """Limit of a source's decoded size: a larger one is too_large, unless it can be streamed."""
    giant_bytes: int = Field(default=128 * 1024**2, gt=0)
    """Size from which on an image becomes a tiled pyramid of its own instead of a plane of a
    stack."""
    shard_bytes: int = Field(default=16 * 1024**2, gt=0)
    """Target decoded size of a stack's shard."""
    shard_images: int = Field(default=64, gt=0)
    """Maximum number of images in a stack's shard."""


class SlidesConfig(BaseModel):
    """Settings for whole slides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    spacing_um: float | None = Field(default=None, gt=0)
    """Pixel size at which new and changed slides are read, micrometres; the scanner's by
    default."""


class CohortConfig(BaseModel):
    """Content of cohort.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layout: str = DEFAULT_LAYOUT
    subjects: str | None = None
    """CSV file with a column ``subject``; its other columns are joined to the tables."""
    limits: Limits = Limits()
    slides: SlidesConfig = SlidesConfig()
    pseudonyms: PseudonymsConfig | None = None
    roots: dict[str, RootConfig] = Field(default_factory=dict)
    annotations: dict[str, AnnotationConfig] = Field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("roots")
    @classmethod
    def _names(cls, roots: dict[str, RootConfig]) -> dict[str, RootConfig]:
        for name in roots:
            if not name or any(sign in name for sign in "/#\\:") or name.startswith("."):
                raise ValueError(f"a root can't be called {name!r}: no / # \\ : and no leading dot")
        places: dict[str, str] = {}
        for name, root in roots.items():
            other = places.setdefault(root.path.rstrip("/"), name)
            if other != name:  # each image would be catalogued twice
                raise ValueError(f"{other!r} and {name!r} are the same place, {root.path}")
        return roots

    def layout_of(self, root: str) -> PathPattern:
        """Return the path pattern of a root."""
        config = self.roots.get(root)
        return _layout(config.layout if config and config.layout else self.layout)


# Cached: an ingest asks twice per image.
_layout = lru_cache(maxsize=64)(PathPattern)


@dataclass(frozen=True, slots=True)
class CohortIdentity:
    """Content of cohort.json."""

    format: int
    cohort_id: str


def create_cohort(store: Store) -> CohortIdentity:
    """Write cohort.json unless it exists; the first of two writers wins.

    Raises
    ------
    NoConditionalPuts
        If the store lacks conditional puts.
    """
    identity = {
        "format": FORMAT,
        "cohort_id": uuid.uuid4().hex,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if store.size(JSON) is None:
        store.require_conditions()
    with contextlib.suppress(AlreadyExists):
        store.create(JSON, seal(identity, **IDENTITY_FORM))
    return read_identity(store)


def read_identity(store: Store) -> CohortIdentity:
    """Read cohort.json.

    Raises
    ------
    NoCohort, FormatTooNew, CorruptStore
    """
    try:
        raw = store.read(JSON)
    except MissingObject:
        raise NoCohort(store.url) from None
    # All formats have the digest, so that a flipped bit does not pass for another format.
    found = unseal(
        raw, JSON, lambda v: CohortIdentity(int(v["format"]), str(v["cohort_id"])), **IDENTITY_FORM
    )
    if found.format > FORMAT:
        raise FormatTooNew(store.url, found.format, FORMAT)
    return found


def parse_config(raw: bytes | None) -> CohortConfig:
    """Parse and check the text of cohort.toml.

    Raises
    ------
    ConfigError
        Names the entry and its valid values.
    """
    try:
        values = tomllib.loads(_text(raw))
        config = CohortConfig.model_validate(values)
        for name in ["", *config.roots]:
            config.layout_of(name)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            there = _entries(first["loc"][:-1])
            meant = did_you_mean(str(first["loc"][-1]), there) or "."
            message = f"is not known{meant} Entries: {', '.join(there)}"
        raise ConfigError(f"{TOML}, {where}", message) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(TOML, f"is not TOML: {error}") from None
    return config


def _text(raw: bytes | None) -> str:
    """Return the text of cohort.toml, without the byte-order mark that some editors write."""
    return "" if raw is None else raw.decode("utf-8-sig")


def _entries(place: Sequence[int | str]) -> Iterable[str]:
    """Return the valid entries of a section."""
    sections: dict[str, type[BaseModel]] = {
        "limits": Limits, "slides": SlidesConfig, "pseudonyms": PseudonymsConfig,
        "roots": RootConfig,
    }  # fmt: skip
    return (sections[str(place[0])] if place else CohortConfig).model_fields


def read_config(store: Store) -> CohortConfig:
    """Read cohort.toml; without it, return the defaults."""
    try:
        return parse_config(store.read(TOML))
    except MissingObject:
        return CohortConfig()


def declare_roots(
    store: Store, roots: Mapping[str, Mapping[str, Any]], layout: str | None
) -> CohortConfig:
    """Add source roots (and the layout of a new cohort) to cohort.toml; return its content."""
    declared = CohortConfig()

    def change(raw: bytes | None) -> bytes | None:
        nonlocal declared
        parse_config(raw)
        document = tomlkit.parse(_text(raw))
        if layout is not None:
            document["layout"] = layout
        elif raw is None:
            document["layout"] = DEFAULT_LAYOUT
        table = document.setdefault("roots", tomlkit.table(is_super_table=True))
        inline = isinstance(table, tomlkit.items.InlineTable)
        for name, values in roots.items():
            if name not in table:
                entry = _section_in(table)
                entry.update(dict(values))
                if not inline and list(document)[-1] != "roots":
                    entry.add(tomlkit.nl())  # before the next section
                table[name] = entry
        new = tomlkit.dumps(document).encode()
        declared = parse_config(new)
        return None if new == raw else new

    store.update(TOML, change)
    return declared


def declare_key_check(store: Store, check: str) -> str:
    """Declare the check of the pseudonym key, if none is, and return the declared one."""
    declared = check

    def change(raw: bytes | None) -> bytes | None:
        nonlocal declared
        found = parse_config(raw).pseudonyms
        declared = check if found is None else found.key_check
        if found is not None:
            return None
        document = tomlkit.parse(_text(raw))
        entry = tomlkit.table()
        entry["key_check"] = check
        document["pseudonyms"] = entry
        return tomlkit.dumps(document).encode()

    store.update(TOML, change)
    return declared


def declare_operation(
    store: Store, name: str, parameters: Mapping[str, Any], *, replace: bool
) -> bool:
    """Declare an operation's parameters in cohort.toml.

    Parameters
    ----------
    replace
        True to overwrite declared parameters; by default the first of two writers wins.

    Returns
    -------
    True if the parameters were written.
    """

    def change(raw: bytes | None) -> bytes | None:
        declared = parse_config(raw).operations
        if name in declared and not replace:
            return None
        document = tomlkit.parse(_text(raw))
        table = document.setdefault("operations", tomlkit.table(is_super_table=True))
        # Edit the existing entry instead of replacing it: it may hold users' comments.
        entry = table[name] if name in table else _section_in(table)
        given = {parameter: value for parameter, value in parameters.items() if value is not None}
        for parameter in set(entry) - set(given):
            del entry[parameter]
        for parameter, value in given.items():
            plain = list(value) if isinstance(value, tuple) else value
            if parameter not in entry or entry[parameter] != plain:
                entry[parameter] = plain
        if name not in table:
            table[name] = entry
        new = tomlkit.dumps(document).encode()
        return None if new == raw else new

    return store.update(TOML, change)


def _section_in(parent: Any) -> Any:
    """Return a new section in its parent's form; TOML does not mix forms."""
    inline = isinstance(parent, tomlkit.items.InlineTable)
    return tomlkit.inline_table() if inline else tomlkit.table()


def roots_inside(path: str, config: CohortConfig) -> dict[str, str]:
    """Return the roots below a path, by name, each with its relative path.

    Examples
    --------
    >>> roots = {"all": RootConfig(path="/d"), "part": RootConfig(path="/d/a/part")}
    >>> roots_inside("/d", CohortConfig(roots=roots))
    {'part': 'a/part'}
    """
    above = path.rstrip("/") + "/"
    places = {name: root.path.rstrip("/") for name, root in config.roots.items()}
    return {name: at[len(above) :] for name, at in places.items() if at.startswith(above)}


def locate_root(path: str, config: CohortConfig) -> tuple[str, str] | None:
    """Return (root name, path relative to it) of a source path inside a declared root."""
    best: tuple[str, str] | None = None
    for name, root in config.roots.items():
        base = root.path.rstrip("/")
        if path == base:
            return name, ""
        if path.startswith(base + "/") and (
            best is None or len(base) > len(config.roots[best[0]].path.rstrip("/"))
        ):
            best = name, path[len(base) + 1 :]
    return best


def new_root_name(path: str, config: CohortConfig) -> str:
    """Return a free name for a new root, based on its last folder's name."""
    stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in Path(path).name) or "root"
    name, count = stem, 1
    while name in config.roots:
        count += 1
        name = f"{stem}-{count}"
    return name
