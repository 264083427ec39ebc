"""Records that hold a digest of themselves: their bytes on disk, and any damage to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import CorruptStore
from engine.store.backend.local import LocalStore
from engine.store.config import CohortIdentity, read_identity
from engine.store.delta.integrity import HeadRecord, parse_head
from engine.store.sealed_json import seal
from engine.store.tables import TableRecord, parse_record

HEAD = (
    b'{"version": 3, "digest": "d", "checkpoints": {"a": "1", "b": "2"}, '
    b'"check": "3681b0850843229cedef0cc7e1c0632e"}'
)
REPAIRED = (
    b'{"version": 4, "digest": "d", "checkpoints": {}, "repaired": true, '
    b'"check": "e2074a1495ccf0c11a586a763ce43c33"}'
)
NOTE = (
    b'{"digests": ["\\u00e9"], "origin": {"catalog": 1}, "coming": [["e", {"catalog": 2}]], '
    b'"check": "177ac50507b918fa872f29ae1ab923da"}'
)
IDENTITY = (
    b'{\n  "format": 1,\n  "cohort_id": "x",\n  "created": "2026-01-01",\n'
    b'  "digest": "07374c45ee857b1e7f5ffa63e8b35461"\n}'
)


def identity_of(raw: bytes, folder: Path) -> CohortIdentity:
    store = LocalStore(str(folder))
    store.replace("cohort.json", raw)
    return read_identity(store)


def test_records_are_written_and_read_as_format_1_has_them(tmp_path: Path) -> None:
    head = HeadRecord(3, "d", {"b": "2", "a": "1"})
    repaired = HeadRecord(4, "d", repaired=True)
    note = TableRecord(("é",), {"catalog": 1}, (("e", {"catalog": 2}),))
    assert [head.as_bytes(), repaired.as_bytes(), note.as_bytes()] == [HEAD, REPAIRED, NOTE]
    assert [parse_head(HEAD, ""), parse_head(REPAIRED, "")] == [head, repaired]
    assert parse_record(NOTE, "") == note
    assert identity_of(IDENTITY, tmp_path) == CohortIdentity(1, "x")


@pytest.mark.parametrize(
    ("raw", "read"), [(HEAD, parse_head), (NOTE, parse_record), (IDENTITY, None)]
)
def test_any_changed_byte_is_found(
    raw: bytes, read: Callable[[bytes, Any], Any] | None, tmp_path: Path
) -> None:
    read = read or identity_of
    damaged = [raw[:n] for n in range(len(raw))] + [raw + b" ", b"null", b"[]", seal({"a": 1})]
    for n, byte in enumerate(raw):
        damaged += [raw[:n] + bytes([byte ^ flip]) + raw[n + 1 :] for flip in (1, 0x20, 0x80)]
    for data in damaged:
        with pytest.raises(CorruptStore):
            read(data, tmp_path)
