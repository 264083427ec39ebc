"""Thread-local work buffers that are reused between images.

A worker's malloc returns every large array to the system at once, so each image would pay for the
page faults again; kernels that reuse their buffers took half the time.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_KEPT_BYTES = 256 * 2**20
"""Largest total that a thread keeps, bytes: the buffers of a block of 4096 x 4096 pixels with its
halo would otherwise stay in memory for as long as the worker lives."""

_LOCAL = threading.local()


class BufferPool:
    """Named, growing, uninitialised arrays; not thread-safe."""

    def __init__(self) -> None:
        self._flat: dict[str, NDArray[Any]] = {}
        self._views: dict[str, NDArray[Any]] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an uninitialised C-contiguous array, valid until the name's next use."""
        view = self._views.get(name)
        # Most images have the same shape, so reuse the last view.
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

    def release_large(self) -> None:
        """Free the buffers if they exceed the limit for one thread."""
        if self.nbytes > _KEPT_BYTES:
            self._flat.clear()
            self._views.clear()


def thread_buffers() -> BufferPool:
    """Return the calling thread's own workspace."""
    workspace = getattr(_LOCAL, "workspace", None)
    if workspace is None:
        workspace = BufferPool()
        _LOCAL.workspace = workspace
    return workspace
