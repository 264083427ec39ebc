"""Fault-tolerant streams: a log on a full disk, or a reader that exited, does not stop work."""

from __future__ import annotations

import errno
import os
from typing import IO, cast


class FaultTolerantStream:
    """A stream of this process that drops all output after the first failed write.

    Attributes
    ----------
    lost
        The error that lost output, or None. A reader that exited (``cohort status | head``) needed
        no more, and is not an error.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    @property
    def stream(self) -> IO[str]:
        """Self, typed as a text stream."""
        return cast("IO[str]", self)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop the text."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop the rest."""
        try:
            self._stream.flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if error.errno != errno.EPIPE:
            self.lost = error
        # Remaining buffers would fail again at exit, with a traceback.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
