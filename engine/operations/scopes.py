"""What an ingest looks at: sources that people name, as places inside declared roots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, NoSource, NothingFound
from engine.sources.files import escape_path
from engine.store.config import declare_roots, locate_root, new_root_name, read_config
from engine.store.root import Root


def scopes_of(
    root: Root, sources: Sequence[str | Path], layout: str | None
) -> list[tuple[str, str]]:
    """Return (root name, path below it) of each source; "" is the whole root.

    Parameters
    ----------
    root
        Where the cohort lives.
    sources
        Files or folders; none stand for all declared roots. One outside of them is declared.
    layout
        Pattern for the folders of new roots.

    Raises
    ------
    NoSource
        If a source is not there. A declared root that is gone is left to the listing.
    NothingFound
        If none is given and none declared.
    """
    config = read_config(root)
    if not sources:
        if not config.roots:
            raise NothingFound(
                "cohort.toml names no sources", "Give one: cohort ingest COHORT SOURCE"
            )
        return [(name, "") for name in config.roots]
    scopes = []
    for source in sources:
        path = Path(os.path.abspath(source))  # noqa: PTH100 - takes out "..", follows no link
        located = locate_root(str(path), config)
        if not path.exists() and (located is None or located[1]):
            raise NoSource(str(source))
        if located is None:
            base = path if path.is_dir() else path.parent
            name = new_root_name(str(base), config)
            entry: dict[str, Any] = {"path": str(base)}
            if layout is not None:
                entry["layout"] = layout
            declare_roots(root, {name: entry}, None)
            config = read_config(root)
            located = locate_root(str(path), config)
        if located is None:
            raise ConfigError("cohort.toml", f"root {name} was not kept")
        scopes.append((located[0], escape_path(located[1])))
    return scopes
