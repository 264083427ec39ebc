"""Read annotation files on workers, and derive the rows of the annotations ledger."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.errors import SourceUnreadable
from engine.ingest.annotations.matching import ImageIndex, NoMatch
from engine.ingest.tasks import FileStamp
from engine.kernels.contours.layers import Rings
from engine.kernels.contours.union import union_of
from engine.privacy import Pseudonyms
from engine.sources.annotations import Drawing, DrawingReader
from engine.sources.annotations.base import MOST_BYTES
from engine.sources.failures import OF_THE_PLACE, decoder_errors
from engine.sources.locations.folder import open_file
from engine.store.catalog.annotations import (
    UNMATCHED,
    AnnotationRow,
    digest_rings,
    flat_rings,
)
from engine.store.catalog.tables import FAILED, READY, RETIRED

PLAIN = re.compile(r"inner|outer|papillary\d*")
"""Structure names that are kept in confidential cohorts; other names become pseudonyms."""

TRANSIENT_REASONS = OF_THE_PLACE | {
    "no_geometry",
    "no_scale",
    "no_image",
    "ambiguous",
    "other_plane",
}
"""Transient reasons: the next ingest may succeed although the file is unchanged."""

Name = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class DrawingFile:
    """An annotation file: its set, its location, and its name in the ledger."""

    annotation: str
    base: str
    path: str
    source: str
    stat: FileStamp
    made_of: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class DrawingFileResult:
    """Contents of a file: annotations, or the reason code of a failure."""

    file: DrawingFile
    drawings: tuple[Drawing, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ReadTask:
    """Files of one set of annotations that are read together."""

    reader: DrawingReader
    files: tuple[DrawingFile, ...]

    @property
    def parts(self) -> tuple[DrawingFile, ...]:
        """Files, each of which may crash a worker."""
        return self.files

    def only(self, parts: Sequence[DrawingFile]) -> ReadTask:
        """Return the task with some of its files."""
        return replace(self, files=tuple(parts))

    def dry_run(self) -> ReadTask:
        """Return the task itself: it publishes nothing."""
        return self


def read_files(task: ReadTask) -> list[DrawingFileResult]:
    """Read some files of one set; an unreadable file does not affect the others."""
    found = []
    for file in task.files:
        if file.problem is not None:
            found.append(DrawingFileResult(file, reason=file.problem))
            continue
        try:
            with decoder_errors("drawing"):
                found.append(
                    DrawingFileResult(file, tuple(task.reader.read(file.path, _bytes(file))))
                )
        except SourceUnreadable as error:
            found.append(DrawingFileResult(file, reason=error.reason))
    return found


def _bytes(file: DrawingFile) -> bytes:
    with open_file(Path(file.base), file.path) as handle:
        data = handle.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise SourceUnreadable("too_large", f"more than {MOST_BYTES} bytes")
    return data


class AnnotationIndex:
    """Index of the newest row of each name, by file, to compare files with."""

    def __init__(self, rows: Sequence[AnnotationRow]) -> None:
        self._rows: dict[Name, AnnotationRow] = {}
        self._by_file: dict[tuple[str, str], set[Name]] = {}
        for row in rows:
            self.add(row)

    def add(self, row: AnnotationRow) -> None:
        """Add a row, unless a newer version is known."""
        there = self._rows.get(row.name)
        if there is not None and there.version > row.version:
            return
        self._rows[row.name] = row
        self._by_file.setdefault((row.annotation, row.source), set()).add(row.name)

    def of_file(self, annotation: str, source: str) -> dict[Name, AnnotationRow]:
        """Return the rows of a file that are not retired."""
        names = self._by_file.get((annotation, source), ())
        rows = {name: self._rows[name] for name in names}
        return {name: row for name, row in rows.items() if row.state != RETIRED}

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield the files, as (annotation, source), that have rows that are not retired."""
        for annotation, source in self._by_file:
            if self.of_file(annotation, source):
                yield annotation, source

    def unchanged(self, file: DrawingFile) -> bool:
        """Return whether a file can be skipped: unchanged, and without transient failures."""
        rows = self.of_file(file.annotation, file.source).values()
        stat = (file.stat.size, file.stat.mtime_ns, file.stat.ctime_ns)
        return bool(rows) and all(
            (row.size, row.mtime_ns, row.ctime_ns) == stat
            and row.made_of == file.made_of
            and row.reason not in TRANSIENT_REASONS
            for row in rows
        )

    def version(self, name: Name) -> int:
        """Return the next version number of a name."""
        there = self._rows.get(name)
        return 1 if there is None else there.version + 1

    def current(self, name: Name) -> AnnotationRow | None:
        """Return the newest row of a name."""
        return self._rows.get(name)


def structure_name(name: str, structures: Mapping[str, str], pseudonyms: Pseudonyms | None) -> str:
    """Return the name of a structure in the ledger.

    Names in files are free text and may contain anything: a confidential cohort replaces names that
    are neither built in nor declared by pseudonyms.

    Examples
    --------
    >>> structure_name("LV endo", {"LV endo": "inner"}, None)
    'inner'
    >>> hidden = structure_name("Mr Doe's heart", {}, Pseudonyms(b"sixteen bytes or more"))
    >>> hidden.startswith("structure-"), "Doe" in hidden
    (True, False)
    """
    if name in structures:
        return structures[name]
    if pseudonyms is None or PLAIN.fullmatch(name):
        return name
    return f"structure-{pseudonyms.of('structure', name)[:8]}"


