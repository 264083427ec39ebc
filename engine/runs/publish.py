"""Publication: durable parts become visible exactly once, by compare-and-swap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from engine.errors import EngineError, MissingObject
from engine.runs.retry_pixels import failed_on_pixels
from engine.runs.worker import RowId, UnitResult
from engine.store.arrow import make_table
from engine.store.catalog.tables import absent, commit_with_retry
from engine.store.delta.ledger import Ledger, Snapshot
from engine.store.delta.parts import Part
from engine.store.delta.schema_check import check_schema
from engine.store.labels.publisher import LabelPublisher
from engine.store.results import DONE, FAILED, PLANNED


@dataclass(frozen=True, slots=True)
class Pending:
    """A part that waits for a commit, and its rows."""

    record: UnitResult
    rows: tuple[RowId, ...]

    @property
    def statuses(self) -> dict[RowId, str]:
        """Status of each row of the part."""
        failed = dict(self.record.failed)
        return {row: FAILED if row in failed else DONE for row in self.rows}


class Publisher:
    """Committer of the parts of one key of one ledger.

    After a conflict, the commit is retried without the rows that the other driver published, so two
    drivers of the same work leave one set of rows. A row that replaces an older one (a retried
    image) does so in the same commit: the old part is rewritten without it.

    Parameters
    ----------
    ledger, key
        Destination of the rows.
    snapshot
        Snapshot of the ledger that the plan was made from.

    Attributes
    ----------
    labels
        Publisher of label images. Labels are published before rows, so every visible row has its
        labels.
    lost
        Rows that failed on missing or corrupt pixels.
    gone
        Missing parts of the key. Their rows are lost, so the images are computed again.

    Raises
    ------
    ColumnsChanged, CorruptStore
        If the ledger has another schema; the run stops before it computes unpublishable results.
    """

    def __init__(self, ledger: Ledger, key: str, snapshot: Snapshot) -> None:
        check_schema(ledger)
        self._ledger = ledger
        self._key = key
        self.snapshot = snapshot
        self.labels: LabelPublisher | None = None
        self.lost: set[RowId] = set()
        self.gone: list[Part] = []
        self._pending: list[Pending] = []
        self._place: dict[RowId, Part] = {}
        self._status: dict[RowId, str] = {}
        self._seen: set[str] = set()
        # rows of the parts that this run wrote, by path
        self._own_rows: dict[str, dict[RowId, str]] = {}
        self._labelled: set[str] = set()  # unpublished parts whose labels are published
        self._published: set[RowId] = set()
        self.rows_published = 0
        self.failures_published = 0
        self._update_from(snapshot)
        self._published.clear()  # rows present at planning may be replaced by this run

    def _update_from(self, snapshot: Snapshot) -> None:
        """Add the rows of new parts; rows published since planning are not published again."""
        for part in snapshot.of_key(self._key):
            if part.path in self._seen:
                continue
            self._seen.add(part.path)
            told = self._own_rows.pop(part.path, None)
            try:
                found = self._statuses(part) if told is None else told
            except MissingObject:
                self.gone.append(part)
                continue
            for row, status in found.items():
                if told is not None or self._status.get(row) != status:
                    self._published.add(row)
                self._place[row] = part
                self._status[row] = status

    def _statuses(self, part: Part) -> dict[RowId, str]:
        rows = self._ledger.read_part(part, (*PLANNED.names, "reason"))
        self.lost.update(failed_on_pixels(rows))
        *ids, statuses = (rows[name].to_pylist() for name in PLANNED.names)
        return dict(zip(zip(*ids, strict=True), statuses, strict=True))

    def planned(self) -> pa.Table:
        """Return the key's rows in the form that a plan reads."""
        ids = list(self._status)
        columns: dict[str, list[Any]] = {
            "image_id": [image_id for image_id, _, _ in ids],
            "inputs": [inputs for _, inputs, _ in ids],
            "block": [block for _, _, block in ids],
            "status": [*self._status.values()],
        }
        return make_table(columns, PLANNED)

    def parts_of(self, rows: Iterable[RowId]) -> dict[RowId, Part]:
        """Return the part that holds each row."""
        return {row: self._place[row] for row in rows}

    def add(self, pending: Pending) -> None:
        """Queue a part that a worker wrote."""
        self._pending.append(pending)
        self._own_rows[pending.record.part.path] = pending.statuses

    def flush(self, *, quietly: bool = False) -> None:
        """Commit the queued parts.

        Parameters
        ----------
        quietly
            Whether to suppress store errors, because a more serious error is being raised.
        """
        if not self._pending:
            return
        try:
            self._commit(self._pending)
        except EngineError:  # the parts stay queued: the next flush commits them
            if not quietly:
                raise
        else:
            self._pending = []
            self._labelled.clear()

    def _commit(self, pending: list[Pending]) -> None:
        def prepare(snapshot: Snapshot) -> tuple[Sequence[Part], Sequence[Part]]:
            self._update_from(snapshot)
            if snapshot is not first:  # gc may have removed parts before the retry
                self._drop_removed(pending)
            added: list[Part] = []
            replaced: dict[str, set[RowId]] = {}
            for waiting in pending:
                left = [row for row in waiting.rows if row not in self._published]
                if not left:
                    continue
                whole = len(left) == len(waiting.rows)
                part = waiting.record.part
                added.append(part if whole else self._rewritten(part, set(left)))
                for row in left:
                    old = self._place.get(row)
                    if old is not None and old.path in snapshot.by_path:
                        replaced.setdefault(old.path, set()).add(row)
            removed = [snapshot.by_path[path] for path in replaced]
            rest = [self._rest(part, replaced[part.path]) for part in removed]
            # Include rows of an attempt that raised an error although its commit succeeded.
            mine = {w.record.part.path: w for w in pending}
            fresh[:] = [
                row
                for path, w in mine.items()
                for row in w.rows
                if row not in self._published or self._place[row].path == path
            ]
            return [*added, *(part for part in rest if part is not None)], removed

        first = self.snapshot
        if self.labels is not None:
            self._drop_unlabelled(pending)
            due = [w.record for w in pending if w.record.part.path not in self._labelled]
            self.labels.publish([part for record in due for part in record.labels])
            self._labelled.update(record.part.path for record in due)
        fresh: list[RowId] = []
        self.snapshot = commit_with_retry(self._ledger, self.snapshot, prepare)
        self._update_from(self.snapshot)
        self._published.update(fresh)
        self.rows_published += len(fresh)
        self.failures_published += sum(self._status[row] == FAILED for row in fresh)

    def _drop_removed(self, pending: list[Pending]) -> None:
        """Drop parts that gc removed before the commit; their rows then count as missing."""
        gone = {part.path for part in absent(self._ledger, [w.record.part for w in pending])}
        self._drop(pending, gone)

    def _drop_unlabelled(self, pending: list[Pending]) -> None:
        """Drop parts whose staged labels gc removed before publication."""
        store = self._ledger.store
        due = [w.record for w in pending if w.record.part.path not in self._labelled]
        gone = {
            r.part.path for r in due if any(store.size(p.staged_path) is None for p in r.labels)
        }
        self._drop(pending, gone)

    def _drop(self, pending: list[Pending], gone: set[str]) -> None:
        pending[:] = [waiting for waiting in pending if waiting.record.part.path not in gone]
        for path in gone:
            self._own_rows.pop(path, None)

    def forget_gone(self) -> None:
        """Remove missing parts from the ledger."""

        def prepare(snapshot: Snapshot) -> tuple[Sequence[Part], Sequence[Part]]:
            self._update_from(snapshot)
            return [], [part for part in self.gone if part.path in snapshot.by_path]

        self.snapshot = commit_with_retry(self._ledger, self.snapshot, prepare)
        self._update_from(self.snapshot)
        self.gone.clear()

    def _rest(self, part: Part, gone: set[RowId]) -> Part | None:
        """Rewrite a committed part without the replaced rows."""
        left = self._statuses(part).keys() - gone
        return self._rewritten(part, left) if left else None

    def _rewritten(self, part: Part, kept: set[RowId]) -> Part:
        rows = self._ledger.read_part(part)
        names = ("image_id", "inputs", "block")
        ids = zip(*(rows[name].to_pylist() for name in names), strict=True)
        return self._ledger.write_part(rows.filter(pa.array([i in kept for i in ids])), self._key)

    def finish(self) -> None:
        """Commit the queued parts and clean up."""
        self.flush()
        if self.labels is not None:
            self.labels.finish()

    def all_published(self, rows: Iterable[RowId]) -> bool:
        """Return whether all of these rows were published since planning."""
        return all(row in self._published for row in rows)

    def done(self, row: RowId) -> bool:
        """Return whether the ledger, as last read, has a result for a row."""
        return self._status.get(row) == DONE

    def count_missing(self, wanted: Iterable[RowId]) -> int:
        """Return how many rows are missing from the ledger."""
        rows = set(wanted)
        if not rows <= self._status.keys():  # read again: another driver may have published them
            self.snapshot = self._ledger.snapshot()
            self._update_from(self.snapshot)
        return len(rows - self._status.keys())
