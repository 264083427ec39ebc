"""One way to compile: no interpreter lock, cached on disk, no reordering of floating-point sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile a kernel so that it runs beside other threads and gives the same bits everywhere.

    ``fastmath`` stays off on purpose: it would let the compiler reorder sums, and the same pixels
    would give other rows on another machine. With ``NUMBA_DISABLE_JIT=1`` the function runs as
    plain Python, which is how coverage sees it.
    """
    return numba.njit(nogil=True, cache=True)(function)  # type: ignore[no-any-return]


def inlined(function: F) -> F:
    """Compile a small kernel into its callers; as `compiled` in all other respects."""
    return numba.njit(nogil=True, cache=True, inline="never")(function)  # type: ignore[no-any-return]
