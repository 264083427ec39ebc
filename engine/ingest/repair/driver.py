"""Repair of damaged or lost pixels from the sources that an ingest opens anyway.

Before the ingest, the workers check all shards against the catalog. During the ingest, the driver
collects the sources whose pixels belong in damaged shards. Afterwards the workers rewrite those
shards, and the driver publishes them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow.compute as pc

from engine.execution.progress import ProgressListener, pluralise
from engine.execution.quarantine import TaskAttempt, map_tasks
from engine.execution.task_pool import TaskPool
from engine.execution.workers import wait_for_slots
from engine.ingest.repair.metadata import restore_metadata
from engine.ingest.repair.worker import PlaneToRestore, RepairResult, RepairTask, repair_shards
from engine.ingest.report import IngestReport
from engine.ingest.tasks import SourceFile
from engine.store.arrow import is_any
from engine.store.backend.base import Store
from engine.store.backend.write_check import check_writable
from engine.store.catalog.tables import (
    ORPHANED,
    READY,
    ImageRow,
    ShardRow,
    read_images,
    read_shards,
)
from engine.store.labels.images import is_label
from engine.store.pixels.layout import IncomingPlane
from engine.store.pixels.read_planes import PlaneIndex
from engine.store.pixels.repair import ShardRepair, missing_planes, publish_repairs

if TYPE_CHECKING:
    from distributed import Client

CHECK_BYTES = 64 * 1024**2
CHECK_FILES = 256
"""Limits of a task that checks files: a tenth of a second to read, against 1 ms of scheduler."""

OFFERS = 2
"""Sources kept per image: the second one is used if the first one changed."""

HELD = 100_000
"""Maximum planes for which one ingest keeps sources, to bound the driver's memory; the next ingest
repairs the rest."""

PLACE: tuple[str, ...] = ("state", "source", "content", "channels", "height", "width")
PLACE += ("stack", "shard", "t", "z", "giant")


T = TypeVar("T")
_Image = dict[str, Any]
_Damaged = tuple[ShardRow, frozenset[PlaneIndex] | None]


def check_task(store: Store, attempt: TaskAttempt[tuple[ShardRow, ...]]) -> list[_Damaged]:
    """Return the files that do not match the catalog, or lack planes, on a worker."""
    found = ((row, missing_planes(store, row)) for row in attempt.task)
    return [(row, lost) for row, lost in found if lost is None or lost]


def repair_task(store: Store, attempt: TaskAttempt[RepairTask]) -> RepairResult:
    """Stage repaired shards on a worker."""
    return repair_shards(store, attempt.task)


class RepairDriver:
    """Driver of repairs: the damage found in a cohort, and the sources to repair it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._damaged: list[ShardRow] = []
        self._stacks: set[str] = set()
        self._shards: dict[tuple[str, int], frozenset[PlaneIndex] | None] = {}
        self._candidates: dict[tuple[str, PlaneIndex], list[tuple[IncomingPlane, SourceFile]]] = {}
        self._full = False
        self._replaced: list[str] = []

    def scan(self, client: Client, events: ProgressListener, stop: Callable[[], bool]) -> None:
        """Check all files below ``pixels/`` except labels, which a run repairs itself."""
        rows = [row for row in read_shards(self._store) if not is_label(row.stack)]
        if not rows:
            return
        wait_for_slots(client, {})
        events.start("stored pixels", len(rows), "files")
        pool = TaskPool(client, check_task, lambda a: (self._store, a), label="check")
        for answer in map_tasks(pool, _packs(rows), stop=stop, note=events.note):
            for row, lost in answer.value:
                self._damaged.append(row)
                if row.level == 0:
                    self._shards[row.stack, row.shard] = lost
            events.advance("stored pixels", len(answer.task), failed=len(answer.value))
        events.finish("stored pixels")
        whole = restore_metadata(self._store, [row for row in self._damaged if row.shard < 0])
        if whole:
            self._damaged = [row for row in self._damaged if row not in whole]
            for row in whole:
                self._shards.pop((row.stack, row.shard), None)
            events.note(f"Made {pluralise(len(whole), 'files')} of metadata of stacks again.")
        self._damaged.sort(key=lambda row: (row.stack, row.level, row.shard))
        self._stacks = {row.stack for row in self._damaged}

    def add_candidate(
        self, old: ImageRow | None, row: ImageRow, arrival: IncomingPlane, file: SourceFile
    ) -> None:
        """Add a plane that was read, if its pixels, or its former ones, are damaged."""
        if not self._stacks:
            return
        if old is not None and old.content != row.content and self._concerns(old):
            self._replaced.append(row.image_id)
        if row.stack is None or row.t is None or not self._concerns(row):
            return
        place = row.stack, (row.t, row.z)
        if place not in self._candidates and len(self._candidates) >= HELD:
            self._full = True
            return
        offers = self._candidates.setdefault(place, [])
        if len(offers) < OFFERS:
            offers.append((replace(arrival, header=None, lattice=None), file))

    def _concerns(self, row: ImageRow) -> bool:
        if row.stack not in self._stacks or row.state not in (READY, ORPHANED):
            return False
        if row.giant:
            return True
        lost = self._shards.get((row.stack, row.shard or 0), frozenset())
        return lost is None or (row.t, row.z) in lost

    def repair(
        self,
        client: Client,
        max_decoded_bytes: int,
        report: IngestReport,
        events: ProgressListener,
        stop: Callable[[], bool],
    ) -> None:
        """Repair damaged shards, and report the healed and the lost images.

        Raises
        ------
        StoreFull, StoreReadOnly, NoWorkers, SchedulerLost
        """
        report.replaced += sorted(self._replaced)
        if not self._damaged or stop():
            return
        check_writable(self._store)
        images = _Images(self._store, self._stacks)
        broken = {row.stack for row in self._damaged if row.shard < 0}
        lost: dict[str, dict[str, str]] = {}
        for image in (i for stack in broken for i in images.of(stack)):
            _note(lost, image, "metadata")
        groups: dict[tuple[str, int, int], list[ShardRow]] = defaultdict(list)
        for row in self._damaged:  # one task repairs a level of a giant image
            shard = 0 if row.stack in images.giants else row.shard
            groups[row.stack, row.level, shard].append(row)
        unneeded = [
            row
            for (stack, _, shard), rows in groups.items()
            if not (images.has(stack) if stack in broken else images.has(stack, shard))
            for row in rows
        ]
        publish_repairs(self._store, [ShardRepair(row, None) for row in unneeded])
        places = [p for p in groups if p[0] not in broken and images.has(p[0], p[2])]
        healed: set[str] = set()
        self._events = events
        events.start("healing", len(places), "shards")
        for level in sorted({level for _, level, _ in places}):
            # Each level of a pyramid is made from the one below, so repair the lowest first.
            below = self._files_of({p[0] for p in places if p[1] == level}, level)
            jobs = (
                self._job(images.of(p[0], p[2]), groups[p], below, max_decoded_bytes)
                for p in places
                if p[1] == level
            )
            self._repair(client, jobs, healed, lost, stop)
        events.finish("healing")
        report.healed += len(healed - lost.keys())
        report.lost += [lost[name] for name in sorted(lost)]

    def _files_of(self, stacks: set[str], level: int) -> dict[str, dict[str, ShardRow]]:
        """Return the catalog's current rows of the inputs of a level, by stack."""
        found: dict[str, dict[str, ShardRow]] = defaultdict(dict)
        for row in read_shards(self._store, stacks) if level else ():
            if row.level in (level - 1, level):
                found[row.stack][row.path] = row
        return found

    def _job(
        self,
        here: list[_Image],
        rows: Sequence[ShardRow],
        below: Mapping[str, Mapping[str, ShardRow]],
        limit: int,
    ) -> tuple[RepairTask, list[_Image]]:
        files, giant = below.get(rows[0].stack, {}), here[0]["giant"]
        return RepairTask(tuple(rows), self._wanted(here), giant, limit, files), here

    def _wanted(self, here: Sequence[_Image]) -> tuple[PlaneToRestore, ...]:
        found = {}
        for image in here:
            place = image["t"], image["z"]
            offers = self._candidates.get((image["stack"], place), [])
            found[place] = PlaneToRestore(
                place,
                image["content"],
                tuple(arrival for arrival, _ in offers),
                tuple(file for _, file in offers),
                (image["channels"], image["height"], image["width"]),
            )
        return tuple(found.values())

    def _repair(
        self,
        client: Client,
        jobs: Iterator[tuple[RepairTask, list[_Image]]],
        healed: set[str],
        lost: dict[str, dict[str, str]],
        stop: Callable[[], bool],
    ) -> None:
        in_flight: dict[int, list[_Image]] = {}
        waiting: list[tuple[ShardRepair, set[str]]] = []

        def tasks() -> Iterator[RepairTask]:
            for task, here in jobs:
                in_flight[id(task)] = here
                yield task

        def flush() -> None:
            done = {m.old.path for m in publish_repairs(self._store, [m for m, _ in waiting])}
            for repair, names in waiting:
                healed.update(names if repair.old.path in done else ())
            waiting.clear()

        pool = TaskPool(client, repair_task, lambda a: (self._store, a), label="mend")
        try:
            for answer in map_tasks(pool, tasks(), stop=stop, flush=flush, note=self._events.note):
                record, here = answer.value, in_flight.pop(id(answer.task))
                names = {i["image_id"] for i in here if (i["t"], i["z"]) in record.healed}
                waiting += [(repair, names) for repair in record.repairs]
                for image in here:
                    if (image["t"], image["z"]) in record.lost:
                        _note(lost, image, self._why(image))
                self._events.advance("healing", 1, failed=int(bool(record.lost)))
        finally:
            flush()

    def _why(self, image: _Image) -> str:
        if self._candidates.get((image["stack"], (image["t"], image["z"]))):
            return "source_differs"
        if image["state"] == ORPHANED:
            return "source_gone"
        return "too_many" if self._full else "source_not_taken"


