"""How commands open a cohort that they do more with than to check it."""

from __future__ import annotations

import engine
from engine import Cohort
from engine.errors import StoreReadOnly
from jobs.output import Output


def opened(output: Output, place: str) -> Cohort:
    """Open a cohort, repair what a power cut tore of its ledgers, and say so.

    Where it can't be written to, who reads what is torn is told.
    """
    return repaired(output, engine.open(place))


def repaired(output: Output, cohort: Cohort) -> Cohort:
    """Do as `opened` does with a cohort that is open."""
    try:
        for told in cohort.repair(also_gone=False):
            output.say(str(told))
    except StoreReadOnly:
        return cohort
    return cohort
