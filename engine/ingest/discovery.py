"""Find new, changed, returned and missing sources: compare the catalog with the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from engine.errors import EngineError, NoSource, SourceUnreadable, StoreUnreachable
from engine.ingest.tasks import FileStamp, SourceFile
from engine.privacy import Pseudonyms
from engine.sources.failures import OF_THE_PLACE
from engine.sources.locations.base import SourceLocation, open_location
from engine.sources.locations.dicomweb import SourceUnreachable
from engine.sources.locations.folder import FileStat, escape_path
from engine.sources.opening import detect_in
from engine.sources.registry import detect, known_suffixes
from engine.store.catalog.index import CatalogIndex, SourceState
from engine.store.config import CohortConfig, roots_inside

MAX_SURVEYED = 100_000
"""Maximum number of files to remember of a survey: about 40 MB."""

TRANSIENT_REASONS = OF_THE_PLACE | {"not_installed", "out_of_memory"}
"""Transient reasons: such a source is opened again."""


class RootGone(NoSource):
    """A declared root is missing: (name, path)."""

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


class RootLost(EngineError):
    """A root became unavailable during the ingest: (name, path, files in a row)."""

    def __str__(self) -> str:
        name, path, count = self.args
        return (
            f"{count} files in a row of the root {name!r} can't be read, so all of {path} seems to "
            "be unavailable: its disk, network or server. Nothing of it was marked as gone or "
            "failed, and images ingested before are kept. Run the same command again when it is "
            "available."
        )


@dataclass
class Discovery:
    """Result of a listing: counts, problems, sources found, and the errors of unavailable roots."""

    listed: int = 0
    unchanged: int = 0
    problems: list[tuple[SourceFile, str]] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    lost: dict[str, EngineError] = field(default_factory=dict)


def source_name(root: str, path: str, pseudonyms: Pseudonyms | None) -> str:
    """Return a file's name in the catalog: root and path, or pseudonyms of its components.

    The suffix of a format is the only readable part of a pseudonym.
    """
    return f"{root}/{path if pseudonyms is None else pseudonyms.path(path, known_suffixes())}"


@dataclass(frozen=True, slots=True)
class Survey:
    """Result of a walk through a folder before it becomes a root.

    Attributes
    ----------
    confidential
        Whether it holds a confidential file, by suffix or first bytes.
    files
        All its files, so that the ingest need not walk it again; empty if there are more than
        `MAX_SURVEYED` or the walk ended at a confidential one.
    """

    confidential: bool
    files: tuple[FileStat, ...] = ()


def survey_folder(base: str) -> Survey:
    """Walk a folder, up to its first confidential file.

    Files with the suffix of another format are not opened; if one is confidential, it is withheld
    when it is read.
    """
    place = open_location(base)
    files: list[FileStat] = []
    count = 0
    for count, found in enumerate(place.walk(), 1):
        if count <= MAX_SURVEYED:
            files.append(found)
        if found.problem is None and _is_confidential(place, found.path):
            return Survey(confidential=True)
    return Survey(confidential=False, files=tuple(files) if count <= MAX_SURVEYED else ())


def _is_confidential(place: SourceLocation, path: str) -> bool:
    detected = detect(path, b"")
    if detected is None:
        try:
            with place.open(path) as file:
                detected = detect_in(file, path)
        except (SourceUnreadable, OSError):
            return False
    return detected is not None and detected.format.confidential


def list_sources(
    config: CohortConfig,
    scopes: Sequence[tuple[str, str]],
    known: CatalogIndex,
    listing: Discovery,
    pseudonyms: Pseudonyms | None = None,
    own: Sequence[str] = (),
    *,
    walked: Mapping[str, Sequence[FileStat]] | None = None,
) -> Iterator[SourceFile]:
    """Yield the files of some scopes, each once, and record those that can't be opened.

    A file belongs to the innermost declared root that holds it; outer roots skip it. A root that is
    missing, became empty or does not answer is recorded as lost, without affecting the others: an
    unmounted disk must not orphan images.

    Parameters
    ----------
    scopes
        (root name, path below it); "" is the whole root.
    pseudonyms
        For confidential roots.
    own
        The cohort's own folders, to skip if it lies inside a root: its pictures are not source
        images.
    walked
        Files of whole roots that were walked just before, by the root's name.
    """
    for name, below in scopes:
        files = (walked or {}).get(name) if not below else None
        try:
            found = files or _walk(name, config.roots[name].path, below, known)
            yield from _list_root(config, name, found, listing, pseudonyms, own)
        except (RootGone, RootEmpty, SourceUnreachable, StoreUnreachable) as error:
            listing.lost.setdefault(name, error)


def _list_root(
    config: CohortConfig,
    name: str,
    files: Iterable[FileStat],
    listing: Discovery,
    pseudonyms: Pseudonyms | None,
    own: Sequence[str],
) -> Iterator[SourceFile]:
    base = config.roots[name].path
    names = pseudonyms if config.roots[name].confidential else None
    above = base.rstrip("/") + "/"
    left_out = [*roots_inside(base, config).values()]
    left_out += [at.removeprefix(above) for at in own if at.startswith(above)]
    inner = tuple(escape_path(at) + "/" for at in left_out)
    for found in files:
        if found.path.startswith(inner):
            continue
        source = source_name(name, found.path, names)
        if source in listing.seen:
            continue
        listing.seen.add(source)
        stat = FileStamp(found.size, found.mtime_ns, found.ctime_ns)
        at = config.slides.spacing_um
        file = SourceFile(source, base, found.path, stat, names is not None, at)
        listing.listed += 1
        if found.problem is not None:
            listing.problems.append((file, found.problem))
        else:
            yield file


def _walk(name: str, path: str, below: str, known: CatalogIndex) -> Iterator[FileStat]:
    place = open_location(path)
    if not place.exists():
        raise RootGone(name, path)
    if place.is_empty() and any(source.startswith(f"{name}/") for source in known.sources()):
        raise RootEmpty(path)
    yield from place.walk(below)


def changed_files(
    files: Iterator[SourceFile], known: CatalogIndex, listing: Discovery, rehash: bool
) -> Iterator[SourceFile]:
    """Yield the files that must be opened: new, changed, or failed for a transient reason.

    A file that matches the catalog is not opened; one that was missing and returned unchanged is
    added to ``listing.returned``.
    """
    for file in files:
        stat = (file.stat.size, file.stat.mtime_ns, file.stat.ctime_ns)
        state = (
            SourceState.CHANGED if rehash else known.state_of(file.source, stat, TRANSIENT_REASONS)
        )
        if state is SourceState.CHANGED:
            yield file
            continue
        listing.unchanged += 1
        if state is SourceState.RETURNED:
            listing.returned.append(file.source)


def missing_predicate(
    listing: Discovery,
    config: CohortConfig,
    scopes: Sequence[tuple[str, str]],
    pseudonyms: Pseudonyms | None = None,
    declared: Set[str] = frozenset(),
) -> Callable[[str], bool]:
    """Return a predicate that is true for sources missing from a complete listing.

    Sources of undeclared roots are missing, too. ``declared`` are further roots to count as
    declared, since another ingest may have added them after ``config`` was read.
    """
    roots = {*config.roots, *declared}
    prefixes = []
    for name, below in scopes:
        names = pseudonyms if config.roots[name].confidential else None
        below = below.strip("/")
        prefixes.append(source_name(name, below, names).rstrip("/"))
        if names is not None:  # a folder whose name ends like a file's
            prefixes.append(f"{name}/{names.path(below)}".rstrip("/"))
    # Files in an unreadable folder may still exist; the root itself is "./". An unreadable entry
    # may be a folder, too, whose name ends like a file's.
    hidden: list[str] = []
    for file, _ in listing.problems:
        folder = file.source.removesuffix("./").removesuffix("/")
        hidden += {f"{folder}/", f"{PurePosixPath(folder).with_suffix('')}/"}
    unknown = tuple(hidden)

    def gone(source: str) -> bool:
        if source in listing.seen or source.startswith(unknown):
            return False
        if source.partition("/")[0] in listing.lost:
            return False
        if source.partition("/")[0] not in roots:
            return True
        return any(source == prefix or source.startswith(prefix + "/") for prefix in prefixes)

    return gone


def missing_sources(known: CatalogIndex, gone: Callable[[str], bool]) -> Iterator[str]:
    """Yield the sources in the catalog that are missing on disk."""
    return filter(gone, known.sources())
