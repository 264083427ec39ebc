"""Streams that may break: a log on a full disk, or a reader that went away, ends no work."""

from __future__ import annotations

import errno
import os
from typing import IO, cast


class Tolerant:
    """A stream of this process; from the first write that fails on, what is written is dropped.

    Attributes
    ----------
    lost
        Why something could not be written, or None. A reader that went away (``cohort status |
        head``) wanted no more, and is no reason.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    @property
    def stream(self) -> IO[str]:
        """Itself, as those who write to it want it."""
        return cast("IO[str]", self)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop it."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop what is left."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if error.errno != errno.EPIPE:
            self.lost = error
        # What is still in buffers would fail again when the process ends, and with a traceback.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
