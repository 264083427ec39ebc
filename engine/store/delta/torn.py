"""Detection of log files that a power cut tore, as distinct from all other damage.

If a file was named before its bytes were on the disk, a power cut leaves it empty, cut short, or
with blocks of zeros. If the newest entries of a log are torn, their commits are lost and the log
before them is intact. Earlier versions of the engine named entries that early; disks that report a
sync too early still do. A flipped bit never looks like this: it keeps a file's size, and makes at
most one zero byte.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from engine.errors import CorruptStore, MissingObject
from engine.store.backend.base import Store
from engine.store.delta.checkpoints import LAST
from engine.store.delta.entries import last_line
from engine.store.delta.integrity import (
    HEAD,
    PREVIOUS_DIGEST,
    HeadRecord,
    checkpoint_name,
    log_path,
    read_head,
)
from engine.store.digests import digest_bytes

TORN = "a power cut tore"
"""Phrase of messages about torn files."""

REMEDY = "the next cohort ingest, run or qc goes on without it, and so does cohort verify --repair"

ZEROS = bytes(16)
"""Run of zero bytes that no intact file of a log has."""

PARQUET_END = b"PAR1"

FIRST = b'{"commitInfo":{'
"""First bytes of an entry."""

JSON_SLACK = 6
"""Distance from the end of a text, in characters, at which JSON's parser may report an early end:
the length of a literal or an escape."""

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")


def is_torn_entry(data: bytes, version: int) -> bool:
    """Return True if a power cut tore a log entry.

    Examples
    --------
    >>> whole = b'{"commitInfo":{"cohort.previous":""}}' + chr(10).encode() + last_line(3)
    >>> is_torn_entry(whole, 3), is_torn_entry(whole[:-1], 3), is_torn_entry(b"", 3)
    (False, True, True)
    >>> is_torn_entry(whole.replace(b"I", b"H"), 3)
    False
    """
    if _is_blank(data):
        return True
    if version == 0:  # the end of version 0 is not a fixed text
        return _lacks(data, b"}") and _ends_early(data)
    return _lacks(data, last_line(version)) and _is_ours(data) and _ends_early(data)


def is_torn_checkpoint(data: bytes) -> bool:
    """Return True if a power cut tore a checkpoint; an intact one may hold some zeros."""
    return not data.strip(b"\0") or _lacks(data, PARQUET_END)


def is_torn_note(data: bytes) -> bool:
    """Return True if a power cut tore a small JSON file, such as `HEAD` or `LAST`."""
    # Delta ends its file with a newline, the engine does not.
    return _is_blank(data) or (_lacks(data, b"}") and _lacks(data[:-1], b"}"))


def _is_blank(data: bytes) -> bool:
    return not data.strip(b"\0") or ZEROS in data


def _lacks(data: bytes, end: bytes) -> bool:
    """Return True if data end otherwise, by more than one flipped bit."""
    last = data[-len(end) :]
    pairs = zip(last, end, strict=False)
    return len(last) < len(end) or sum((a ^ b).bit_count() for a, b in pairs) > 1


def _is_ours(data: bytes) -> bool:
    """Return True if the first line of an entry, or its remainder, was written by the engine."""
    first, *more = data.split(b"\n", 1)
    if not more:
        return first.startswith(FIRST[: len(first)])
    try:
        return PREVIOUS_DIGEST in json.loads(first)["commitInfo"]
    except (ValueError, KeyError, TypeError):
        return False


def _ends_early(data: bytes) -> bool:
    """Return True if data are a prefix of lines of JSON objects; the last one may be cut."""
    *lines, last = data.split(b"\n")
    try:
        if not all(isinstance(json.loads(line), dict) for line in lines):
            return False
        json.loads(last)
    except json.JSONDecodeError as error:
        text = error.doc
        unended = error.msg.startswith("Unterminated string")
        return text == last.decode(errors="replace") and (
            unended or error.pos >= len(text) - JSON_SLACK
        )
    except UnicodeDecodeError as error:  # cut inside a character
        return error.object == last and error.end == len(last)
    return True


@dataclass(frozen=True, slots=True)
class TornLog:
    """Damage of a ledger's log by a power cut.

    Attributes
    ----------
    whole
        Newest intact entry; -1 if none is intact.
    entries
        Newer entries, all torn; ``gone`` are later ones that the head record names but that do not
        exist.
    checkpoints
        Names of checkpoints that are torn, cover lost entries, or are damaged in another way.
    last, head
        True if the file that names the newest checkpoint, or the head record, is torn or damaged.
    """

    whole: int
    entries: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()
    checkpoints: tuple[str, ...] = ()
    last: bool = False
    head: bool = False

    @property
    def lost(self) -> int:
        """Number of lost commits."""
        return len(self.entries) + len(self.gone)


def examine(store: Store, ledger: str, *, also_gone: bool = False) -> TornLog | None:
    """Return a power cut's damage to a ledger's log, or None if the log is intact.

    Damage of another kind is not reported: a torn entry before an intact one, a missing entry in
    between, bytes that differ.

    Parameters
    ----------
    ledger
        Path of the ledger.
    also_gone
        True if missing newest entries count too, though a person may have removed them, and so
        do damaged files that can be made again: checkpoints, and the head record.
    """
    # An object is written completely, or not at all.
    tears = store.as_local_path(ledger) is not None
    if not (tears or also_gone):
        return None
    folder = f"{ledger}/_delta_log"
    names = {entry.path.rsplit("/", 1)[-1] for entry in store.list(f"{folder}/")}
    versions = {int(m[1]) for name in names if (m := _ENTRY.fullmatch(name))}
    torn: list[int] = []
    for version in sorted(versions, reverse=True):
        if not (tears and is_torn_entry(_read(store, log_path(ledger, version)), version)):
            break
        torn.append(version)
    whole = max(versions - {*torn}, default=-1)
    raw = _read(store, f"{ledger}/{HEAD}", absent=b"{}")
    noted = _noted_version(store, ledger)
    newest = max([whole, *torn])
    gone = range(newest + 1, noted + 1) if torn or (also_gone and versions) else range(0)
    if {*range(whole + 1, newest + 1)} != {*torn} or not _all_there(whole, versions):
        return None
    # If nothing is lost, a newer entry of another writer is not a problem.
    most = whole if torn or gone else sys.maxsize
    bad = {*_torn_checkpoints(store, folder, names, most)}
    recorded = _recorded_checkpoints(store, ledger) if also_gone else {}
    bad |= {name for name in recorded if _digest(store, f"{folder}/{name}") != recorded[name]}
    if LAST in names:
        last = is_torn_note(_read(store, f"{folder}/{LAST}"))
        last |= any(_is_named(store, folder, name) for name in bad)
    else:
        last = bool(recorded)
    unread = raw != b"{}" and _intact_head(store, ledger) is None
    head = is_torn_note(raw) or (also_gone and unread)
    found = TornLog(whole, tuple(sorted(torn)), tuple(gone), tuple(sorted(bad)), last, head)
    return None if found == TornLog(whole) else found


def is_suspect(store: Store, ledger: str) -> bool:
    """Return True if a few small reads suggest that a ledger's log needs to be examined."""
    raw = _read(store, f"{ledger}/{HEAD}", absent=b"")
    if is_torn_note(raw):  # or absent: a writer was killed before its first head record
        return store.size(log_path(ledger, 0)) is not None
    version = _noted_version(store, ledger)
    while store.size(log_path(ledger, version + 1)) is not None:
        version += 1
    if is_torn_entry(_read(store, log_path(ledger, version)), version):
        return True
    last = _read(store, f"{ledger}/_delta_log/{LAST}", absent=b"{}")
    if is_torn_note(last):
        return True
    named = re.search(rb'"version":(\d+)', last)
    if named is None:
        return False
    path = f"{ledger}/_delta_log/{checkpoint_name(int(named[1]))}"
    return is_torn_checkpoint(_read(store, path, absent=PARQUET_END))


