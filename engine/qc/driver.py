"""Render the pictures of quality control on the cluster, and the page that shows them.

Pictures of unchanged results are not rendered again: an index beside the pictures records the
inputs of each. Few pictures are in flight, and none of them passes through the task graph.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from engine.deprecations import SingleReport
from engine.errors import CorruptStore, Interrupted, NothingFound
from engine.execution.progress import ProgressListener
from engine.execution.quarantine import TaskAttempt, map_tasks
from engine.execution.task_pool import TaskPool
from engine.execution.worker_memory import poison_of
from engine.execution.workers import wait_for_slots
from engine.operations.base import Operation
from engine.qc.outliers import find_extremes, select_pictures
from engine.qc.page.context import PageContext
from engine.qc.page.experiments import publish_pages
from engine.qc.page.index import write_page
from engine.qc.plan import QcPlan, plan_pictures
from engine.qc.statistics import read_chosen, read_facts
from engine.qc.worker import PictureRequest, PictureResult, Unit, make_unit
from engine.store.backend.base import Store
from engine.store.backend.write_check import check_writable
from engine.store.catalog.tables import ShardRow
from engine.store.delta.ledger import Snapshot
from engine.store.labels.images import files_by_path
from engine.store.pictures import (
    PictureIndex,
    files_there,
    folder_of,
    read_picture_index,
    write_picture_index,
)
from engine.store.pixels.stacks import label_stack
from engine.tables.channels import all_channels

if TYPE_CHECKING:
    from distributed import Client

FLUSH_S = 5.0
"""Interval at which the index of pictures is written, seconds: a kill loses at most this much work.
"""

FLUSH_SHARE = 20
"""Writing the index takes at most one in this many seconds, for an index of any size."""

STAGE = "pictures"


@dataclass
class QcReport(SingleReport):
    """Result of quality control for one operation.

    ``pictures`` counts the required ones (overlays and montages), ``made`` those rendered now;
    ``failed`` counts images without pictures, by ``reasons``. ``shown`` of ``images`` images have
    an overlay on the page.
    """

    operation: str
    key: str
    trial: bool = False
    page: str = ""
    images: int = 0
    shown: int = 0
    pictures: int = 0
    made: int = 0
    up_to_date: int = 0
    failed: int = 0
    unusual: int = 0
    page_made: bool = False
    elapsed_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        values = dict(vars(self))
        return {**values, "elapsed_s": round(self.elapsed_s, 3), "reasons": dict(self.reasons)}


def picture_task(
    store: Store,
    operation: Operation,
    folder: str,
    files: Mapping[str, ShardRow],
    attempt: TaskAttempt[Unit],
) -> PictureResult:
    """Render the pictures of one unit on a worker."""
    return make_unit(store, operation, folder, attempt.task, files)


class PictureFiles:
    """Select the shard rows of the catalog that a picture needs.

    ``labels`` is the name of the label images to overlay, or None.
    """

    def __init__(self, rows: Collection[ShardRow], labels: str | None = None) -> None:
        self._labels = labels
        self._metadata = {(row.stack, row.level): row for row in rows if row.shard < 0}
        self._shards = {(r.stack, r.level, r.shard): r for r in rows if r.shard >= 0}
        self._levels: dict[tuple[str, int], list[ShardRow]] = {}
        for row in rows:
            if row.shard >= 0 and row.level > 0:
                self._levels.setdefault((row.stack, row.level), []).append(row)

    def __call__(self, wanted: Sequence[PictureRequest]) -> dict[str, ShardRow]:
        """Return the rows by path. Images whose shards are not in the catalog fail."""
        found: list[ShardRow | None] = []
        for one in wanted:
            stacks = [one.item.stack]
            if self._labels is not None and one.done:
                stacks.append(label_stack(one.item.stack, self._labels))
            for stack in stacks:
                place = (stack, one.level)
                found.append(self._metadata.get(place))
                if one.giant:
                    found += self._of_level(place)
                else:
                    found.append(self._shards.get((stack, 0, one.item.shard)))
        return {row.path: row for row in found if row is not None}

    def _of_level(self, place: tuple[str, int]) -> list[ShardRow]:
        if place[1] > 0:
            return self._levels.get(place, [])
        return [row for (stack, level, _), row in self._shards.items() if (stack, level) == place]


def make_pictures(  # noqa: PLR0913 - options by name
    store: Store,
    operation: Operation,
    client: Client,
    images: pa.Table,
    results: Snapshot,
    files: Sequence[ShardRow],
    *,
    trial: bool = False,
    where: str | None = None,
    all_images: bool = False,
    events: ProgressListener | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> QcReport:
    """Render an operation's missing and outdated pictures, and their page.

    Parameters
    ----------
    images
        The catalog's current rows, by image_id.
    results
        Snapshot of the operation's ledger that its tables were built from.
    files
        Catalog rows of all files below ``pixels/``.
    trial
        Whether the parameters differ from the declared ones.
    where
        A condition on the table of images: all matching images get a picture.
    all_images
        Whether every image gets a picture, for any number of images.

    Raises
    ------
    ConditionError, NothingFound
        If the condition is invalid for this table, or no image with a result matches.
    NoTable
        If the operation has no tables yet.
    Interrupted, NoWorkers, SchedulerLost, StoreFull, StoreReadOnly
    """
    began = time.perf_counter()
    operation = operation.for_channels(all_channels(images))
    suffix = f"@{operation.key[:8]}" if trial else ""
    folder = folder_of(operation.name, suffix)
    facts = read_facts(store, operation, images, suffix)
    extremes = find_extremes(facts)
    among = None if where is None else read_chosen(store, operation, suffix, where)
    chosen = select_pictures(facts, extremes, all_images=all_images, among=among)
    if where is not None and not len(chosen):
        raise NothingFound(
            f"--where {where!r} fits no image with a result",
            f"cohort export {quote(store.url)} {operation.name}_by_image{suffix} t.csv shows all.",
        )
    try:
        known = read_picture_index(store, folder)
    except CorruptStore:  # the index is damaged: render all pictures again
        known = {}
    plan = plan_pictures(
        store, operation, facts, chosen, images, results, known, files_there(store, folder)
    )
    report = QcReport(
        operation.name,
        operation.key,
        trial,
        images=len(facts),
        pictures=plan.fresh + plan.to_make,
        up_to_date=plan.fresh,
        unusual=extremes.count,
    )
    noted = dict(plan.kept)
    if plan.to_make:
        check_writable(store)
        labels = operation.label_name if operation.has_labels else None
        shown = PictureFiles(files_by_path(store, files).values(), labels)
        rendering = _Rendering(
            store, operation, folder, noted, known, report, events or ProgressListener()
        )
        rendering.run(client, plan, shown, stop)
    context = PageContext(store, operation, folder, trial, facts, extremes, noted)
    pages, of_pages = publish_pages(context)
    noted |= of_pages
    if noted != known:
        write_picture_index(store, folder, noted, known)
    report.shown, report.page_made = len(context.overlays), write_page(context, pages)
    report.page = f"{store.url}/{folder}/index.html"
    report.elapsed_s = time.perf_counter() - began
    return report


@dataclass
class _Rendering:
    """Rendering of pictures on workers, with the index of those made so far (``noted``)."""

    store: Store
    operation: Operation
    folder: str
    noted: PictureIndex
    known: PictureIndex
    report: QcReport
    events: ProgressListener
    _written_s: float = field(default_factory=time.monotonic)
    _took_s: float = 0.0

    def run(
        self, client: Client, plan: QcPlan, files_of: PictureFiles, stop: Callable[[], bool]
    ) -> None:
        """Render the pictures of a plan, and write the index now and then."""
        store, operation, folder = self.store, self.operation, self.folder
        slots = wait_for_slots(client, {})
        self.events.start(STAGE, plan.to_make, "pictures")
        pool = TaskPool(
            client,
            picture_task,
            lambda a: (store, operation, folder, files_of(a.task.wanted), a),
            label=f"qc-{operation.name}",
        )
        done = 0
        try:
            for answer in map_tasks(
                pool, plan.units(slots), stop=stop, flush=self._write_if_due, note=self.events.note
            ):
                made = answer.value
                if answer.crashes_worker:
                    reason, _ = poison_of(answer.need, "drawing it")
                    made = PictureResult(
                        (), tuple((one.image_id, reason) for one in answer.task.wanted)
                    )
                done += answer.task.pictures
                self._add(made, answer.task.pictures)
        finally:
            self._write()
        self.events.finish(STAGE)
        if stop() and done < plan.to_make:
            raise Interrupted(done, plan.to_make - done)

    def _add(self, made: PictureResult, pictures: int) -> None:
        self.noted.update({(one.kind, one.name): one for one in made.pictures})
        self.report.made += len(made.pictures)
        self.report.reasons.update(reason for _, reason in made.failed)
        self.report.failed += len(made.failed)
        self.events.advance(STAGE, pictures, failed=len(made.failed))

    def _write(self) -> None:
        began = time.monotonic()
        write_picture_index(self.store, self.folder, self.noted, self.known)
        self._written_s = time.monotonic()
        self._took_s = self._written_s - began

    def _write_if_due(self) -> None:
        # The index grows with the number of pictures: after a slow write, wait longer.
        if time.monotonic() - self._written_s > max(FLUSH_S, FLUSH_SHARE * self._took_s):
            self._write()
