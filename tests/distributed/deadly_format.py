"""Image format with files that kill their reader; workers preload it (dask --preload)."""

from __future__ import annotations

import os
import signal
from typing import Any, BinaryIO

from engine.sources import FORMATS, Format
from engine.sources.base import OpenSource, Plane, PlanesSource

OPENING, READING, SAMPLING = b"DEADLY TO OPEN", b"DEADLY TO READ", b"DEADLY TO SAMPLE"


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
        content = file.read()
        if content.startswith(OPENING):
            os.kill(os.getpid(), signal.SIGKILL)
        if content.startswith(SAMPLING):  # a named channel is read before its stack is written
            named = Plane("", (1, 64, 64), "uint16", channel_names=("DAPI",))
            return DeadlySource((named,))
        return DeadlySource((Plane("", (1, 64, 64), "uint8"),))


reader = DeadlyReader()