@dataclass
class Changes:
    """Rows to commit, and counts of new, changed, retired and unusable annotations."""

    rows: list[AnnotationRow] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, reason: str | None = None) -> None:
        """Count an annotation, and its failure reason if any."""
        self.counts[what] = self.counts.get(what, 0) + 1
        if reason is not None:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


def merge_file(
    read: DrawingFileResult,
    known: AnnotationIndex,
    index: Callable[[], ImageIndex],
    ingest: str,
    to: Changes,
) -> None:
    """Turn the contents of a file into rows, and retire rows for annotations no longer in it.

    Structure names are already translated, see `structure_name`.
    """
    file = read.file
    before = known.of_file(file.annotation, file.source)
    rows = list(_rows(read, index))
    names = {row.name for row in rows}
    kept = read.reason in OF_THE_PLACE  # a transient read error does not change the contents
    for name, row in before.items():
        if name not in names and not (kept and row.state == READY):
            retire(row, known, ingest, to)
    for row in rows:
        old = before.get(row.name)
        same = old is not None and (old.state, old.digest) == (row.state, row.digest)
        if row.state != READY:
            to.count(row.state, row.reason)
        elif not same:
            to.count("new" if old is None else "changed")
        if old is not None and replace(row, version=old.version, rings=()) == replace(
            old, ingest=None, rings=()
        ):
            continue  # unchanged: nothing to commit
        _add(replace(row, version=known.version(row.name), ingest=ingest), known, to)


def retire(row: AnnotationRow, known: AnnotationIndex, ingest: str, to: Changes) -> None:
    """Retire a row whose file or annotation was deleted."""
    if row.state == READY:
        to.count("retired")
    ended = replace(row, state=RETIRED, reason=None, rings=(), ingest=ingest)
    _add(replace(ended, version=known.version(row.name)), known, to)


def _add(row: AnnotationRow, known: AnnotationIndex, to: Changes) -> None:
    to.rows.append(row)
    known.add(replace(row, rings=()))


def _rows(read: DrawingFileResult, index: Callable[[], ImageIndex]) -> Iterator[AnnotationRow]:
    file = read.file
    about = {
        "annotation": file.annotation,
        "source": file.source,
        "size": file.stat.size,
        "mtime_ns": file.stat.mtime_ns,
        "ctime_ns": file.stat.ctime_ns,
        "made_of": file.made_of,
    }
    if read.reason is not None:
        yield AnnotationRow(image_id="", state=FAILED, reason=read.reason, **about)  # type: ignore[arg-type]
        return
    found = _Matched()
    for drawing in read.drawings:
        found.add(drawing, index())
    for (image_id, structure), polygons in found.polygons.items():
        reason = found.broken.get((image_id, structure))
        flat = () if reason is not None else flat_rings(union_of(polygons))
        yield AnnotationRow(
            image_id=image_id,
            state=READY if reason is None else FAILED,
            structure=structure,
            reason=reason,
            digest=digest_rings(flat) if reason is None else None,
            rings=flat,
            **about,  # type: ignore[arg-type]
        )
    for structure, (state, reason) in found.left.items():
        yield AnnotationRow(
            image_id="", state=state, structure=structure, reason=reason,
            **about,  # type: ignore[arg-type]
        )  # fmt: skip


@dataclass
class _Matched:
    """The annotations of a file by image and structure, and the reasons of failures.

    ``left`` are those without an image: for each structure, a transient reason overrides a
    permanent one.
    """

    polygons: dict[tuple[str, str], list[Rings]] = field(default_factory=dict)
    broken: dict[tuple[str, str], str] = field(default_factory=dict)
    left: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, drawing: Drawing, index: ImageIndex) -> None:
        """Match an annotation to an image, and add it there."""
        if drawing.reason is not None and not drawing.encloses:
            self.left.setdefault(drawing.structure, (FAILED, drawing.reason))
            return
        try:
            image_id = index.image_of(drawing.target, drawing.points_mm)
        except NoMatch as error:
            if drawing.reason is not None:
                self.left.setdefault(drawing.structure, (FAILED, drawing.reason))
            else:
                self.left[drawing.structure] = (UNMATCHED, str(error.args[0]))
            return
        key = (image_id, drawing.structure)
        polygons = self.polygons.setdefault(key, [])
        try:
            if drawing.reason is not None:
                raise SourceUnreadable(drawing.reason, "the drawing can't be used")
            polygons.append(_on_image(drawing, image_id, index))
        except SourceUnreadable as error:
            self.broken.setdefault(key, error.reason)


def _on_image(drawing: Drawing, image_id: str, index: ImageIndex) -> Rings:
    """Return the rings of an annotation in pixels of an image.

    Raises
    ------
    SourceUnreadable
    """
    if drawing.in_patient:
        return drawing.on(index.geometry(image_id))
    if drawing.grid not in (None, index.size(image_id)):
        raise SourceUnreadable("other_grid", "it is drawn on a grid of another size")
    down = index.downsample(image_id)
    if down is None:
        raise SourceUnreadable("no_scale", "it is not known how much smaller the image is")
    if down == (1.0, 1.0):
        return drawing.rings
    # The first pixel covers -0.5 to 0.5 at any resolution.
    return tuple((ring + 0.5) / down - 0.5 for ring in drawing.rings)


def rebased(
    rows: Sequence[AnnotationRow], others: Mapping[Name, AnnotationRow]
) -> list[AnnotationRow]:
    """Rebase rows after another ingest's commit, without those that it committed equally."""
    kept = []
    for row in rows:
        other = others.get(row.name)
        if other is None or other.version < row.version:
            kept.append(row)
        elif (other.state, other.digest, other.reason) != (row.state, row.digest, row.reason):
            kept.append(replace(row, version=other.version + 1))
    return kept
