"""Tell a place that went away from files that can't be read, while sources are read.

`MOST_IN_A_ROW` files of a root one after another, in the order in which they are read, that each
fail by an error of the disk or network mean that the root is away: none of them is failed, the rest
of it is not tried, and the ingest ends with its name. Fewer, and errors of permission, are failures
of the files. Files that vanished count only where the root itself is gone or empty: somebody may
have deleted a folder meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from engine.errors import EngineError
from engine.ingest.discovery import Listing, RootLost
from engine.ingest.worker import SourceFile
from engine.sources.failures import OF_THE_PLACE, may_be_the_place
from engine.sources.locations.base import place_at

MOST_IN_A_ROW = 50
"""Files in a row: more than are damaged side by side, and few enough that nobody waits long for a
share whose every read times out."""


class Outages:
    """Holds failures back until it is known whose they are.

    Parameters
    ----------
    listing
        Where roots that are away are noted.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._held: dict[str, list[tuple[str, Callable[[], object]]]] = defaultdict(list)

    def failed(
        self, file: SourceFile, reason: str, detail: str | None, note: Callable[[], object]
    ) -> None:
        """Take a failure in; ``note`` is called once it is known to be the file's own."""
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
        """Take note of a file that could be read: those that failed before it failed alone."""
        for _, note in self._held.pop(_root_of(file), ()):
            note()

    def away(self, file: SourceFile) -> bool:
        """Tell whether a file's root is away."""
        return _root_of(file) in self._listing.lost

    def settle(self) -> None:
        """Let failures that nothing followed be those of their files."""
        for name in list(self._held):
            for _, note in self._held.pop(name):
                note()


def _root_of(file: SourceFile) -> str:
    return file.source.partition("/")[0]


def _stands(base: str) -> bool:
    place = place_at(base)
    try:
        return place.is_there() and not place.is_empty()
    except EngineError:
        return False
