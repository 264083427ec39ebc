"""Content hashes (SHA-256, truncated to 128 bits)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST_CHARS = 32
"""Hexadecimal characters kept of a SHA-256: 128 bits, enough to rule out chance collisions."""

BLOCK_PX = 2048
"""Side of the blocks of a plane's content digest, pixels.

A larger plane is digested block by block, so that it is never in memory as a whole; a smaller one
is a single block.
"""


def digest_bytes(data: bytes | memoryview) -> str:
    """Return the digest of some bytes (SHA-256, FIPS 180-4, truncated to 128 bits)."""
    return hashlib.sha256(data).hexdigest()[:DIGEST_CHARS]


def digest_of(value: Mapping[str, Any] | list[Any]) -> str:
    """Return the digest of a JSON value, independent of the order of its keys.

    Examples
    --------
    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return digest_bytes(text.encode())


def digest_block(block: NDArray[Any]) -> str:
    """Return the digest of one block (c, y, x) of a plane, in C order and little-endian."""
    plain = np.ascontiguousarray(block)
    if plain.dtype.byteorder == ">":
        plain = plain.astype(plain.dtype.newbyteorder("<"))
    return digest_bytes(plain.data.cast("B") if plain.size else b"")


def digest_content(dtype: str, shape: tuple[int, int, int], blocks: Iterable[str]) -> str:
    """Return the content digest of a plane from the digests of its blocks.

    Parameters
    ----------
    dtype
        Name of the pixels' type in numpy.
    shape
        (c, y, x), pixels.
    blocks
        Digests of its `BLOCK_PX` x `BLOCK_PX` blocks, in row-major order.
    """
    return digest_of([dtype, list(shape), list(blocks)])


def digest_plane(pixels: NDArray[Any]) -> str:
    """Return the content digest of a plane (c, y, x): of its data type, shape and pixels.

    Examples
    --------
    >>> a = np.zeros((1, 2, 3), np.uint8)
    >>> digest_plane(a) == digest_plane(a.copy()), digest_plane(a) == digest_plane(a + 1)
    (True, False)
    """
    _, height, width = pixels.shape
    blocks = (
        digest_block(pixels[:, y : y + BLOCK_PX, x : x + BLOCK_PX])
        for y in range(0, height, BLOCK_PX)
        for x in range(0, width, BLOCK_PX)
    )
    shape = (pixels.shape[0], height, width)
    return digest_content(pixels.dtype.name, shape, blocks)
