"""Integrity checks of a ledger's newest log entry and of its checkpoints.

Each log entry holds the digest of the previous entry and of all parts that are visible after it
(``cohort.state``), so a reader checks all that it sees of a ledger against the newest entry. A head
record beside the log, written after each commit, detects the loss of the newest entry, and changes
to those of its bytes that readers ignore (times, names of libraries). A writer killed before that
leaves an older head record, which is valid: it must never be ahead of the log.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from engine.errors import CorruptStore, EngineError, MissingObject
from engine.store.backend.base import Store
from engine.store.digests import digest_bytes
from engine.store.sealed_json import seal, unseal

if TYPE_CHECKING:
    from engine.store.delta.parts import Part

PREVIOUS_DIGEST = "cohort.previous"
"""Key, in a commit's metadata, of the previous log entry's digest."""

STATE_DIGEST = "cohort.state"
"""Key, in a commit's metadata, of the digest of all parts visible after the commit."""

HEAD = "_head.json"


@dataclass(frozen=True, slots=True)
class HeadRecord:
    """Head record: the newest entry that its writer saw, and the digests of the checkpoints.

    ``repaired`` is True if a repair has taken commits out of the log.
    """

    version: int
    digest: str
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    repaired: bool = False

    def as_bytes(self) -> bytes:
        """Return the bytes of the head record's file, equal for equal records."""
        values: dict[str, Any] = {
            "version": self.version,
            "digest": self.digest,
            "checkpoints": dict(sorted(self.checkpoints.items())),
        }
        if self.repaired:
            values["repaired"] = True
        return seal(values)


def log_path(ledger: str, version: int) -> str:
    """Return the path of a log entry."""
    return f"{ledger}/_delta_log/{version:020d}.json"


def checkpoint_name(version: int) -> str:
    """Return the file name of the checkpoint of a version."""
    return f"{version:020d}.checkpoint.parquet"


def state_digest(parts: Iterable[Part]) -> str:
    """Return the digest of a ledger's parts, independent of their order."""
    lines = sorted(
        json.dumps([part.path, part.size, part.rows, part.key, part.low, part.high])
        for part in parts
    )
    return digest_bytes("\n".join(lines).encode())


def parse_head(raw: bytes, path: str) -> HeadRecord:
    """Parse and check a head record.

    Raises
    ------
    CorruptStore
        If its bytes differ from those that the engine writes.
    """
    problem = "is not what the engine wrote; without it the log still counts"
    return unseal(raw, path, lambda values: HeadRecord(**values), problem=problem)


def read_head(store: Store, ledger: str) -> HeadRecord | None:
    """Return the head record of a ledger, or None if none exists yet."""
    path = f"{ledger}/{HEAD}"
    try:
        return parse_head(store.read(path), path)
    except MissingObject:
        return None


def record_head(store: Store, ledger: str, version: int) -> None:
    """Record a newly committed version as the head, unless a newer one is recorded.

    A failed write (e.g. a full disk) is ignored: the commit is valid, and so is an older record.
    """
    name = checkpoint_name(version)

    def change(raw: bytes | None) -> bytes | None:
        old = None if raw is None else parse_head(raw, f"{ledger}/{HEAD}")
        checkpoints = dict(old.checkpoints) if old is not None else {}
        with contextlib.suppress(MissingObject):
            checkpoints[name] = digest_bytes(store.read(f"{ledger}/_delta_log/{name}"))
        if old is not None and old.version >= version:
            kept = replace(old, checkpoints=checkpoints)
            return None if kept == old else kept.as_bytes()
        entry = store.read(log_path(ledger, version))
        repaired = old is not None and old.repaired
        return HeadRecord(version, digest_bytes(entry), checkpoints, repaired).as_bytes()

    with contextlib.suppress(EngineError):
        store.update(f"{ledger}/{HEAD}", change)


def actions(entry: bytes) -> Iterator[dict[str, Any]]:
    """Yield the actions of a log entry, one JSON object a line.

    Split bytes, not text: text has a dozen more line ends (U+0085, U+2028). JSON keeps these
    unescaped inside strings, so one in an image's name would split its line.

    Raises
    ------
    ValueError
        At the first line that is not JSON.
    """
    for line in entry.splitlines():
        if line:
            yield json.loads(line)


def commit_info(entry: bytes, path: str) -> dict[str, Any]:
    """Return the metadata of a log entry.

    Raises
    ------
    CorruptStore
        If the entry is not lines of JSON, or not exactly one of them holds the metadata.
    """
    try:
        (info,) = (
            dict(action["commitInfo"]) for action in actions(entry) if "commitInfo" in action
        )
    except (ValueError, TypeError):
        raise CorruptStore(path, "is not a log entry as it was written") from None
    return info


def verify_head(
    ledger: str, head: HeadRecord | None, version: int, entry: bytes, parts: Iterable[Part] | None
) -> None:
    """Check the newest entry of a log, and the parts visible after it.

    Parameters
    ----------
    ledger
        Path of the ledger.
    head
        The head record, read before the log.
    version, entry
        The newest version and its entry.
    parts
        The parts visible in the log, or None to check only the entry.

    Raises
    ------
    CorruptStore
        If entries are missing, or the entry or the parts differ from the commit.
    """
    path = log_path(ledger, version)
    if head is not None and head.version > version:
        text = "its newest entries are gone; cohort verify --repair goes on without them"
        raise CorruptStore(f"{ledger}/_delta_log", text)
    if head is not None and head.version == version and head.digest != digest_bytes(entry):
        raise CorruptStore(path, "its bytes do not match the recorded digest")
    # Version 0 only creates the ledger: it has no parts and holds no state.
    if parts is None or version == 0:
        return
    if commit_info(entry, path).get(STATE_DIGEST) != state_digest(parts):
        raise CorruptStore(f"{ledger}/_delta_log", "its parts differ from the committed ones")
