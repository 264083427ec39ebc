"""Repair of ledgers torn by a power cut, before the first write to a cohort."""

from __future__ import annotations

from engine.execution.progress import Events
from engine.store.maintenance.repair import repair_ledgers
from engine.store.root.base import Root


def note_repairs(root: Root, events: Events) -> Events:
    """Repair the ledgers of a cohort if necessary, and report the losses in these events.

    Raises
    ------
    StoreFull, StoreReadOnly
    """
    for repaired in repair_ledgers(root):
        events.note(str(repaired))
    return events
