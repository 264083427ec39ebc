"""One way to compile: no interpreter lock, cached on disk, no reordering of floating-point sums."""

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

    A cached function holds the machine code of the functions it calls, but numba looks only at its
    own file to tell whether it is stale: after an edit (or an upgrade) of one file, the others
    would go on with the old code.

    Parameters
    ----------
    folder
        The package.

    Returns
    -------
    The number of caches removed; what can't be removed stays.
    """
    newest = max((source.stat().st_mtime_ns for source in folder.rglob("*.py")), default=0)
    removed = 0
    for index in folder.rglob("__pycache__/*.nbi"):
        # Another process may have been faster, or the folder is read-only.
        with contextlib.suppress(OSError):
            if index.stat().st_mtime_ns < newest:
                index.unlink()
                removed += 1
    return removed


drop_stale_caches(Path(__file__).parent)


def compiled(function: F) -> F:
    """Compile a kernel so that it runs beside other threads and gives the same bits everywhere.

    ``fastmath`` stays off on purpose: it would let the compiler reorder sums, and the same pixels
    would give other rows on another machine. With ``NUMBA_DISABLE_JIT=1`` the function runs as
    plain Python, which is how coverage sees it.
    """
    return cast(F, numba.njit(nogil=True, cache=True)(function))
