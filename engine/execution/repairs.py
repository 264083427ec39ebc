"""What writes to a cohort first goes on without what a power cut tore, and says so."""

from __future__ import annotations

from engine.execution.progress import Events
from engine.store.maintenance.repair import repair_ledgers
from engine.store.root.base import Root


def note_repairs(root: Root, events: Events) -> Events:
    """Repair the ledgers of a cohort where that is due; what was lost is noted in these events.

    Raises
    ------
    StoreFull, StoreReadOnly
    """
    for repaired in repair_ledgers(root):
        events.note(str(repaired))
    return events
