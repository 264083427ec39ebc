"""Whether a cohort can be written to, asked before work is spent on it."""

from __future__ import annotations

import secrets

from engine.errors import StoreFull, StoreReadOnly
from engine.store.root.base import STAGING, Root
from engine.store.root.os_errors import PROBE_BYTES


def require_writable(root: Root) -> None:
    """Write and remove a small file, so that a read-only or full store is named at once.

    Raises
    ------
    StoreReadOnly, StoreFull
    """
    # Where leftovers may be: a writer that is killed in between leaves nothing elsewhere.
    probe = f"{STAGING}/{secrets.token_hex(8)}"
    try:
        root.create(probe, b"\0" * PROBE_BYTES)
        root.delete(probe)
    except (StoreFull, StoreReadOnly) as error:
        raise type(error)(
            root.url, *error.args[1:]
        ) from error  # it is about the place, not about the probe
