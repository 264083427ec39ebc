"""What an operator asks of a cohort: is it whole, is it done, and what is in the way."""

from __future__ import annotations

from engine.operations.registry import operations
from engine.operations.status import Status, read_status
from engine.store.gc import OLDER_THAN_S, Leftover, collect, plan_gc
from engine.store.root import Root
from engine.store.verify import VerifyReport, verify_cohort


class Upkeep:
    """The methods of a cohort that need no cluster and compute nothing."""

    root: Root

    def status(self) -> Status:
        """Say what is there, what is missing and what failed, each by name."""
        return read_status(self.root)

    def verify(self) -> VerifyReport:
        """Check every file, ledger and table, and name all that is wrong; see `verify_cohort`."""
        known = {(kind.name, kind.version): kind.objects for kind in operations().values()}
        return verify_cohort(self.root, operations=known)

    def gc(
        self, *, older_than_s: float = OLDER_THAN_S, dry_run: bool = False
    ) -> tuple[Leftover, ...]:
        """Remove what no commit names and is older than some seconds, and return what it was.

        Parameters
        ----------
        older_than_s
            Least age, seconds: what a running ingest or run has not yet committed is younger.
        dry_run
            Only say what would be removed.
        """
        found = plan_gc(self.root, older_than_s)
        return found if dry_run else collect(self.root, found)
