"""Opening of cohorts for commands that write to them."""

from __future__ import annotations

import engine
from engine import Cohort
from engine.errors import StoreReadOnly
from jobs.output import Output


def opened(output: Output, place: str) -> Cohort:
    """Open a cohort, repair ledgers torn by a power cut, and report the losses.

    If it is read-only, nothing is repaired; commands that read a torn ledger report it.
    """
    return repaired(output, engine.open(place))


def repaired(output: Output, cohort: Cohort) -> Cohort:
    """Repair an open cohort, as `opened` does."""
    try:
        for told in cohort.repair(also_gone=False):
            output.info(str(told))
    except StoreReadOnly:
        return cohort
    return cohort
