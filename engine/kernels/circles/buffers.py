"""Work buffers that a thread keeps between images.

A worker's malloc gives every large array back to the system at once, so that each image would pay
for its page faults again; kernels that keep their buffers took half the time there.
"""

from __future__ import annotations

import math
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
        self._views: dict[str, NDArray[Any]] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an uninitialised C-contiguous array; it is valid until the name's next use."""
        view = self._views.get(name)
        # Most images are of one shape: the view of the last one serves again.
        if view is not None and view.shape == shape and view.dtype == dtype:
            return view
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or flat.size < size or flat.dtype != dtype:
            flat = np.empty(max(size, 1), dtype)
            self._flat[name] = flat
        view = flat[:size].reshape(shape)
        self._views[name] = view
        return view

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(flat.nbytes for flat in self._flat.values())

    def shrink(self) -> None:
        """Give the buffers back if they hold more than a thread should keep."""
        if self.nbytes > _KEPT_BYTES:
            self._flat.clear()
            self._views.clear()


def thread_workspace() -> Workspace:
    """Return the calling thread's own workspace."""
    workspace = getattr(_LOCAL, "workspace", None)
    if workspace is None:
        workspace = Workspace()
        _LOCAL.workspace = workspace
    return workspace
