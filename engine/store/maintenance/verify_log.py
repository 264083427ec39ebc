"""Check a ledger's log: all entries, their chain, the checkpoints, and the resulting state."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from engine.errors import CorruptStore
from engine.store.backend.base import Store
from engine.store.delta.checkpoints import LAST
from engine.store.delta.integrity import (
    HEAD,
    PREVIOUS_DIGEST,
    HeadRecord,
    checkpoint_name,
    commit_info,
    log_path,
    read_head,
    verify_head,
)
from engine.store.delta.ledger import Ledger, Snapshot
from engine.store.delta.torn import REMEDY, TORN, TornLog, examine
from engine.store.digests import digest_bytes
from engine.store.maintenance.problems import (
    CORRUPT,
    INCONSISTENT,
    MISSING,
    Problem,
    problem_from_error,
    report_errors,
)
from engine.store.parquet import read_parquet

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")


def check_log(ledger: Ledger, snapshot: Snapshot | None) -> Iterator[Problem]:
    """Yield the problems of a ledger's log, from its first entry to the snapshot's.

    Parameters
    ----------
    snapshot
        Snapshot as read by the engine, or None if it refuses to read; later entries belong to
        another writer, and are checked next time.
    """
    folder = f"{ledger.path}/_delta_log"
    head = None
    unread: Problem | None = None
    try:
        head = read_head(ledger.store, ledger.path)
    except CorruptStore as error:
        unread = problem_from_error(error, folder)
    names = {entry.path.rsplit("/", 1)[-1] for entry in ledger.store.list(f"{folder}/")}
    newest = max((int(m[1]) for name in names if (m := _ENTRY.fullmatch(name))), default=-1)
    torn = examine(ledger.store, ledger.path)
    yield from _torn(ledger.path, torn)
    if unread is not None and (torn is None or not torn.head):
        yield unread
    if torn is not None and torn.lost:
        newest = torn.whole
        head = None  # it refers to lost entries
    if snapshot is not None:
        newest = snapshot.version
        # The head record may be ahead of the snapshot, if another writer came in between.
        head = head if head is not None and head.version <= newest else None
    live: set[str] = set()
    previous: str | None = None
    for version in range(newest + 1):
        path = log_path(ledger.path, version)
        if path.rsplit("/", 1)[-1] not in names:
            yield Problem(path, MISSING, "is not there, though later entries are")
            previous = None
            continue
        data = ledger.store.read(path)
        yield from report_errors(path, partial(_entry, ledger, version, data, previous))
        if version == newest:
            yield from report_errors(path, partial(_newest, ledger, head, version, data))
        _replay(data, live)
        previous = digest_bytes(data)
    if snapshot is not None and live != set(snapshot.by_path):
        text = "its entries add up to other parts than the engine's reader sees"
        yield Problem(folder, INCONSISTENT, text)
    named = () if torn is None else (*torn.checkpoints, *([LAST] if torn.last else []))
    yield from _checkpoints(ledger, head, newest, names, {*named})


def _torn(path: str, torn: TornLog | None) -> Iterator[Problem]:
    """Yield a power cut's damage, and the commits lost by it."""
    if torn is None:
        return
    for version in torn.entries:
        text = f"{TORN} it, and the commit that it was is lost; {REMEDY}"
        yield Problem(log_path(path, version), CORRUPT, text)
    for version in torn.gone:
        text = f"is not there, after entries that {TORN}; {REMEDY}"
        yield Problem(log_path(path, version), MISSING, text)
    made_again = [f"_delta_log/{name}" for name in torn.checkpoints]
    made_again += ["_delta_log/" + LAST] if torn.last else []
    made_again += [HEAD] if torn.head else []
    for name in made_again:
        text = f"{TORN} it; the next cohort ingest, run or qc makes it again"
        yield Problem(f"{path}/{name}", CORRUPT, text)


def _newest(
    ledger: Ledger, head: HeadRecord | None, version: int, data: bytes
) -> Iterator[Problem]:
    verify_head(ledger.path, head, version, data, None)
    yield from ()


