"""Ingest: new and changed files become shards and catalog rows, in rounds of bounded size.

Each round probes headers, plans stacks, writes shards on the workers and commits every few seconds.
Uncommitted work does not exist; the next ingest does it again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from engine.errors import Interrupted, MissingObject
from engine.execution.progress import ProgressListener
from engine.execution.quarantine import TaskAttempt, map_tasks
from engine.execution.task_pool import TaskPool
from engine.execution.worker_memory import poison_of, room_for
from engine.execution.workers import wait_for_slots
from engine.ingest.annotations.driver import AnnotationIngest
from engine.ingest.catalog_rows import holds_copies
from engine.ingest.commit import CatalogWriter
from engine.ingest.discovery import (
    Discovery,
    changed_files,
    list_sources,
    missing_predicate,
    missing_sources,
)
from engine.ingest.display import display_stacks
from engine.ingest.outages import Outages
from engine.ingest.pyramid import write_pyramid
from engine.ingest.report import IngestReport
from engine.ingest.roots import IngestRequest
from engine.ingest.series.dicom_series import assign_series_positions
from engine.ingest.series.slide_levels import choose_levels
from engine.ingest.tasks import ProbeResult, ProbeTask, ShardResult, ShardTask, SourceFile
from engine.ingest.worker import find_ignored, name_missing_format, probe_files, write_shard
from engine.sources.failures import may_be_the_place
from engine.store.backend.base import Store
from engine.store.backend.write_check import check_writable
from engine.store.catalog.tables import create_catalog
from engine.store.config import read_config
from engine.store.maintenance.unreferenced import managed_folders
from engine.store.pixels.layout import IncomingPlane, PlaneSlot, StackLayout, plan_stack_layouts
from engine.store.pixels.stacks import create_stack, stack_path

if TYPE_CHECKING:
    from distributed import Client

ROUND_FILES = 20_000
"""Files per round; bounds the driver's memory and the size of a stack."""

PROBE_FILES = 128
"""Files per probe task: about 5 ms of work, against 1 ms of scheduler."""


def probe_task(attempt: TaskAttempt[ProbeTask]) -> list[ProbeResult]:
    """Read the headers of some files on a worker."""
    with room_for(attempt):
        return probe_files(attempt.task)


def shard_task(store: Store, attempt: TaskAttempt[ShardTask]) -> ShardResult | None:
    """Write one shard, or one giant image, on a worker; None if gc deleted its stack meanwhile."""
    task = attempt.task
    write = write_pyramid if task.plan.kind == "giant" else write_shard
    with room_for(attempt):
        try:
            return write(store, task)
        except MissingObject as error:
            if not str(error.args[0]).startswith(f"{stack_path(task.plan.name)}/"):
                raise
            return None  # its files stay in `IngestReport.left`; the next ingest takes them


