"""Ingest of annotations: files below the declared folders become rows of a ledger.

Workers read only new and changed files; the driver matches them to the images of the catalog, and
commits every few thousand rows. Rows of deleted files are retired.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import NoSource
from engine.execution.progress import ProgressListener
from engine.execution.quarantine import TaskAttempt, map_tasks
from engine.execution.task_pool import TaskPool
from engine.ingest.annotations.matching import ImageIndex
from engine.ingest.annotations.reveal import drawing_name
from engine.ingest.annotations.worker import (
    AnnotationIndex,
    Changes,
    DrawingFile,
    DrawingFileResult,
    ReadTask,
    merge_file,
    read_files,
    rebased,
    retire,
    structure_name,
)
from engine.ingest.discovery import RootEmpty
from engine.ingest.tasks import FileStamp
from engine.privacy import Pseudonyms
from engine.sources.annotations import create_reader
from engine.sources.annotations.base import UNSUPPORTED_SUFFIXES
from engine.sources.failures import OF_THE_PLACE
from engine.sources.locations.base import FolderLocation
from engine.sources.locations.folder import walk_files
from engine.store.backend.base import Store
from engine.store.backend.write_check import check_writable
from engine.store.catalog.annotations import (
    PART_ROWS,
    AnnotationRow,
    annotation_table,
    annotations_ledger,
    has_annotations,
    read_light,
    state_of,
)
from engine.store.catalog.tables import commit_with_retry, read_images
from engine.store.config import AnnotationConfig, CohortConfig
from engine.store.delta.ledger import Ledger, Snapshot
from engine.store.delta.parts import Part
from engine.store.digests import digest_of
from engine.store.rows import rows_of

if TYPE_CHECKING:
    from distributed import Client

PACK_FILES = 64
"""Files per task: some 10 ms of work."""

COMMIT_ROWS = 4 * PART_ROWS
"""Rows per commit: the bound on memory, and on lost work after a kill."""

NAMED = 5
"""Newly unusable annotations that a report lists for each reason; it counts all."""


@dataclass
class AnnotationReport:
    """Result of an ingest of annotations; each structure of an image counts once.

    ``listed`` and ``unchanged`` count files; ``ignored`` counts files in the folders with another
    format than declared, and ``untaken`` counts those of them with the suffix of an annotation
    format. ``failed`` counts unusable annotations, ``unmatched`` those without an image in the
    catalog (or with several candidates); `cohort status` names both. ``refused`` counts the newly
    unusable ones, and ``refused_first`` names the first for each reason.
    """

    listed: int = 0
    unchanged: int = 0
    new: int = 0
    changed: int = 0
    retired: int = 0
    unmatched: int = 0
    failed: int = 0
    refused: int = 0
    ignored: int = 0
    untaken: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    refused_first: list[dict[str, str]] = field(default_factory=list)

    def count_ignored(self, path: str) -> None:
        """Count a file of another format, by suffix if the suffix belongs to annotations."""
        self.ignored += 1
        suffix = next(
            (suffix for suffix in UNSUPPORTED_SUFFIXES if path.lower().endswith(suffix)), None
        )
        if suffix is not None:
            self.untaken[suffix] = self.untaken.get(suffix, 0) + 1

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return dict(vars(self))


def read_task(attempt: TaskAttempt[ReadTask]) -> list[DrawingFileResult]:
    """Read some files on a worker."""
    return read_files(attempt.task)


class AnnotationIngest:
    """One ingest of all declared annotation sets; ``left`` counts unread files.

    Parameters
    ----------
    store, config
        The cohort.
    client
        Client of the cluster that reads the files.
    ingest
        Identifier of the ingest.
    pseudonyms
        For cohorts with confidential roots, where names of contours may also name a patient.
    """

    def __init__(
        self,
        store: Store,
        config: CohortConfig,
        client: Client,
        ingest: str,
        *,
        pseudonyms: Pseudonyms | None = None,
        events: ProgressListener | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._sets = config.annotations
        self._slides = config.slides
        self._client = client
        self._id = ingest
        self._pseudonyms = pseudonyms
        self._events = events or ProgressListener()
        self._stop = stop
        self._ledger = annotations_ledger(store)
        self._indices: dict[str | None, ImageIndex] = {}
        self._report = AnnotationReport()
        self._hidden_below: list[str] = []
        self.left = 0

    def run(self) -> AnnotationReport | None:
        """Ingest new and changed files, and retire deleted ones; None if no set is or was declared.

        Raises
        ------
        NoSource, RootEmpty
            If a declared folder is missing, or became empty: an unmounted disk must not retire
            rows.
        """
        if not self._sets and not has_annotations(self._store):
            return None
        snapshot = self._ledger.snapshot()
        rows = read_light(self._ledger, snapshot)
        known, before = AnnotationIndex(rows_of(rows, AnnotationRow)), state_of(rows)
        self._snapshot = snapshot
        seen: set[tuple[str, str]] = set()
        due: list[ReadTask] = []
        for name, declared in self._sets.items():
            due += self._list(name, declared, known, seen)
        changes = Changes()
        # Retire first: if an annotation moved to another file, only the new file then draws it.
        for annotation, source in list(known.files()):
            listable = not source.startswith(tuple(self._hidden_below))
            if (annotation, source) not in seen and listable:
                for row in known.of_file(annotation, source).values():
                    retire(row, known, self._id, changes)
        total = sum(len(task.files) for task in due)
        if total or changes.rows:
            check_writable(self._store)
        if total:
            self._events.start("annotations", total, "files")
            self.left = total
            for read in self._read(due):
                self.left -= 1
                declared = self._sets[read.file.annotation]
                read = self._named(read, declared)
                merge_file(read, known, partial(self._index, declared), self._id, changes)
                if len(changes.rows) >= COMMIT_ROWS:
                    self._commit(changes)
                self._events.advance("annotations", 1, failed=int(read.reason is not None))
            self._events.finish("annotations")
        self._commit(changes)
        for what, count in changes.counts.items():
            setattr(self._report, what, count)
        self._report.reasons = changes.reasons
        if self._snapshot is not snapshot:
            self._name_refused(state_of(read_light(self._ledger, self._snapshot)).since(before))
        return self._report

    def _name_refused(self, newly: Sequence[Mapping[str, Any]]) -> None:
        self._report.refused = len(newly)
        named: Counter[str] = Counter()
        for row in newly:
            named[row["reason"]] += 1
            if named[row["reason"]] <= NAMED:
                told = {n: row[n] for n in ("source", "structure", "reason")}
                self._report.refused_first.append(told)

    def _list(
        self,
        name: str,
        declared: AnnotationConfig,
        known: AnnotationIndex,
        seen: set[tuple[str, str]],
    ) -> Iterator[ReadTask]:
        """Yield tasks for the files of one set that must be read."""
        base = Path(declared.path)
        folder_of_set = FolderLocation(declared.path)
        if not folder_of_set.exists():
            raise NoSource(str(base))
        if folder_of_set.is_empty() and any(a == name for a, _ in known.files()):
            raise RootEmpty(str(base))
        reader = create_reader(declared.format, base, declared.options)
        made_of = digest_of(
            [declared.format, declared.images, declared.structures, reader.context, self._key_check]
        )
        files = []
        for found in walk_files(base, ""):
            if found.problem in OF_THE_PLACE:  # it may be a folder, whose files may all exist
                folder = found.path.rstrip("/").removesuffix(".")
                self._hidden_below.append(drawing_name(name, folder, self._pseudonyms))
            if found.path.endswith("/"):
                continue
            if not reader.claims(found.path):
                self._report.count_ignored(found.path)
                continue
            source = drawing_name(name, found.path, self._pseudonyms)
            seen.add((name, source))
            stat = FileStamp(found.size, found.mtime_ns, found.ctime_ns)
            file = DrawingFile(
                name, str(base), found.path, source, stat, made_of, problem=found.problem
            )
            self._report.listed += 1
            if known.unchanged(file):
                self._report.unchanged += 1
            else:
                files.append(file)
        for start in range(0, len(files), PACK_FILES):
            yield ReadTask(reader, tuple(files[start : start + PACK_FILES]))

    @property
    def _key_check(self) -> str:
        return "" if self._pseudonyms is None else self._pseudonyms.check

    def _named(self, read: DrawingFileResult, declared: AnnotationConfig) -> DrawingFileResult:
        drawings = (
            replace(d, structure=structure_name(d.structure, declared.structures, self._pseudonyms))
            for d in read.drawings
        )
        return replace(read, drawings=tuple(drawings))

    def _index(self, declared: AnnotationConfig) -> ImageIndex:
        if declared.images not in self._indices:
            self._indices[declared.images] = ImageIndex(
                self._images,
                declared.images,
                self._pseudonyms,
                slides_resized=self._slides.spacing_um is not None,
            )
        return self._indices[declared.images]

    @cached_property
    def _images(self) -> Any:
        return read_images(self._store)[1]

    def _read(self, tasks: Sequence[ReadTask]) -> Iterator[DrawingFileResult]:
        pool = TaskPool(self._client, read_task, lambda attempt: (attempt,), label="drawings")
        for answer in map_tasks(pool, tasks, stop=self._stop, note=self._events.note):
            if answer.crashes_worker:
                yield DrawingFileResult(answer.task.files[0], reason="corrupt")
            else:
                yield from answer.value

    def _commit(self, changes: Changes) -> None:
        if not changes.rows:
            return
        rows = changes.rows
        index = next(iter(self._indices.values()), None)

        def place(row: AnnotationRow) -> tuple[Any, ...]:
            where = index.place(row.image_id) if index and row.image_id else ("", 0, 0)
            return (*where, row.name)

        rows.sort(key=place)
        first = self._snapshot

        def prepare(snapshot: Snapshot) -> tuple[Sequence[Part], Sequence[Part]]:
            left = rows
            if snapshot is not first:
                others = rows_of(read_light(self._ledger, snapshot), AnnotationRow)
                left = rebased(rows, {row.name: row for row in others})
            return list(_write_parts(self._ledger, left)), []

        self._snapshot = commit_with_retry(self._ledger, first, prepare)
        changes.rows = []


def _write_parts(ledger: Ledger, rows: Sequence[AnnotationRow]) -> Iterator[Part]:
    for start in range(0, len(rows), PART_ROWS):
        yield ledger.write_part(annotation_table(rows[start : start + PART_ROWS]))