def _entry(ledger: Ledger, version: int, data: bytes, previous: str | None) -> Iterator[Problem]:
    """Check one entry; ``previous`` is the digest of the previous entry, or None if unknown."""
    path = log_path(ledger.path, version)
    chain = commit_info(data, path).get(PREVIOUS_DIGEST)
    if version == 0:
        return
    if not isinstance(chain, str):
        raise CorruptStore(path, "holds no digest of the entry before it")
    if previous is not None and chain != previous:
        before = log_path(ledger.path, version - 1)
        text = f"its bytes do not match the digest in {path.rsplit('/', 1)[-1]}"
        yield Problem(before, CORRUPT, text)


def _actions(data: bytes) -> Iterator[Mapping[str, Any]]:
    for line in data.splitlines():
        try:
            action = json.loads(line)
        except ValueError:
            continue  # reported by `_entry`
        if isinstance(action, dict):
            yield action


def _replay(data: bytes, live: set[str]) -> None:
    for action in _actions(data):
        for verb, change in (("add", live.add), ("remove", live.discard)):
            if isinstance(action.get(verb), dict):
                change(str(action[verb].get("path")))


def _checkpoints(
    ledger: Ledger, head: HeadRecord | None, newest: int, names: set[str], named: set[str]
) -> Iterator[Problem]:
    """Check the checkpoints: their recorded digests, and that they can be read.

    Problems of those in ``named`` are already reported.
    """
    noted = dict(head.checkpoints) if head is not None else {}
    there = {name for name in names - named if _CHECKPOINT.fullmatch(name)}
    for name in sorted(set(noted) - there - named):
        yield Problem(f"{ledger.path}/_delta_log/{name}", MISSING, "is not there")
    facts: dict[str, dict[str, int]] = {}
    for name in sorted(there):
        path = f"{ledger.path}/_delta_log/{name}"

        def check(name: str = name, path: str = path) -> Iterator[Problem]:
            data = ledger.store.read(path)
            if name in noted and digest_bytes(data) != noted[name]:
                raise CorruptStore(path, "its bytes do not match the recorded digest")
            adds = read_parquet(data, ["add"])["add"]
            added = len(adds) - adds.null_count
            facts[name] = {"size": len(adds), "sizeInBytes": len(data), "numOfAddFiles": added}
            yield from ()

        yield from report_errors(path, check)
    if LAST not in named and (LAST in names or (noted and there)):
        path = f"{ledger.path}/_delta_log/{LAST}"
        yield from report_errors(path, lambda: _last_checkpoint(ledger, path, newest, facts))


def _last_checkpoint(
    ledger: Ledger, path: str, newest: int, facts: Mapping[str, Mapping[str, int]]
) -> Iterator[Problem]:
    values = json.loads(ledger.store.read(path))
    version = int(values.pop("version"))
    known = facts.get(checkpoint_name(version))
    if version > newest or known is None:
        text = f"names the checkpoint of version {version}, which is not there or broken"
        yield Problem(path, INCONSISTENT, text)
    elif values != known:
        yield Problem(path, CORRUPT, "does not match the checkpoint")


def key_changed_since(
    store: Store, ledger: str, key: str | None, version: int, newest: int
) -> bool:
    """Return True if a ledger's parts of one key (None: any) changed after a version.

    Parameters
    ----------
    ledger
        Path of the ledger.
    version, newest
        Entries after ``version`` up to ``newest`` are read.

    Raises
    ------
    MissingObject, CorruptStore
    """
    if version < newest and key is None:
        return True
    folder = f"key={key}/"
    for number in range(version + 1, newest + 1):
        path = log_path(ledger, number)
        data = store.read(path)
        commit_info(data, path)
        changed: set[str] = set()
        for action in _actions(data):
            for verb in ("add", "remove"):
                if isinstance(action.get(verb), dict):
                    changed.add(str(action[verb].get("path")))
        if any(name.startswith(folder) for name in changed):
            return True
    return False
