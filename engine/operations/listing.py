"""Which sources are new, changed, back or gone: the catalog against what is on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import NoSource
from engine.operations.intake import SourceFile, Stat
from engine.sources.files import walk_files
from engine.store.config import CohortConfig
from engine.store.known import Known

PASSING = frozenset({"vanished", "unreadable"})
"""Reasons that may be gone the next time: such a source is opened again."""


class RootGone(NoSource):
    """A declared root is not there: (name, path)."""

    exit_code = 1

    def __str__(self) -> str:
        name, path = self.args
        return (
            f"The root {name!r} of cohort.toml is not there: {path}. Is its disk mounted? Nothing "
            f"was marked as gone. If it moved, change its path in cohort.toml, [roots.{name}]."
        )


class RootEmpty(NoSource):
    """A root is an empty folder, although the catalog knows files in it: (path,)."""

    exit_code = 1

    def __str__(self) -> str:
        return (
            f"{self.args[0]} is empty, though the catalog knows files in it. Is its disk mounted? "
            "Nothing was marked as gone. If all was deleted on purpose, leave any one file there."
        )


@dataclass
class Listing:
    """What a listing met: counts, problems, and the sources seen."""

    listed: int = 0
    unchanged: int = 0
    problems: list[tuple[SourceFile, str]] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)


def list_sources(
    config: CohortConfig, scopes: Sequence[tuple[str, str]], known: Known, listing: Listing
) -> Iterator[SourceFile]:
    """Yield the files of some scopes, each once, and note those that can't be opened.

    Parameters
    ----------
    scopes
        (root name, path below it); "" is the whole root.

    Raises
    ------
    RootGone, RootEmpty
        If a root is not there, or has become empty: an unmounted disk must orphan nothing.
    """
    for name, below in scopes:
        base = Path(config.roots[name].path)
        if not base.is_dir():
            raise RootGone(name, str(base))
        if _is_empty(base) and any(source.startswith(f"{name}/") for source in known.sources()):
            raise RootEmpty(str(base))
        for found in walk_files(base, below):
            source = f"{name}/{found.path}"
            if source in listing.seen:
                continue
            listing.seen.add(source)
            stat = Stat(found.size, found.mtime_ns, found.ctime_ns)
            file = SourceFile(source, str(base), found.path, stat)
            listing.listed += 1
            if found.problem is not None:
                listing.problems.append((file, found.problem))
            else:
                yield file


def _is_empty(folder: Path) -> bool:
    try:
        return next(folder.iterdir(), None) is None
    except OSError:  # the walk names what is wrong with it
        return False


def changes_of(
    files: Iterator[SourceFile], known: Known, listing: Listing, rehash: bool
) -> Iterator[SourceFile]:
    """Yield the files that must be opened: new, changed, or failed for a passing reason.

    A file that is as catalogued is not opened; one that was gone and is back unchanged is noted in
    ``listing.returned``.
    """
    for file in files:
        stat = (file.stat.size, file.stat.mtime_ns, file.stat.ctime_ns)
        state = "no" if rehash else known.unchanged(file.source, stat, PASSING)
        if state == "no":
            yield file
            continue
        listing.unchanged += 1
        if state == "returned":
            listing.returned.append(file.source)


def vanished(known: Known, listing: Listing, scopes: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield the sources in scope that the catalog knows and the listing did not meet."""
    prefixes = [f"{name}/{below.strip('/')}".rstrip("/") for name, below in scopes]
    # What lies in a folder that could not be listed may well be there; the root itself is "./".
    folders = (file.source for file, _ in listing.problems if file.source.endswith("/"))
    hidden = tuple(folder.removesuffix("./") for folder in folders)
    for source in known.sources():
        if source in listing.seen or source.startswith(hidden or ("\0",)):
            continue
        if any(source == prefix or source.startswith(prefix + "/") for prefix in prefixes):
            yield source
