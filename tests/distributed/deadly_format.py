"""A format whose files kill their reader; workers load it before they start (dask --preload)."""

from __future__ import annotations

import os
import signal
from typing import Any, BinaryIO

from engine.sources import FORMATS, Format
from engine.sources.base import OpenSource, Plane, PlanesSource

OPENING, READING = b"DEADLY TO OPEN", b"DEADLY TO READ"


def _begins(head: bytes) -> bool:
    return head.startswith(b"DEADLY TO")


FORMATS["deadly"] = Format(_begins, (".deadly",), __name__)


class DeadlySource(PlanesSource):
    """One plane that can't be decoded and survived."""

    def _decode(self, index: int) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class DeadlyReader:
    """Kills the process, like a decoder that runs wild."""

    def open(self, file: BinaryIO, *, max_decoded_bytes: int) -> OpenSource:
        """Die, or give a plane whose reading does."""
        file.seek(0)
        if file.read().startswith(OPENING):
            os.kill(os.getpid(), signal.SIGKILL)
        return DeadlySource((Plane("", (1, 64, 64), "uint8"),))


reader = DeadlyReader()
