"""Repair of ledgers torn by a power cut, before the first write to a cohort."""

from __future__ import annotations

from engine.execution.progress import ProgressListener
from engine.store.backend.base import Store
from engine.store.maintenance.repair import repair_ledgers


def note_repairs(store: Store, events: ProgressListener) -> ProgressListener:
    """Repair the ledgers of a cohort if necessary, and report the losses in these events.

    Raises
    ------
    StoreFull, StoreReadOnly
    """
    for repaired in repair_ledgers(store):
        events.note(str(repaired))
    return events
