"""The head of a ledger's log: what tells that its newest entry, or a checkpoint, was changed.

Each log entry holds the digest of the one before it and of all parts that it leaves visible
(``cohort.state``), so that whatever a reader sees of a ledger is checked against its newest entry.
Bytes of the newest entry that mean nothing to a reader (times, names of libraries), and its loss,
are caught by a note beside the log, written after each commit. A writer killed in between leaves
an older note, which is valid: it must only never be ahead of the log.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from engine.errors import CorruptStore, EngineError, MissingObject
from engine.store.digests import digest_bytes, digest_of
from engine.store.root.base import Root

if TYPE_CHECKING:
    from engine.store.delta.parts import Part

CHAIN = "cohort.previous"
"""Name, in a commit's metadata, of the digest of the log entry before it."""

STATE = "cohort.state"
"""Name, in a commit's metadata, of the digest of all parts that are visible after it."""

HEAD = "_head.json"


@dataclass(frozen=True, slots=True)
class Head:
    """What the note says: the newest entry that its writer saw, and the checkpoints' digests."""

    version: int
    digest: str
    checkpoints: Mapping[str, str] = field(default_factory=dict)

    def as_bytes(self) -> bytes:
        """Return the note's file, the same bytes for the same note."""
        values = {
            "version": self.version,
            "digest": self.digest,
            "checkpoints": dict(sorted(self.checkpoints.items())),
        }
        return json.dumps({**values, "check": digest_of(values)}).encode()


def log_path(ledger: str, version: int) -> str:
    """Return the path of a log entry."""
    return f"{ledger}/_delta_log/{version:020d}.json"


def checkpoint_name(version: int) -> str:
    """Return the file name of the checkpoint of a version."""
    return f"{version:020d}.checkpoint.parquet"


def state_digest(parts: Iterable[Part]) -> str:
    """Return the digest of all that a ledger says of its parts, in any order."""
    lines = sorted(
        json.dumps([part.path, part.size, part.rows, part.key, part.low, part.high])
        for part in parts
    )
    return digest_bytes("\n".join(lines).encode())


def parse_head(raw: bytes, path: str) -> Head:
    """Check and return a note.

    Raises
    ------
    CorruptStore
        If it has not the bytes that the engine wrote.
    """
    try:
        values = json.loads(raw)
        head = Head(int(values["version"]), str(values["digest"]), dict(values["checkpoints"]))
    except (ValueError, KeyError, TypeError):
        head = None
    if head is None or head.as_bytes() != raw:
        raise CorruptStore(path, "is not what the engine wrote; without it the log still counts")
    return head


def read_head(root: Root, ledger: str) -> Head | None:
    """Return the note of a ledger, or None where none was written yet."""
    path = f"{ledger}/{HEAD}"
    try:
        return parse_head(root.read(path), path)
    except MissingObject:
        return None


def note_head(root: Root, ledger: str, version: int) -> None:
    """Note a version that was just committed, unless a newer one is noted.

    A note that can't be written (no room) is left: the commit stands, and an older note is valid.
    """
    name = checkpoint_name(version)

    def change(raw: bytes | None) -> bytes | None:
        old = None if raw is None else parse_head(raw, f"{ledger}/{HEAD}")
        checkpoints = dict(old.checkpoints) if old is not None else {}
        with contextlib.suppress(MissingObject):
            checkpoints[name] = digest_bytes(root.read(f"{ledger}/_delta_log/{name}"))
        if old is not None and old.version >= version:
            kept = Head(old.version, old.digest, checkpoints)
            return None if kept == old else kept.as_bytes()
        entry = root.read(log_path(ledger, version))
        return Head(version, digest_bytes(entry), checkpoints).as_bytes()

    with contextlib.suppress(EngineError):
        root.update(f"{ledger}/{HEAD}", change)


def actions(entry: bytes) -> Iterator[dict[str, Any]]:
    """Yield the actions of a log entry, one JSON object a line.

    Bytes are split and not text: text has a dozen more ends of lines (U+0085, U+2028), and JSON
    keeps those inside strings as they are, so that one in an image's name would end the line.

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
        If the entry is not lines of JSON, one of which holds them.
    """
    try:
        (info,) = (
            dict(action["commitInfo"]) for action in actions(entry) if "commitInfo" in action
        )
    except (ValueError, TypeError):
        raise CorruptStore(path, "is not a log entry as it was written") from None
    return info


def check_newest(
    ledger: str, head: Head | None, version: int, entry: bytes, parts: Iterable[Part] | None
) -> None:
    """Check the newest entry of a log, and the parts that it leaves visible.

    Parameters
    ----------
    ledger
        Path of the ledger.
    head
        The note, read before the log was.
    version, entry
        The newest version and its entry.
    parts
        The parts that the log makes visible, or None where only the entry is in question.

    Raises
    ------
    CorruptStore
        If entries are gone, or the entry or what it stands for is not as it was committed.
    """
    path = log_path(ledger, version)
    if head is not None and head.version > version:
        text = "its newest entries are gone; cohort verify --repair goes on without them"
        raise CorruptStore(f"{ledger}/_delta_log", text)
    if head is not None and head.version == version and head.digest != digest_bytes(entry):
        raise CorruptStore(path, "its bytes do not match the digest that was noted")
    # Version 0 only creates the ledger: no parts, and no state was written.
    if parts is None or version == 0:
        return
    if commit_info(entry, path).get(STATE) != state_digest(parts):
        raise CorruptStore(
            f"{ledger}/_delta_log", "the parts that it names are not those that were committed"
        )
