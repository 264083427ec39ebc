"""JIT compilation: without the GIL, cached on disk, without reordered floating-point sums.

Importing numba takes half a second, so the first call of a kernel does it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., object])

Plane = NDArray[Any]
Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Whole = NDArray[np.int64]
Whole32 = NDArray[np.int32]
Bytes = NDArray[np.uint8]


def drop_stale_caches(folder: Path) -> int:
    """Remove numba's caches in a package that are older than any of its sources.

    A cached function holds the machine code of the functions it calls, but numba compares the
    cache only with the function's own file: after an edit (or an upgrade) of one file, the others
    would keep the old code.

    Parameters
    ----------
    folder
        The package.

    Returns
    -------
    The number of caches removed; caches that can't be removed stay.
    """
    newest = max((source.stat().st_mtime_ns for source in folder.rglob("*.py")), default=0)
    removed = 0
    for index in folder.rglob("__pycache__/*.nbi"):
        # Another process may have deleted it first, or the folder is read-only.
        with contextlib.suppress(OSError):
            if index.stat().st_mtime_ns < newest:
                index.unlink()
                removed += 1
    return removed


_drop_once = functools.cache(drop_stale_caches)

_LINKING = threading.RLock()
"""Lock for compilation: two threads may call their first kernel at the same time."""


class Kernel:
    """A function that numba compiles at its first call, from Python or from another kernel.

    numba looks up the kernels that a kernel calls in the globals of its module. So when the first
    kernel of a module is compiled, numba's dispatchers replace all kernels among these globals, and
    among those of the modules that they were imported from.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._dispatcher: Any = None

    def dispatcher(self) -> Any:
        """Return numba's dispatcher of the function."""
        with _LINKING:
            if self._dispatcher is None:
                import numba

                _drop_once(Path(__file__).parent)
                # fastmath stays off on purpose: it would let the compiler reorder sums, and the
                # same pixels would give other rows on another machine.
                self._dispatcher = numba.njit(nogil=True, cache=True)(self._function)
                names = self._function.__globals__
                kernels = {n: value for n, value in names.items() if isinstance(value, Kernel)}
                names.update((n, kernel.dispatcher()) for n, kernel in kernels.items())
            return self._dispatcher

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return (self._dispatcher or self.dispatcher())(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of numba's dispatcher, such as ``stats``."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dispatcher(), name)


def compiled(function: F) -> F:
    """Compile a kernel that releases the GIL and gives the same bits on every machine.

    With ``NUMBA_DISABLE_JIT=1`` the function runs as plain Python, so that coverage can trace it.
    """
    return cast(F, Kernel(function))
