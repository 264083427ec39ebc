"""Parquet to and from bytes, so that the bytes can be checked before they are parsed."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(rows: pa.Table) -> bytes:
    """Return rows as a Parquet file with page checksums."""
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def read_parquet(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file from its bytes.

    Not by `pq.read_table`: its scanner releases the bytes on another thread, which kills the
    process ("terminate called") if that happens while Python shuts down.
    """
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False)
    return file.read(columns=None if columns is None else list(columns), use_threads=False)
