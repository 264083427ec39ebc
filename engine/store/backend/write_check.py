"""Early check that a cohort is writable."""

from __future__ import annotations

import secrets

from engine.errors import StoreFull, StoreReadOnly
from engine.store.backend.base import STAGING, Store
from engine.store.backend.os_errors import PROBE_BYTES


def check_writable(store: Store) -> None:
    """Write and remove a small file, to detect a read-only or full store before any work.

    Raises
    ------
    StoreReadOnly, StoreFull
    """
    # Use the staging folder: a killed writer must not leave files elsewhere.
    probe = f"{STAGING}/{secrets.token_hex(8)}"
    try:
        store.create(probe, b"\0" * PROBE_BYTES)
        store.delete(probe)
    except (StoreFull, StoreReadOnly) as error:
        raise type(error)(store.url, *error.args[1:]) from error  # name the store, not the probe
