"""Parts: the Parquet files of a ledger."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a ledger, durable, committed or not."""

    path: str  # relative to the ledger
    size: int
    rows: int
    key: str | None
    low: str  # minimum and maximum of image_id (or other first column)
    high: str
