"""CMYK colour profile small enough to be made in a test (ICC.1:2001-04, lut8Type)."""

from __future__ import annotations

import itertools
import struct


def cmyk_icc() -> bytes:
    """Return a CMYK profile in which black alone is dark, and colours are weak."""
    steps = bytes(range(256))
    corners = b"".join(
        bytes([round(255 * (1 - k) * (1 - 0.1 * (c + m + y))), 128 + 20 * (m - c), 128 + 30 * y])
        for c, m, y, k in itertools.product((0, 1), repeat=4)
    )
    identity = struct.pack(">9i", *(65536 if i % 4 == 0 else 0 for i in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + steps * 4 + corners + steps * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    text = b"text" + bytes(4) + b"none\0"
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"inks\0" + bytes(78)
    tags = [(b"desc", name), (b"cprt", text), (b"wtpt", white), (b"A2B0", lut), (b"A2B1", lut)]
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for mark, value in tags:
        table += mark + struct.pack(">II", start + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    size = start + len(data)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02200000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + data
