"""Repair of ledgers with torn or missing newest log entries: continue from the last intact entry.

Only the commits of these entries are lost: the next ingest takes their images again, and the next
run computes their results again. Tables made from lost commits stay readable, and are made again,
too. If a repair is interrupted, the next one completes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from engine.errors import CorruptStore
from engine.record import Record
from engine.store.backend.base import Store
from engine.store.catalog.annotations import PATH as ANNOTATIONS
from engine.store.catalog.tables import images_ledger, shards_ledger
from engine.store.delta.checkpoints import LAST, write_checkpoint
from engine.store.delta.integrity import (
    HEAD,
    HeadRecord,
    commit_info,
    log_path,
    parse_head,
    read_head,
    record_head,
)
from engine.store.delta.torn import TornLog, examine, is_suspect, is_torn_entry
from engine.store.digests import digest_bytes
from engine.store.maintenance.unreferenced import all_ledgers
from engine.store.tables import outdate_tables


@dataclass(frozen=True, slots=True)
class Repaired(Record):
    """Report of a ledger's repair.

    Attributes
    ----------
    ledger
        Path of the ledger.
    commits
        Number of lost commits.
    missing
        Number of those whose log entries are missing; the others are torn.
    since
        Time of the newest remaining commit, in UTC; None if none remains.
    files
        Names of the torn files of the log, each removed or rebuilt.
    tables
        Names of the tables that the next run makes again.
    """

    ledger: str
    commits: int
    missing: int
    since: str | None
    files: tuple[str, ...]
    tables: tuple[str, ...]

    def __str__(self) -> str:
        if not self.commits:
            return f"{self.ledger}: repaired {', '.join(self.files)}; nothing was lost."
        torn, since = self.commits - self.missing, f" made after {self.since} UTC"
        causes = [f"a power cut tore {_commits(torn)}"] if torn else []
        if self.missing:
            causes.append(f"no log entry is left of {_commits(self.missing)}")
        lost = " and ".join(causes) + ("" if self.since is None else since)
        again = "what they held is taken or computed again by the next ingest and run"
        return f"{self.ledger}: {lost}; the log goes on without them: {again}."


def _commits(count: int) -> str:
    return f"{count} commit{'s' if count > 1 else ''}"


def repair_ledgers(store: Store, *, also_gone: bool = False) -> list[Repaired]:
    """Repair the ledgers of a cohort that a power cut tore.

    In an object store, where no object is ever torn, only ``also_gone`` examines anything.

    Parameters
    ----------
    also_gone
        True to examine all files of the logs, to continue also from logs with missing newest
        entries, and to make damaged checkpoints again; otherwise a few small reads decide whether
        a repair is needed.

    Raises
    ------
    StoreFull, StoreReadOnly
    """
    found = []
    for ledger in _ledgers_there(store, also_gone):
        if also_gone or is_suspect(store, ledger):
            done = _repair(store, ledger, also_gone)
            if done is not None:
                found.append(done)
    return found


def _ledgers_there(store: Store, also_gone: bool) -> Iterator[str]:
    """Yield the paths of the ledgers to examine, the catalog's first."""
    place = store.as_local_path("")
    if place is None:
        yield from (ledger.path for ledger in all_ledgers(store) if also_gone)
        return
    for ledger in ("catalog/images", "catalog/shards", ANNOTATIONS):
        if (place / ledger / "_delta_log").is_dir():
            yield ledger
    for log in sorted(place.glob("results/*/v*/_delta_log")):
        yield log.parent.relative_to(place).as_posix()


def _repair(store: Store, ledger: str, also_gone: bool) -> Repaired | None:
    torn = examine(store, ledger, also_gone=also_gone)
    if torn is None:
        return None
    tables: list[str] = []
    if torn.lost:
        tables = outdate_tables(store, lambda origin: _made_of(origin, ledger) > torn.whole)
    if torn.whole < 0:
        _begin_again(store, ledger)
    # Each step examines the log again, and holds a lock against other repairs: entries that another
    # process repaired, or committed since, stay.
    note = f"{ledger}/{HEAD}"
    # Cut the head record before the entries: a record ahead of the log would block the ledger.
    store.update(note, lambda raw: _cut_note(store, ledger, raw, also_gone))
    store.update(note, lambda raw: _remove_torn(store, ledger, torn, raw))
    if (torn.last or torn.checkpoints) and torn.whole >= 0:
        head = read_head(store, ledger)
        write_checkpoint(store, ledger, torn.whole, {} if head is None else head.checkpoints)
        record_head(store, ledger, torn.whole)
    return Repaired(
        ledger,
        torn.lost,
        len(torn.gone),
        _time_of(store, ledger, torn.whole),
        _files(ledger, torn),
        tuple(tables),
    )


def _begin_again(store: Store, ledger: str) -> None:
    """Replace a torn first entry of the catalog's ledgers; other ledgers are created on demand."""
    known = {one.path: one for one in (images_ledger(store), shards_ledger(store))}
    if ledger not in known:
        return
    first = known[ledger].first_entry()

    def begin(there: bytes | None) -> bytes | None:
        return first if there is not None and is_torn_entry(there, 0) else None

    store.update(log_path(ledger, 0), begin)


def _cut_note(store: Store, ledger: str, raw: bytes | None, also_gone: bool) -> bytes | None:
    """Return the head record for the newest intact entry."""
    torn = examine(store, ledger, also_gone=also_gone)
    if torn is None:
        return None
    if torn.whole < 0:
        store.delete(f"{ledger}/{HEAD}")
        return None
    checkpoints: dict[str, str] = {}
    repaired = torn.lost > 0
    if raw is not None:
        with contextlib.suppress(CorruptStore):
            old = parse_head(raw, HEAD)
            checkpoints |= old.checkpoints
            repaired |= old.repaired
    for name in torn.checkpoints:
        checkpoints.pop(name, None)
    entry = store.read(log_path(ledger, torn.whole))
    return HeadRecord(torn.whole, digest_bytes(entry), checkpoints, repaired).as_bytes()


def _remove_torn(store: Store, ledger: str, found: TornLog, raw: bytes | None) -> None:
    """Remove the found checkpoints that the head record no longer names, and torn entries."""
    log = f"{ledger}/_delta_log"
    kept = {} if raw is None else parse_head(raw, HEAD).checkpoints
    for name in ((LAST,) if found.last else ()) + found.checkpoints:
        if name not in kept:
            store.delete(f"{log}/{name}")
    torn = examine(store, ledger)
    for version in reversed(() if torn is None else torn.entries):  # so none is missing in between
        store.delete(log_path(ledger, version))


def _files(ledger: str, torn: TornLog) -> tuple[str, ...]:
    names = [log_path("", version).rsplit("/", 1)[-1] for version in torn.entries]
    names += [*torn.checkpoints, *([LAST] if torn.last else []), *([HEAD] if torn.head else [])]
    return tuple(names)


def _time_of(store: Store, ledger: str, version: int) -> str | None:
    if version < 0:
        return None
    path = log_path(ledger, version)
    made_s = float(commit_info(store.read(path), path)["timestamp"]) / 1000
    return datetime.fromtimestamp(made_s, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _made_of(origin: Mapping[str, Any], ledger: str) -> int:
    """Return the version of a ledger that a table was made from, or -1."""
    of = {
        "catalog/images": "catalog",
        ANNOTATIONS: "annotations",
        f"results/{origin.get('operation')}/v{origin.get('version')}": "results",
    }
    return int(origin.get(of.get(ledger, ""), -1))
