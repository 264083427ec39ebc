"""Early check that a cohort is writable."""

from __future__ import annotations

import secrets

from engine.errors import StoreFull, StoreReadOnly
from engine.store.root.base import STAGING, Root
from engine.store.root.os_errors import PROBE_BYTES


def check_writable(root: Root) -> None:
    """Write and remove a small file, to detect a read-only or full store before any work.

    Raises
    ------
    StoreReadOnly, StoreFull
    """
    # Use the staging folder: a killed writer must not leave files elsewhere.
    probe = f"{STAGING}/{secrets.token_hex(8)}"
    try:
        root.create(probe, b"\0" * PROBE_BYTES)
        root.delete(probe)
    except (StoreFull, StoreReadOnly) as error:
        raise type(error)(root.url, *error.args[1:]) from error  # name the store, not the probe