class Ingest:
    """One ingest of some sources of a cohort.

    Parameters
    ----------
    store
        Storage of the cohort.
    request
        What to ingest.
    client
        Client of the cluster that does the work.
    rehash
        Open all files, also those that look unchanged.
    stop
        Predicate to end early; work in flight is committed.
    """

    def __init__(
        self,
        store: Store,
        request: IngestRequest,
        client: Client,
        *,
        rehash: bool = False,
        events: ProgressListener | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._config = request.config
        self._client = client
        self._scopes = request.scopes
        self._pseudonyms = request.pseudonyms
        self._walked = request.walked
        self._rehash = rehash
        self._events = events or ProgressListener()
        self._stop = stop
        self._id = datetime.now(UTC).strftime("%Y%m%dT%H%M%S") + "-" + secrets.token_hex(3)

    def run(self) -> IngestReport:
        """Ingest all new and changed files in the scopes.

        Raises
        ------
        Interrupted
            If ``stop`` returned True before the end.
        RootGone, RootEmpty, RootLost, StoreUnreachable, SourceUnreachable
            If a root is or becomes unavailable, raised after all other roots are done: its images
            are not orphaned.
        """
        began = time.perf_counter()
        listing = Discovery()
        outages = Outages(listing)
        admission = CatalogWriter(self._store, self._config, self._id, outages, self._pseudonyms)
        report = admission.report
        if self._rehash:
            admission.repairs.scan(self._client, self._events, self._stop)
        files = list_sources(
            self._config, self._scopes, admission.known, listing, self._pseudonyms,
            managed_folders(self._store), walked=self._walked,
        )  # fmt: skip
        changed = changed_files(files, admission.known, listing, self._rehash)
        # Read after the catalog, so that all roots of catalogued images are included.
        declared = read_config(self._store).roots.keys()

        def gone() -> Callable[[str], bool]:  # called once all files are listed
            return missing_predicate(
                listing, self._config, self._scopes, self._pseudonyms, declared
            )

        rounds = 0
        while not self._stop() and (batch := list(islice(changed, ROUND_FILES))):
            if not rounds:
                check_writable(self._store)
                create_catalog(self._store)
            if len(batch) < ROUND_FILES:  # the listing is complete, so unseen sources are missing
                admission.gone = gone()
            self._round(admission, batch, rounds)
            rounds += 1
        report.listed, report.unchanged = listing.listed, listing.unchanged
        if self._stop():
            raise Interrupted(report.taken, report.left)
        admission.commit_listing(listing, missing_sources(admission.known, gone()))
        limit = self._config.limits.max_decoded_bytes
        admission.repairs.repair(self._client, limit, report, self._events, self._stop)
        drawn = AnnotationIngest(
            self._store, self._config, self._client, self._id,
            pseudonyms=self._pseudonyms, events=self._events, stop=self._stop,
        )  # fmt: skip
        report.annotations = drawn.run()
        if drawn.left:
            raise Interrupted(report.taken, drawn.left)
        lost = list(listing.lost.values())
        for away in lost[1:]:
            self._events.note(str(away))
        if lost:
            raise lost[0]
        report.elapsed_s = time.perf_counter() - began
        return report

    def _round(self, admission: CatalogWriter, files: Sequence[SourceFile], number: int) -> None:
        arrivals: list[IncomingPlane] = []
        sources: dict[str, SourceFile] = {}
        self._events.start("headers", len(files), "files")
        probes: list[ProbeResult] = []
        outages = admission.outages
        for probe in self._probe(files, outages):
            self._events.advance("headers", 1, failed=int(probe.reason is not None))
            if probe.reason is not None and may_be_the_place(probe.reason, probe.detail):
                note = partial(admission.add_probe, probe)
                outages.failed(probe.file, probe.reason, probe.detail, note)
            else:
                outages.worked(probe.file)
                probes.append(probe)
        for probe in sorted(probes, key=lambda p: p.file.source):
            taken = admission.add_probe(probe)
            if taken:
                sources[probe.file.source] = probe.file
                arrivals += taken
        self._events.finish("headers")
        if self._stop():
            admission.report.left += len(files)
            return
        arrivals.sort(key=lambda a: (a.source, len(a.fragment), a.fragment))
        arrivals, levels = choose_levels(
            arrivals, self._config.slides.spacing_um, admission.known.facts_of
        )
        admission.report.ignored += len(levels)
        arrivals = assign_series_positions(arrivals)
        layouts = plan_stack_layouts(arrivals, f"{self._id}-{number}", self._config.limits)
        plans = display_stacks(
            self._client, layouts, sources, self._config.limits.max_decoded_bytes,
            stop=self._stop, note=self._events.note,
        )  # fmt: skip
        admission.register_stacks({plan.name: create_stack(self._store, plan) for plan in plans})
        self._events.start("pixels", len(arrivals), "images")
        try:
            self._write(admission, plans, sources)
        except BaseException:
            admission.flush(quietly=True)
            raise
        admission.flush()
        self._events.finish("pixels")
        if not self._stop():
            admission.delete_unused_stacks()

    def _probe(self, files: Sequence[SourceFile], outages: Outages) -> Iterator[ProbeResult]:
        # Most folders hold a few files of no known format. These must not start a cluster each
        # night.
        ignored = find_ignored(files) if len(files) <= PROBE_FILES else frozenset()
        yield from map(ProbeResult, ignored)
        files = [file for file in files if file not in ignored]
        if not files:
            return
        wait_for_slots(self._client, {})
        limit, roots = self._config.limits.max_decoded_bytes, self._config.roots
        by_root: dict[str, list[SourceFile]] = {}
        for file in files:
            by_root.setdefault(file.source.split("/", 1)[0], []).append(file)
        tasks = (
            ProbeTask(
                tuple(members[i : i + PROBE_FILES]),
                limit,
                roots[name].spacing_um,
                roots[name].channels,
            )
            for name, members in by_root.items()
            for i in range(0, len(members), PROBE_FILES)
            if not outages.away(members[0])
        )
        pool = TaskPool(self._client, probe_task, lambda attempt: (attempt,), label="probe")
        for answer in map_tasks(pool, tasks, stop=self._stop, note=self._events.note):
            if answer.crashes_worker:
                reason, detail = poison_of(answer.need, "reading its header")
                yield ProbeResult(answer.task.files[0], reason=reason, detail=detail)
            else:
                yield from map(name_missing_format, answer.value)

    def _write(
        self,
        admission: CatalogWriter,
        plans: Sequence[StackLayout],
        sources: dict[str, SourceFile],
    ) -> None:
        tasks = list(self._tasks(plans, sources))
        admission.report.left += sum(len(task.plan.slots) for task in tasks)
        # Write copies last, so that they always point to the planes of the first file, whose pixels
        # are stored, and never the other way round.
        for copies in (False, True):
            self._write_shards(admission, [task for task in tasks if holds_copies(task) == copies])

    def _write_shards(self, admission: CatalogWriter, tasks: Sequence[ShardTask]) -> None:
        if not tasks:
            return
        here = (t for t in tasks if not all(map(admission.outages.away, t.files.values())))
        pool = TaskPool(
            self._client, shard_task, lambda attempt: (self._store, attempt), label="shard"
        )
        for answer in map_tasks(
            pool, here, stop=self._stop, flush=admission.flush, note=self._events.note
        ):
            if answer.crashes_worker:
                slot = answer.task.plan.slots[0]
                file = answer.task.files[slot.arrival.source]
                admission.add_crashed(file, slot, *poison_of(answer.need, "decoding it"))
            elif answer.value is not None:
                admission.add_shard(answer.task, answer.value)
            count = len(answer.task.plan.slots)
            self._events.advance("pixels", count, failed=count if answer.crashes_worker else 0)

    def _tasks(
        self, plans: Sequence[StackLayout], sources: dict[str, SourceFile]
    ) -> Iterator[ShardTask]:
        limit = self._config.limits.max_decoded_bytes
        for plan in plans:
            shards: dict[int, list[PlaneSlot]] = {}
            for slot in plan.slots:
                shards.setdefault(slot.shard, []).append(slot)
            for shard, slots in shards.items():
                files = {slot.arrival.source: sources[slot.arrival.source] for slot in slots}
                yield ShardTask(replace(plan, slots=tuple(slots)), shard, files, limit)
