"""Parts: the Parquet files of a ledger."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a ledger, written and durable, committed or not yet."""

    path: str  # relative to the ledger
    size: int
    rows: int
    key: str | None
    low: str  # least and greatest image_id (or other first column) in it
    high: str
