"""Image format with files that kill their reader; workers preload it (dask --preload)."""

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
    """One plane that kills the process when decoded."""

    def _decode(self, index: int) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class DeadlyReader:
    """Reader that kills the process, like a crashing decoder."""

    def open(self, file: BinaryIO, *, max_decoded_bytes: int) -> OpenSource:
        """Die, or return a plane that dies when read."""
        file.seek(0)
        if file.read().startswith(OPENING):
            os.kill(os.getpid(), signal.SIGKILL)
        return DeadlySource((Plane("", (1, 64, 64), "uint8"),))


reader = DeadlyReader()
