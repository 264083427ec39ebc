"""Log entries of a ledger in the Delta protocol's format: JSON, one action per line.

The engine writes them itself, since deltalake publishes an entry before it is durable, and other
writers then build on it: https://github.com/delta-io/delta/blob/master/PROTOCOL.md (actions).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import deltalake

from engine.store.delta.integrity import PREVIOUS_DIGEST, STATE_DIGEST

if TYPE_CHECKING:
    from engine.store.delta.parts import Part

APP_ID = "cohort"


def make_entry(
    version: int,
    add: Sequence[Part],
    remove: Sequence[Part],
    *,
    first: str,
    partition: str | None,
    chain: str,
    state: str,
) -> bytes:
    """Return the log entry of a commit.

    Parameters
    ----------
    version
        Version of the ledger after this entry.
    first
        Name of the first column; the entry holds each part's bounds of it.
    partition
        Name of the partition column, or None.
    chain, state
        Digests, see `PREVIOUS_DIGEST` and `STATE_DIGEST`.
    """
    now_ms = int(time.time() * 1000)
    by = json.dumps([] if partition is None else [partition])
    info = {
        "timestamp": now_ms,
        "operation": "WRITE",
        "operationParameters": {"mode": "Append", "partitionBy": by},
        "engineInfo": f"cohort with deltalake {deltalake.__version__}",
        PREVIOUS_DIGEST: chain,
        STATE_DIGEST: state,
    }

    def values(part: Part) -> dict[str, str | None]:
        return {} if partition is None else {partition: part.key}

    lines: list[dict[str, Any]] = [{"commitInfo": info}]
    for part in add:
        # Readers skip parts by these bounds, without opening them.
        stats = {
            "numRecords": part.rows,
            "minValues": {first: part.low},
            "maxValues": {first: part.high},
            "nullCount": {first: 0},
        }
        new = {
            "path": part.path,
            "partitionValues": values(part),
            "size": part.size,
            "modificationTime": now_ms,
            "dataChange": True,
            "stats": _json(stats),
        }
        lines.append({"add": new})
    for part in remove:
        old = {
            "path": part.path,
            "deletionTimestamp": now_ms,
            "dataChange": True,
            "extendedFileMetadata": True,
            "partitionValues": values(part),
            "size": part.size,
        }
        lines.append({"remove": old})
    return b"\n".join([*(_json(line).encode() for line in lines), last_line(version)])


def last_line(version: int) -> bytes:
    """Return the last line of a version's entry; its presence shows that the entry is complete."""
    return _json({"txn": {"appId": APP_ID, "version": version}}).encode()


def _json(value: Any) -> str:
    # Do not escape: Delta's reader decodes escaped surrogate pairs to other characters, and parts
    # are chosen by their bounds.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
