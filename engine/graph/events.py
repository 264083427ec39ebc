"""Progress as data: the command line, a notebook and a log each show it in their own way."""

from __future__ import annotations


class Events:
    """Receives what happens; this one ignores it all. Subclasses show it."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage, or enlarge it, by ``total`` things called ``unit``."""

    def advance(self, stage: str, count: int, failed: int = 0) -> None:
        """Count things of a stage as ended, some of them as failed."""

    def finish(self, stage: str) -> None:
        """End a stage."""

    def note(self, text: str) -> None:
        """Say something once, in a sentence."""
