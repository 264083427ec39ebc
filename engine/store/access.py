"""Whether a cohort can be written to, asked before work is spent on it."""

from __future__ import annotations

from engine.store.root import Root

PROBE = ".writable"
PROBE_BYTES = 4096
"""Size of what is written to find out, bytes: a block of common file systems."""


def require_writable(root: Root) -> None:
    """Write and remove a small file, so that a read-only or full store is named at once.

    Raises
    ------
    StoreReadOnly, StoreFull
    """
    root.replace(PROBE, b"\0" * PROBE_BYTES)
    root.delete(PROBE)
