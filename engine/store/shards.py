"""Shards as bytes (zarr v3 sharding codec): encoded chunks, and an index of them at the end.

Two shards of one place can be merged chunk by chunk without decoding anything, which is how a
shard of labels takes in what is new and keeps the rest.
"""

from __future__ import annotations

from collections.abc import Collection

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from engine.errors import CorruptStore

ABSENT = np.uint64(2**64 - 1)
"""Offset and length by which an index marks a chunk that is not stored."""

CHECKSUM_BYTES = 4
"""Of the index: crc32c."""

Shard = bytes | memoryview


def read_index(shard: Shard, chunks: int) -> NDArray[np.uint64]:
    """Return (chunks, 2): offset and length of each chunk, bytes, in C order; or `ABSENT`."""
    values = np.frombuffer(shard, "<u8", chunks * 2, len(shard) - CHECKSUM_BYTES - chunks * 16)
    return values.reshape(chunks, 2).astype(np.uint64)


def count_chunks(shard: Shard, chunks: int) -> int:
    """Return how many chunks a shard stores."""
    return int(np.count_nonzero(read_index(shard, chunks)[:, 0] != ABSENT))


def merge_shards(
    old: bytes | None, new: bytes | None, chunks: int, taken: Collection[int] | None = None
) -> bytes:
    """Return a shard with some chunks of one shard, and the others of another.

    Chunks stand in it in C order, so the same chunks make the same bytes whatever came first.

    Parameters
    ----------
    old, new
        Shards of one place; None is one that stores no chunk.
    chunks
        In a shard.
    taken
        Those that come from ``new``, stored there or blank; None is all of them.

    Raises
    ------
    CorruptStore
        If an index is not as it was written.

    Examples
    --------
    >>> empty = merge_shards(None, None, chunks=2)
    >>> len(empty), count_chunks(empty, 2)
    (36, 0)
    """
    before, after = (None if s is None else _checked_index(s, chunks) for s in (old, new))
    pieces: list[bytes] = []
    index = np.full((chunks, 2), ABSENT, "<u8")
    offset = 0
    for chunk in range(chunks):
        from_new = taken is None or chunk in taken
        shard, places = (new, after) if from_new else (old, before)
        if shard is None or places is None or places[chunk, 0] == ABSENT:
            continue
        first, length = int(places[chunk, 0]), int(places[chunk, 1])
        pieces.append(bytes(shard[first : first + length]))
        index[chunk] = offset, length
        offset += length
    packed = index.tobytes()
    return b"".join(
        (*pieces, packed, google_crc32c.value(packed).to_bytes(CHECKSUM_BYTES, "little"))
    )


def _checked_index(shard: bytes, chunks: int) -> NDArray[np.uint64]:
    packed = shard[-CHECKSUM_BYTES - chunks * 16 : -CHECKSUM_BYTES]
    said = int.from_bytes(shard[-CHECKSUM_BYTES:], "little")
    if len(packed) != chunks * 16 or google_crc32c.value(packed) != said:
        raise CorruptStore("a shard", "its index does not match its checksum")
    return read_index(shard, chunks)
