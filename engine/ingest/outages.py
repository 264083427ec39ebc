"""Distinguish an outage of a root from unreadable files, while sources are read.

If `MOST_IN_A_ROW` consecutive files of a root, in reading order, fail with an error of the disk or
network, the root is unavailable: none of these files is marked as failed, the rest of the root is
skipped, and the ingest ends with an error that names it. Fewer failures, and errors of permission,
belong to the files. Vanished files count only if the root itself is missing or empty, since a user
may delete a folder during the ingest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from engine.errors import EngineError
from engine.ingest.discovery import Discovery, RootLost
from engine.ingest.tasks import SourceFile
from engine.sources.failures import OF_THE_PLACE, may_be_the_place
from engine.sources.locations.base import open_location

MOST_IN_A_ROW = 50
"""Consecutive files: more than are ever damaged side by side, and few enough for an early end if
every read of a share times out."""


class Outages:
    """Collector of failures, which holds them back until their cause is known.

    Parameters
    ----------
    listing
        Listing that records unavailable roots.
    """

    def __init__(self, listing: Discovery) -> None:
        self._listing = listing
        self._held: dict[str, list[tuple[str, Callable[[], object]]]] = defaultdict(list)

    def failed(
        self, file: SourceFile, reason: str, detail: str | None, note: Callable[[], object]
    ) -> None:
        """Add a failure; ``note`` is called once it is known to be the file's own."""
        if not may_be_the_place(reason, detail):
            if reason not in OF_THE_PLACE:
                self.worked(file)
            note()
            return
        name = _root_of(file)
        if name in self._listing.lost:
            return
        held = self._held[name]
        held.append((reason, note))
        if len(held) < MOST_IN_A_ROW:
            return
        if all(reason == "vanished" for reason, _ in held) and _stands(file.base):
            self.worked(file)
        else:
            del self._held[name]
            self._listing.lost[name] = RootLost(name, file.base, len(held))

    def worked(self, file: SourceFile) -> None:
        """Add a successful read: earlier failures are then those of their files."""
        for _, note in self._held.pop(_root_of(file), ()):
            note()

    def away(self, file: SourceFile) -> bool:
        """Return whether a file's root is unavailable."""
        return _root_of(file) in self._listing.lost

    def settle(self) -> None:
        """Attribute all remaining failures to their files."""
        for name in list(self._held):
            for _, note in self._held.pop(name):
                note()


def _root_of(file: SourceFile) -> str:
    return file.source.partition("/")[0]


def _stands(base: str) -> bool:
    place = open_location(base)
    try:
        return place.exists() and not place.is_empty()
    except EngineError:
        return False