def _read(store: Store, path: str, absent: bytes = b"") -> bytes:
    try:
        return store.read(path)
    except MissingObject:
        return absent


def _noted_version(store: Store, ledger: str) -> int:
    head = _intact_head(store, ledger)
    return -1 if head is None else head.version


def _recorded_checkpoints(store: Store, ledger: str) -> Mapping[str, str]:
    head = _intact_head(store, ledger)
    return {} if head is None else head.checkpoints


def _intact_head(store: Store, ledger: str) -> HeadRecord | None:
    with contextlib.suppress(CorruptStore):
        return read_head(store, ledger)
    return None


def _digest(store: Store, path: str) -> str:
    return digest_bytes(_read(store, path))


def _all_there(whole: int, versions: Iterable[int]) -> bool:
    return {*range(whole + 1)} <= {*versions}


def _torn_checkpoints(store: Store, folder: str, names: set[str], most: int) -> Iterable[str]:
    for name in names:
        if match := _CHECKPOINT.fullmatch(name):
            ahead = int(match[1]) > most
            if ahead or is_torn_checkpoint(_read(store, f"{folder}/{name}")):
                yield name


def _is_named(store: Store, folder: str, checkpoint: str) -> bool:
    last = _read(store, f"{folder}/{LAST}")
    return f'"version":{int(checkpoint.split(".", 1)[0])}'.encode() in last.replace(b" ", b"")