def _note(lost: dict[str, dict[str, str]], image: _Image, reason: str) -> None:
    name = image["image_id"]
    lost[name] = {"source": image["source"], "image_id": name, "reason": reason}


class _Images:
    """The current images with pixels in some stacks, as columns, indexed by stack and shard."""

    def __init__(self, store: Store, stacks: Iterable[str]) -> None:
        images = read_images(store, PLACE)[1]
        here = pc.and_(
            is_any(images["state"], [READY, ORPHANED]),
            is_any(images["stack"], stacks),
        )
        self._rows = images.filter(here).sort_by([("stack", "ascending"), ("shard", "ascending")])
        keys = (self._rows[name].to_pylist() for name in ("stack", "shard"))
        self._spans: dict[str, dict[int, list[int]]] = defaultdict(dict)
        for n, (stack, shard) in enumerate(zip(*keys, strict=True)):
            self._spans[stack].setdefault(shard, [n, n])[1] = n + 1
        self.giants = set(self._rows.filter(self._rows["giant"])["stack"].to_pylist())

    def has(self, stack: str, shard: int | None = None) -> bool:
        """Return whether a stack, or one of its shards, has any image."""
        spans = self._spans.get(stack, {})
        return bool(spans) if shard is None else shard in spans

    def of(self, stack: str, shard: int | None = None) -> list[_Image]:
        """Return the images in a stack, or in one of its shards."""
        spans = self._spans.get(stack, {})
        wanted = spans.values() if shard is None else [spans[shard]]
        return [
            i for first, end in wanted for i in self._rows.slice(first, end - first).to_pylist()
        ]


def _packs(rows: Sequence[ShardRow]) -> Iterator[tuple[ShardRow, ...]]:
    pack: list[ShardRow] = []
    for row in rows:
        if pack and (len(pack) == CHECK_FILES or sum(r.size for r in pack) > CHECK_BYTES):
            yield tuple(pack)
            pack = []
        pack.append(row)
    yield tuple(pack)
