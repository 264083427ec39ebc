"""PNG writer that works row by row, for slides larger than memory."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

COLOUR_TYPES = {1: 0, 3: 2}
"""PNG's colour type by number of channels (ISO/IEC 15948, table 11.1)."""

UP = 2
"""Filter type: each byte minus the one above (9.2); good for slides, and one subtraction."""

LEVEL = 4
"""Compression level: higher levels gain little and take long."""

CHUNK_BYTES = 1 << 20


class PngRows:
    """Writer of one 8-bit PNG from the top; equal rows give equal bytes.

    Parameters
    ----------
    path
        Written under a temporary name, and renamed when all rows are written.
    shape
        Height and width, pixels.
    channels
        1 (grey) or 3 (RGB).
    spacing_um
        Pixel size, micrometres; None omits it.
    """

    def __init__(
        self, path: Path, shape: tuple[int, int], channels: int, spacing_um: float | None = None
    ) -> None:
        self._path, self._temporary = path, path.with_name(f".{path.name}.part")
        self._left = shape[0]
        self._above = np.zeros(shape[1] * channels, np.uint8)
        self._deflate = zlib.compressobj(LEVEL)
        self._waiting = bytearray()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._temporary.open("wb")
        self._file.write(b"\x89PNG\r\n\x1a\n")
        header = struct.pack(">IIBBBBB", shape[1], shape[0], 8, COLOUR_TYPES[channels], 0, 0, 0)
        self._chunk(b"IHDR", header)
        if spacing_um is not None:
            per_m = round(1e6 / spacing_um)
            self._chunk(b"pHYs", struct.pack(">IIB", per_m, per_m, 1))  # 11.3.5.3: unit 1, metre

    def write(self, rows: NDArray[np.uint8]) -> None:
        """Add rows (y, x) or (c, y, x)."""
        flat = rows if rows.ndim == 2 else np.moveaxis(rows, 0, 2)
        flat = np.ascontiguousarray(flat).reshape(len(flat), -1)
        before = np.concatenate((self._above[None], flat[:-1]))
        self._above = flat[-1].copy()
        filtered = np.full((len(flat), 1 + flat.shape[1]), UP, np.uint8)
        np.subtract(flat, before, out=filtered[:, 1:])
        self._waiting += self._deflate.compress(filtered.data)
        self._left -= len(flat)
        self._flush(CHUNK_BYTES)

    def __enter__(self) -> PngRows:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._left == 0:
            self._waiting += self._deflate.flush()
            self._flush(1)
            self._chunk(b"IEND", b"")
            self._file.close()
            self._temporary.replace(self._path)
            return
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _flush(self, least: int) -> None:
        while len(self._waiting) >= least:
            self._chunk(b"IDAT", bytes(self._waiting[:CHUNK_BYTES]))
            del self._waiting[:CHUNK_BYTES]

    def _chunk(self, kind: bytes, data: bytes) -> None:
        self._file.write(struct.pack(">I", len(data)) + kind + data)
        self._file.write(struct.pack(">I", zlib.crc32(kind + data)))
