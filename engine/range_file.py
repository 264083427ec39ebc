"""Seekable file of something that is read by ranges, such as an object of a store."""

from __future__ import annotations

import errno
import io
from typing import Any


class RangeFile(io.RawIOBase):
    """Base of a file of a known size, bytes, that `read_range` gives piece by piece."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._at = 0

    def read_range(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` to before ``stop``; never asked for none."""
        raise NotImplementedError

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return it.

        Raises
        ------
        OSError
            If it is before the start.
        """
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "before the start")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, and return the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self._next(min(self._at + len(view), self._size))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Return the rest, by one range."""
        return self._next(self._size)

    def _next(self, stop: int) -> bytes:
        data = self.read_range(self._at, stop) if self._at < stop else b""
        self._at += len(data)
        return data
