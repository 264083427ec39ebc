"""Shards as bytes (zarr v3 sharding codec): encoded chunks, followed by their index.

Two versions of a shard can be merged chunk by chunk without decoding; this is how a shard of labels
takes in new chunks and keeps the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from engine.errors import CorruptStore

EMPTY_CHUNK = np.uint64(2**64 - 1)
"""Offset and length of a chunk that is not stored."""

CHECKSUM_BYTES = 4
"""Size of the index's checksum (crc32c), bytes."""

Shard = bytes | memoryview

LOST_CHUNK = b"\0lost: no source gave it back\0\0"
"""Marker in place of an image's lost chunk, in a shard whose other chunks were rewritten: no codec
decodes it, so reading it raises, and `verify` reports it."""


def read_index(shard: Shard, chunks: int) -> NDArray[np.uint64]:
    """Return (chunks, 2): offset and length of each chunk, bytes, in C order; or `EMPTY_CHUNK`."""
    values = np.frombuffer(shard, "<u8", chunks * 2, len(shard) - CHECKSUM_BYTES - chunks * 16)
    return values.reshape(chunks, 2).astype(np.uint64)


def count_chunks(shard: Shard, chunks: int) -> int:
    """Return the number of stored chunks of a shard."""
    return int(np.count_nonzero(read_index(shard, chunks)[:, 0] != EMPTY_CHUNK))


def merge_shards(
    old: bytes | None, new: bytes | None, chunks: int, taken: Collection[int] | None = None
) -> bytes:
    """Merge two versions of a shard: some chunks from ``new``, the others from ``old``.

    Chunks are in C order, so equal chunks give equal bytes in any order of merges.

    Parameters
    ----------
    old, new
        Two versions of a shard; None stores no chunk.
    chunks
        Chunks per shard.
    taken
        Indices of the chunks that come from ``new``, stored or blank; None means all.

    Raises
    ------
    CorruptStore
        If an index does not match its checksum.

    Examples
    --------
    >>> empty = merge_shards(None, None, chunks=2)
    >>> len(empty), count_chunks(empty, 2)
    (36, 0)
    """
    before, after = ([None] * chunks if s is None else unpack_chunks(s, chunks) for s in (old, new))
    return pack_chunks(
        [
            after[chunk] if taken is None or chunk in taken else before[chunk]
            for chunk in range(chunks)
        ]
    )


def unpack_chunks(shard: Shard, chunks: int) -> list[bytes | None]:
    """Return the encoded chunks of a shard, None for each that is not stored.

    Raises
    ------
    CorruptStore
        If the index does not match its checksum.
    """
    found: list[bytes | None] = []
    for first, length in _checked_index(shard, chunks).tolist():
        found.append(None if first == EMPTY_CHUNK else bytes(shard[first : first + length]))
    return found


def pack_chunks(pieces: Sequence[bytes | None]) -> bytes:
    """Return the shard of some encoded chunks, in C order; None is a chunk that is not stored.

    Examples
    --------
    >>> unpack_chunks(pack_chunks([b"one", None, b"three"]), 3)
    [b'one', None, b'three']
    """
    index = np.full((len(pieces), 2), EMPTY_CHUNK, "<u8")
    offset = 0
    for chunk, piece in enumerate(pieces):
        if piece is not None:
            index[chunk] = offset, len(piece)
            offset += len(piece)
    packed = index.tobytes()
    stored = (piece for piece in pieces if piece is not None)
    return b"".join(
        (*stored, packed, google_crc32c.value(packed).to_bytes(CHECKSUM_BYTES, "little"))
    )


def _checked_index(shard: Shard, chunks: int) -> NDArray[np.uint64]:
    packed = shard[-CHECKSUM_BYTES - chunks * 16 : -CHECKSUM_BYTES]
    said = int.from_bytes(shard[-CHECKSUM_BYTES:], "little")
    if len(packed) != chunks * 16 or google_crc32c.value(packed) != said:
        raise CorruptStore("a shard", "its index does not match its checksum")
    return read_index(shard, chunks)
