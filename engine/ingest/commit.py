"""Driver side of ingest: build and commit the rows of images and shards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from engine.errors import EngineError, UsageError
from engine.ingest.catalog_rows import copy_location, header_columns, of_original
from engine.ingest.discovery import Discovery
from engine.ingest.outages import Outages
from engine.ingest.repair.driver import RepairDriver
from engine.ingest.report import NAMED, IngestReport
from engine.ingest.tasks import PlaneResult, ProbeResult, ShardResult, ShardTask, SourceFile
from engine.privacy import Pseudonyms
from engine.sources.failures import OF_THE_PLACE
from engine.sources.registry import unsupported_suffix
from engine.store.backend.base import Store
from engine.store.catalog.index import CatalogIndex
from engine.store.catalog.tables import (
    FAILED,
    LOOK_THREADS,
    ORPHANED,
    READY,
    RETIRED,
    ImageRow,
    ShardRow,
    commit_with_retry,
    image_table,
    images_ledger,
    shard_table,
    shards_ledger,
)
from engine.store.config import CohortConfig
from engine.store.delta.ledger import Snapshot
from engine.store.delta.parts import Part
from engine.store.pixels.layout import IncomingPlane, PlaneSlot
from engine.store.pixels.repair import ShardRepair, publish_repairs


class CatalogWriter:
    """Writer of the catalog: turns the workers' results into rows, and commits them.

    Pixels that the catalog already has, under any name, are not stored again: the new row points to
    them (``duplicate_of``). The first image catalogued is the original.
    """

    def __init__(
        self,
        store: Store,
        config: CohortConfig,
        ingest: str,
        outages: Outages,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self._store = store
        self._config = config
        self._ingest = ingest
        self._pseudonyms = pseudonyms
        self.outages = outages
        """Distinguishes failures of single sources from outages of a root."""
        self.repairs = RepairDriver(store)
        """Collects this ingest's sources for damaged pixels."""
        self._holders: dict[str, str] = {}  # source of each instance in this ingest
        self.gone: Callable[[str], bool] = lambda _: False
        """Predicate for missing sources, set once all are listed."""
        self._images = images_ledger(store)
        self._shards = shards_ledger(store)
        self._snapshot = self._images.snapshot()
        self.known = CatalogIndex(self._images, self._snapshot)
        self.report = IngestReport()
        self._rows: list[ImageRow] = []
        self._removed: dict[str | None, set[int | None]] = defaultdict(set)  # shards by stack
        self._files: list[ShardRow] = []
        self._tried: dict[str, int] = {}  # shard rows in each part that was written
        self._metadata: dict[str, Sequence[ShardRow]] = {}

    # Results of workers.

    def add_probe(self, probe: ProbeResult) -> tuple[IncomingPlane, ...]:
        """Add a source's probe result; return its planes to read, with pseudonyms."""
        if probe.reason is not None:
            self._fail_source(probe.file, probe.reason, probe.detail)
            return ()
        source = probe.file.source
        if not probe.arrivals:
            self._retire(source, set())  # it may have been an image before
            self.report.withheld += probe.withheld
            if not probe.withheld:
                self.report.ignored += 1
                suffix = unsupported_suffix(probe.file.path)
                self.report.untaken.update(() if suffix is None else (suffix,))
            return ()
        arrivals = tuple(self._pseudonymise(arrival) for arrival in probe.arrivals)
        self._retire(source, {arrival.image_id for arrival in arrivals})
        return arrivals

    def _pseudonymise(self, arrival: IncomingPlane) -> IncomingPlane:
        """Pseudonymise a plane's identity, and flag a second file of the same instance."""
        if arrival.header is None:
            return arrival
        if self._pseudonyms is None:
            raise UsageError("Headers of patients are never taken without pseudonyms.")
        header = self._pseudonyms.hide(arrival.header)
        held = self._current_owner(header.identity.instance + arrival.fragment)
        if held not in (None, arrival.source):
            # Include the location, else the two files would replace each other in every ingest.
            place = arrival.source.rpartition("/")[2][:8]
            folder = arrival.source.rpartition("/")[0].rpartition("/")[2][:8]
            identity = replace(
                header.identity,
                instance=f"{header.identity.instance}~{folder}{place}",
                series=f"{header.identity.series}~",
            )
            findings = (*header.findings, "copied_instance")
            header = replace(header, identity=identity, findings=findings)
        arrival = replace(arrival, header=header)
        self._holders[arrival.image_id] = arrival.source
        return arrival

    def _current_owner(self, image_id: str) -> str | None:
        """Return the source that already has an image, unless that source is gone."""
        if image_id in self._holders:
            return self._holders[image_id]
        row = self.known.by_id(image_id)
        if row is None or row.state in (ORPHANED, RETIRED) or self.gone(row.source):
            return None
        return row.source

    def register_stacks(self, metadata: Mapping[str, Sequence[ShardRow]]) -> None:
        """Register new stacks; their metadata are catalogued on first use."""
        self._metadata.update(metadata)

    def add_shard(self, task: ShardTask, record: ShardResult) -> None:
        """Add the result of a shard task."""
        used = False
        for slot, taken in zip(task.plan.slots, record.planes, strict=True):
            used |= self._make_row(task, slot, taken)
        self.report.left -= len(task.plan.slots)
        if used:
            self._files += self._metadata.pop(task.plan.name, ())
            self._files += record.files
        else:
            for row in record.files:  # all planes duplicate stored ones
                self._store.delete(row.path)

    def add_crashed(self, file: SourceFile, slot: PlaneSlot, reason: str, detail: str) -> None:
        """Add a plane that crashes workers when decoded."""
        self._fail(file, slot.arrival.image_id, reason, detail)
        self.report.left -= 1

    def delete_unused_stacks(self) -> None:
        """Delete the unused stacks."""
        for rows in self._metadata.values():
            for row in rows:
                self._store.delete(row.path)
        self._metadata.clear()

    def commit_listing(self, listing: Discovery, gone: Iterable[str]) -> None:
        """Commit the outcome of a complete listing: problems, and returned or missing sources."""
        self.outages.settle()
        for file, problem in listing.problems:
            rows = self.known.by_source(file.source).values()
            if not any(r.state in (READY, FAILED) and r.reason == problem for r in rows):
                self._fail_source(file, problem, None)
        for source in listing.returned:
            for row in self.known.by_source(source).values():
                if row.state == ORPHANED:
                    self._rows.append(replace(row, state=READY, version=row.version + 1))
                    self.report.returned += 1
        for source in list(gone):
            self._retire(source, set())
        self.flush()

    # Rows.

    def _about(self, file: SourceFile) -> dict[str, Any]:
        name, _, path = file.source.partition("/")
        return {
            "fields": self._config.layout_of(name).fields(path),
            "size": file.stat.size,
            "mtime_ns": file.stat.mtime_ns,
            "ctime_ns": file.stat.ctime_ns,
            "ingest": self._ingest,
        }

    def _version(self, source: str, image_id: str) -> int:
        old = self.known.image(source, image_id)
        return 1 if old is None else old.version + 1

    def _fail(self, file: SourceFile, image_id: str, reason: str, detail: str | None) -> None:
        self._rows.append(
            ImageRow(
                image_id=image_id,
                state=FAILED,
                source=file.source,
                version=self._version(file.source, image_id),
                reason=reason,
                detail=detail,
                **self._about(file),
            )
        )
        self._count_failure(image_id, reason)

    def _count_failure(self, image_id: str, reason: str) -> None:
        self.report.failed += 1
        self.report.reasons[reason] += 1
        if self.report.reasons[reason] <= NAMED:
            self.report.failed_first.append({"source": image_id, "reason": reason})

    def _fail_source(self, file: SourceFile, reason: str, detail: str | None) -> None:
        """Record a source that can't be read at all."""
        if self._keep(file, self.known.by_source(file.source).values(), reason, detail):
            return
        self._retire(file.source, {file.source})
        self._fail(file, file.source, reason, detail)

    def _fail_plane(
        self, file: SourceFile, arrival: IncomingPlane, reason: str, detail: str | None
    ) -> None:
        old = self.known.image(arrival.source, arrival.image_id)
        if old is None or not self._keep(file, [old], reason, detail):
            self._fail(file, arrival.image_id, reason, detail)

    def _keep(
        self, file: SourceFile, rows: Iterable[ImageRow], reason: str, detail: str | None
    ) -> bool:
        """Keep images whose source is temporarily unreadable; return whether there are any.

        Their rows record the reason, so that status names them and the next ingest retries.
        """
        kept = [row for row in rows if row.state == READY] if reason in OF_THE_PLACE else []
        for row in kept:
            if row.reason != reason:
                changed = replace(row, reason=reason, detail=detail, version=row.version + 1)
                self._rows.append(changed)
                self.known.add([changed])
            self._count_failure(row.image_id, reason)
        return bool(kept)

    def _retire(self, source: str, kept: set[str]) -> None:
        """Retire or orphan the rows of a source's images that no longer exist."""
        for image_id, row in self.known.by_source(source).items():
            if image_id in kept or row.state in (ORPHANED, RETIRED):
                continue
            if self._holders.get(image_id, source) != source:  # the instance moved to another file
                continue
            state = ORPHANED if row.state == READY else RETIRED
            self._rows.append(replace(row, state=state, version=row.version + 1))
            self.report.orphaned += state == ORPHANED

    def _make_row(self, task: ShardTask, slot: PlaneSlot, taken: PlaneResult) -> bool:
        """Build a plane's row; return whether it uses the newly written pixels."""
        arrival = slot.arrival
        file = task.files[arrival.source]
        if taken.reason is not None:
            note = partial(self._fail_plane, file, arrival, taken.reason, taken.detail)
            self.outages.failed(file, taken.reason, taken.detail, note)
            return False
        self.outages.worked(file)
        if taken.content is None:  # the file changed during the read
            self.report.left += 1
            return False
        image_id = arrival.image_id
        old = self.known.image(arrival.source, image_id)
        original = self.known.by_content(taken.content)
        spacing = arrival.spacing_um or (None, None)
        row = ImageRow(
            image_id=image_id,
            state=READY,
            source=arrival.source,
            version=1 if old is None else old.version + 1,
            content=taken.content,
            channels=arrival.shape[0],
            height=arrival.shape[1],
            width=arrival.shape[2],
            dtype=arrival.dtype,
            spacing_y_um=spacing[0],
            spacing_x_um=spacing[1],
            stack=task.plan.name,
            shard=slot.shard,
            t=slot.t,
            z=slot.z,
            giant=task.plan.kind == "giant",
            noise_sd=taken.noise_sd,
            **{**self._about(file), **header_columns(arrival, task.plan)},
        )
        self.report.findings.update(row.findings)
        if old is None or old.content != taken.content:
            self.report.changed += old is not None
            self.report.new += old is None
            if arrival.header is None:  # else its fields come from the header
                self._match(file.source)
            if original is not None:
                row = of_original(row, original, slot)
                self.report.duplicates += original.image_id != image_id
        elif self.known.lacks_pixels(image_id):
            if original is not None:
                row = of_original(row, original, slot)
            self.report.healed += 1
        else:
            row = copy_location(row, old, old.duplicate_of)
            # A plane read alone yields less of its series than before; a file yields all of it.
            if arrival.header is not None and row.series == old.series:
                row = replace(row, spacing_z_um=old.spacing_z_um, findings=old.findings)
            self.report.touched += 1
        self.repairs.add_candidate(old, row, arrival, file)
        self._rows.append(row)
        self.known.add([row])
        return (row.stack, row.shard) == (task.plan.name, slot.shard)

    def _match(self, source: str) -> None:
        """Count a source whose path the layout does not match."""
        name, _, path = source.partition("/")
        if self._config.layout_of(name).match(path) is None:
            self.report.unmatched += 1
            if len(self.report.unmatched_first) < NAMED:
                self.report.unmatched_first.append(source)

    # Commits.

    def flush(self, *, quietly: bool = False) -> None:
        """Commit the pending rows: shards first, images second.

        Rows stay queued if their commit fails, so no image is ever catalogued without its shards.
        ``quietly`` suppresses store errors, because a more serious error is being raised.
        """
        try:
            self._commit()
        except EngineError:
            if not quietly:
                raise

    def _commit(self) -> None:
        if self._files:
            self._shards_commit(self._files)
            self._forget_removed(self._files)
            self._files = []
            self._tried.clear()
        if self._rows:
            kept = [row for row in self._rows if not self._is_removed(row)]
            if kept:
                self._images_commit(kept)
            self.report.left += len(self._rows) - len(kept)
            self._rows = []

    def _forget_removed(self, files: Sequence[ShardRow]) -> None:
        """Drop shards that gc removed before the commit; the next ingest writes them again.

        gc never deletes referenced files, so check for their existence after the commit.
        """
        with ThreadPoolExecutor(LOOK_THREADS) as threads:
            sizes = threads.map(self._store.size, [row.path for row in files])
            gone = [r for r, size in zip(files, sizes, strict=True) if r.size and size is None]
        publish_repairs(self._store, [ShardRepair(row, None) for row in gone])
        for row in gone:
            self._removed[row.stack].add(row.shard)

    def _is_removed(self, row: ImageRow) -> bool:
        shards = self._removed.get(row.stack, set())
        # Without metadata, or one shard of a giant image, all is lost.
        return bool(shards) and (row.giant or -1 in shards or row.shard in shards)

    def _shards_commit(self, files: Sequence[ShardRow]) -> None:
        def prepare(snapshot: Snapshot) -> tuple[Sequence[Part], Sequence[Part]]:
            # A failed attempt may have been committed nevertheless.
            named = max((self._tried[p] for p in self._tried.keys() & snapshot.by_path), default=0)
            if named == len(files):
                return [], []
            part = self._shards.write_part(shard_table(files[named:]))
            self._tried[part.path] = len(files)
            return [part], []

        commit_with_retry(self._shards, self._shards.snapshot(), prepare)

    def _images_commit(self, rows: Sequence[ImageRow]) -> None:
        first = self._snapshot

        def prepare(snapshot: Snapshot) -> tuple[Sequence[Part], Sequence[Part]]:
            if snapshot is not first:
                self.known.add_concurrent(snapshot)
            # Rebase even without a conflict: an earlier commit may include another ingest's rows.
            left = [row for row in map(self._rebase, rows) if row is not None]
            return ([self._images.write_part(image_table(left))] if left else []), []

        self._snapshot = commit_with_retry(self._images, first, prepare)
        self.known.mark_seen(self._snapshot)

    def _rebase(self, row: ImageRow) -> ImageRow | None:
        """Rebase a row after another ingest's commit, or return None if that committed the same."""
        other = self.known.concurrent_row(row.image_id)
        if other is None or other.version < row.version:
            return row
        same = (other.state, other.content, other.reason) == (row.state, row.content, row.reason)
        return None if same else replace(row, version=other.version + 1)
