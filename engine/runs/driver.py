"""Run an operation: map units over workers and publish their parts by compare-and-swap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.deprecations import SingleReport
from engine.errors import EngineError, Interrupted, SchedulerLost
from engine.execution.memory_limit import OUT_OF_MEMORY
from engine.execution.progress import ProgressListener
from engine.execution.quarantine import TaskAttempt, map_tasks
from engine.execution.task_pool import TaskPool
from engine.execution.worker_memory import room_for
from engine.execution.workers import wait_for_slots
from engine.operations.base import Operation
from engine.runs.copies import CopyTask, copy_rows, original_of, pack_copies
from engine.runs.plan import Plan, PlanItem, Unit, pack_units
from engine.runs.publish import Pending, Publisher
from engine.runs.upstream import Parts, PartsOf, stacks_read
from engine.runs.worker import (
    UnitResult,
    WorkerInfo,
    compute_unit,
    shards_read,
    write_failed_unit,
)
from engine.store.backend.base import Store
from engine.store.catalog.annotations import AnnotationRef, read_annotations
from engine.store.catalog.tables import ShardRow
from engine.store.labels.images import files_by_path
from engine.store.labels.publisher import LabelPublisher
from engine.store.pixels.layout import count_blocks
from engine.store.pixels.stacks import label_stack
from engine.store.results import record_key

if TYPE_CHECKING:
    from distributed import Client

NAMED = 5
"""Maximum number of out-of-memory images named during the run; `cohort status` names all."""


class Incomplete(EngineError):
    """A run that ended without a result for each selected image: (missing, selected)."""

    def __str__(self) -> str:
        missing, selected = self.args
        return (
            f"{missing} of {selected} images have no result although the run ended. Run it again; "
            "if images are still missing, run cohort verify to find the cause."
        )


@dataclass
class RunReport(SingleReport):
    """Summary of a run. Each image counts once, also a giant image with many blocks."""

    operation: str
    key: str
    trial: bool = False
    declared: bool = False
    selected: int = 0
    planned: int = 0
    copied: int = 0
    up_to_date: int = 0
    failed_before: int = 0
    failed: int = 0
    unreadable_sources: int = 0
    waiting: int = 0
    reads: list[str] = field(default_factory=list)
    published: int = 0
    elapsed_s: float = 0.0
    compute_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    needs: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        values = dict(vars(self))
        return {
            **values,
            "elapsed_s": round(self.elapsed_s, 3),
            "compute_s": round(self.compute_s, 3),
            "reasons": dict(self.reasons),
        }


def unit_task(
    store: Store,
    operation: Operation,
    files: Mapping[str, ShardRow],
    annotations: Mapping[str, tuple[AnnotationRef, ...]],
    upstream: Parts,
    attempt: TaskAttempt[Unit],
) -> UnitResult | None:
    """Compute one unit on a worker. A dry run (a unit with a negative number) publishes nothing."""
    import distributed

    worker = distributed.get_worker()
    where = WorkerInfo(str(worker.name), operation.compute_device())
    # A task that takes a resource uses all threads of its worker; other tasks use one each.
    operation.set_threads(worker.state.nthreads if operation.resources else 1)
    unit = attempt.task
    with room_for(attempt, where.device) as limit:
        return compute_unit(
            store,
            operation,
            unit,
            files,
            attempts=attempt.number,
            where=where,
            trial=unit.number < 0,
            annotations=annotations,
            upstream=upstream,
            # Let the next unit compute while this one writes its part.
            computed=distributed.secede,
            limit=limit,
        )


def copy_task(store: Store, operation: Operation, attempt: TaskAttempt[CopyTask]) -> UnitResult:
    """Copy rows on a worker for images whose pixels have a result under another image_id."""
    return copy_rows(store, operation, attempt.task)


class FilesOf:
    """Select the shard rows of the catalog that a unit needs."""

    def __init__(self, rows: Collection[ShardRow]) -> None:
        self._metadata = {row.stack: row for row in rows if row.shard < 0 and row.level == 0}
        self._shards = {
            (row.stack, row.shard): row for row in rows if row.shard >= 0 and row.level == 0
        }

    def __call__(self, items: Sequence[PlanItem], operation: Operation) -> dict[str, ShardRow]:
        """Return the rows by path. Images whose shards are not in the catalog fail."""
        pixels = {place for item in items for place in _shards_of(item, operation)}
        labels = {(name, n) for stack, n in pixels for name in stacks_read(operation, stack)}
        needed = pixels | labels
        found = [self._metadata.get(stack) for stack in {stack for stack, _ in needed}]
        found += [self._shards.get(place) for place in needed]
        return {row.path: row for row in found if row is not None}


@dataclass(frozen=True)
class PlannedRun:
    """A plan with the store, the publisher of its results and the report that it updates.

    ``files`` are the rows of the catalog's shards.
    """

    store: Store
    operation: Operation
    plan: Plan
    files: Sequence[ShardRow]
    publisher: Publisher
    report: RunReport


def execute_plan(
    run: PlannedRun,
    client: Client,
    *,
    events: ProgressListener | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Execute a plan and publish its results. Commits made before an error or a stop are kept.

    Raises
    ------
    Interrupted
        If ``stop`` returned True before the end.
    NoWorkers, NoWorkerForResource, SchedulerLost, StoreFull, StoreReadOnly
    """
    shown = events or ProgressListener()
    publisher, operation = run.publisher, run.operation
    # Pack for the slots that exist now, so that every worker gets several units.
    slots = wait_for_slots(client, dict(operation.resources))
    execution = _Execution(run, slots, shown)
    # Record the key before its first row, so that every row's parameters can be looked up.
    record_key(run.store, operation.identity, run.plan.key)
    if operation.has_labels:
        publisher.labels = LabelPublisher(run.store, run.plan.damaged)
        _open_labels(publisher.labels, operation, run.plan, {row.path: row for row in run.files})
    _announce_first_use(operation, client, shown)
    shown.start(operation.name, run.plan.to_compute, "images")
    try:
        execution.compute(client, stop)
        if not stop():
            execution.copy(client)
        publisher.finish()
    except SchedulerLost:
        publisher.flush()
        raise SchedulerLost(execution.done, execution.left) from None
    except BaseException:
        publisher.flush(quietly=True)
        raise
    shown.finish(operation.name)
    run.report.published = publisher.rows_published
    run.report.failed = publisher.failures_published
    if stop() and execution.left:
        raise Interrupted(execution.done, execution.left)
    if missing := publisher.count_missing(execution.rows):
        raise Incomplete(missing, run.plan.selected)


