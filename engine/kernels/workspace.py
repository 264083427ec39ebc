"""Work buffers that a thread keeps between images.

A worker's malloc gives every large array back to the system at once, so that each image would pay
for its page faults again; kernels that keep their buffers took half the time there.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_KEPT_BYTES = 256 * 2**20
"""Largest total a thread keeps, bytes: a block of 4096 x 4096 pixels with its halo would
otherwise stay in memory for as long as the worker lives."""

_LOCAL = threading.local()


class Workspace:
    """Named, growing, uninitialised arrays; not shared between threads."""

    def __init__(self) -> None:
        self._flat: dict[str, NDArray[Any]] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an uninitialised C-contiguous array; it is valid until the name's next use."""
        size = int(np.prod(shape, dtype=np.int64))
        wanted = np.dtype(dtype)
        flat = self._flat.get(name)
        if flat is None or flat.size < size or flat.dtype != wanted:
            flat = np.empty(max(size, 1), wanted)
            self._flat[name] = flat
        return flat[:size].reshape(shape)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(flat.nbytes for flat in self._flat.values())

    def shrink(self) -> None:
        """Give the buffers back if they hold more than a thread should keep."""
        if self.nbytes > _KEPT_BYTES:
            self._flat.clear()


def thread_workspace() -> Workspace:
    """Return the calling thread's own workspace."""
    workspace = getattr(_LOCAL, "workspace", None)
    if workspace is None:
        workspace = Workspace()
        _LOCAL.workspace = workspace
    return workspace
