"""JIT compilation: without the GIL, cached on disk, without reordered floating-point sums."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
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


drop_stale_caches(Path(__file__).parent)


def compiled(function: F) -> F:
    """Compile a kernel that releases the GIL and gives the same bits on every machine.

    ``fastmath`` stays off on purpose: it would let the compiler reorder sums, and the same pixels
    would give different rows on another machine. With ``NUMBA_DISABLE_JIT=1`` the function runs as
    plain Python, so that coverage can trace it.
    """
    return cast(F, numba.njit(nogil=True, cache=True)(function))