def _announce_first_use(operation: Operation, client: Client, events: ProgressListener) -> None:
    from distributed import LocalCluster

    if (
        isinstance(client.cluster, LocalCluster)
        and (text := operation.first_run_notice()) is not None
    ):
        events.note(text)


class _Execution:
    """Tasks of a run, and how many of them ended (``done``) or are still to do (``left``)."""

    def __init__(self, run: PlannedRun, slots: int, events: ProgressListener) -> None:
        self._run = run
        self._events = events
        self._units = pack_units(run.plan.items, slots)
        parts = run.publisher.parts_of(map(original_of, run.plan.copies))
        self._copies = pack_copies(run.plan.copies, parts)
        rows = files_by_path(run.store, run.files).values() if run.operation.upstream else run.files
        self._files_of = FilesOf(rows)
        reads_annotations = "annotation" in run.operation.inputs
        self._annotations = read_annotations(run.store) if reads_annotations else None
        self._parts_of = PartsOf(run.store, run.operation)
        self.done = 0

    @property
    def left(self) -> int:
        """Number of tasks that did not end."""
        return len(self._units) + len(self._copies) - self.done

    @property
    def rows(self) -> list[tuple[str, str, int | None]]:
        """Identifiers of all rows that the run publishes."""
        computed = [row for unit in self._units for row in rows_of_unit(unit)]
        return computed + [(c.image_id, c.inputs, c.block) for c in self._run.plan.copies]

    def compute(self, client: Client, stop: Callable[[], bool]) -> None:
        """Compute the units on workers, and commit their results as they come."""
        run = self._run
        pool = TaskPool(
            client, unit_task, self._arguments, label=run.operation.name,
            resources=dict(run.operation.resources),
        )  # fmt: skip
        flush, note = run.publisher.flush, self._events.note
        for answer in map_tasks(pool, self._unpublished(), stop=stop, flush=flush, note=note):
            record = answer.value
            if answer.crashes_worker:
                record = write_failed_unit(
                    run.store, run.operation, answer.task, attempts=answer.attempts,
                    need=answer.need,
                    reason="worker_crash" if answer.need is None else OUT_OF_MEMORY,
                )  # fmt: skip
            else:
                self.done += 1
            self._add(record, rows_of_unit(answer.task))

    def copy(self, client: Client) -> None:
        """Copy rows for images whose pixels have a result under another image_id."""
        if not self._copies:
            return
        store, operation = self._run.store, self._run.operation
        pool = TaskPool(client, copy_task, lambda a: (store, operation, a), label="copy-rows")
        flush, note = self._run.publisher.flush, self._events.note
        for copied in map_tasks(pool, self._copies, flush=flush, note=note):
            self.done += 1
            self._add(copied.value, [(c.image_id, c.inputs, c.block) for c in copied.task.copies])

    def _arguments(self, attempt: TaskAttempt[Unit]) -> tuple[Any, ...]:
        """Return the arguments of `unit_task`: only what the unit needs travels."""
        operation, items = self._run.operation, attempt.task.items
        names = [item.image_ids[0] for item in items]
        annotations = {} if self._annotations is None else self._annotations.of(names)
        files = self._files_of(items, operation)
        upstream = self._parts_of(names)
        return self._run.store, operation, files, annotations, upstream, attempt

    def _unpublished(self) -> Iterator[Unit]:
        """Yield the units that no other driver has published meanwhile."""
        for unit in self._units:
            if self._run.publisher.all_published(rows_of_unit(unit)):
                self.done += 1
                self._events.advance(self._run.operation.name, unit.images)
            else:
                yield unit

    def _add(self, record: UnitResult, rows: Sequence[tuple[str, str, int | None]]) -> None:
        report = self._run.report
        self._run.publisher.add(Pending(record, tuple(rows)))
        report.compute_s += record.compute_s
        report.reasons.update(reason for _, reason in record.failed)
        for name, need in record.needs:
            if len(report.needs) < NAMED:
                self._events.note(f"{name}: {OUT_OF_MEMORY}, it {need}.")
                report.needs[name] = str(need)
        self._events.advance(self._run.operation.name, len(rows), failed=len(record.failed))


def _open_labels(
    labels: LabelPublisher, operation: Operation, plan: Plan, files: Mapping[str, ShardRow]
) -> None:
    stacks = {item.stack for item in plan.items}
    giants = {item.stack for item in plan.items if item.block is not None}
    if operation.has_object_labels:
        # Recomputing one block can renumber the objects of all blocks, so unpublish the object
        # labels until `run_numbers` writes them again.
        labels.unpublish(label_stack(stack, operation.object_image.name) for stack in giants)
    labels.open(
        [(stack, i) for stack in stacks for i in operation.label_images(stack in giants)], files
    )


def _shards_of(item: PlanItem, operation: Operation) -> Iterator[tuple[str, int]]:
    """Yield the shards (stack, index) that an item may read."""
    if item.block is None or operation.whole_objects is None:
        yield from shards_read(item, operation.halo_of(item.spacing_um))
    else:  # objects may reach anywhere
        yield from ((item.stack, block) for block in range(count_blocks(*item.shape[1:])))


def rows_of_unit(unit: Unit) -> list[tuple[str, str, int | None]]:
    """Return the identifiers (image_id, inputs, block) of a unit's rows."""
    return [(name, item.inputs, item.block) for item in unit.items for name in item.image_ids]
