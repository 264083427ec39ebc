"""Progress as data, which the command line, a notebook and a log each display differently."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


class ProgressListener:
    """Listener for progress events; this one ignores them. Subclasses display them."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage, or enlarge it, by ``total`` items; ``unit`` is their plural noun."""

    def advance(self, stage: str, count: int, failed: int = 0) -> None:
        """Count finished items of a stage, some of them failed."""

    def finish(self, stage: str) -> None:
        """End a stage."""

    def note(self, text: str) -> None:
        """Show a message once."""


def pluralise(count: float, plural: str) -> str:
    """Return a count with its noun.

    Examples
    --------
    >>> pluralise(1, "images"), pluralise(1200, "images")
    ('1 image', '1,200 images')
    """
    return f"{count:,.0f} {plural.removesuffix('s') if count == 1 else plural}"


def format_duration(seconds: float) -> str:
    """Format a duration.

    Examples
    --------
    >>> [format_duration(s) for s in (0.04, 7.26, 90, 7500)]
    ['0.0 s', '7.3 s', '1 min 30 s', '2 h 05 min']
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


@dataclass(slots=True)
class Stage:
    """Progress of a stage, which may begin, end and be enlarged several times."""

    name: str
    unit: str
    total: int = 0
    done: int = 0
    failed: int = 0
    running: bool = False
    _first: tuple[int, float] | None = field(default=None, repr=False)
    _spent_s: float = field(default=0.0, repr=False)
    _since: float = field(default=0.0, repr=False)

    def enlarge(self, total: int) -> None:
        """Continue with more items."""
        self.total += total
        if not self.running:
            self.running, self._since = True, time.monotonic()

    def add(self, count: int, failed: int) -> None:
        """Count finished items, some of them failed."""
        self.done += count
        self.failed += failed
        if self._first is None:
            self._first = self.done, self.elapsed_s

    def end(self) -> None:
        """Stop the clock."""
        self._spent_s, self.running = self.elapsed_s, False

    @property
    def elapsed_s(self) -> float:
        """Time spent in it, seconds."""
        return self._spent_s + (time.monotonic() - self._since if self.running else 0.0)

    @property
    def _pace(self) -> float | None:
        """Items per second since the first ones ended; None if no others ended.

        The first ones also waited for workers to start and kernels to compile.
        """
        if self._first is None or self.done == self._first[0]:
            return None
        return (self.done - self._first[0]) / max(self.elapsed_s - self._first[1], 1e-3)

    @property
    def rate(self) -> str:
        """Items per second, or per minute if slow; "" while there are none."""
        if not self.done:
            return ""
        per_s = (self._pace if self.running else None) or self.done / max(self.elapsed_s, 1e-3)
        rate, unit = (per_s, "s") if per_s >= 1 else (per_s * 60, "min")
        return f"{rate:,.0f}/{unit}" if rate >= 99.95 else f"{rate:.3g}/{unit}"

    @property
    def time(self) -> str:
        """Remaining time while it runs, elapsed time once it ended; "" if unknown."""
        if not self.running or self.done >= self.total:
            return format_duration(self.elapsed_s)
        pace = self._pace
        return "" if pace is None else f"{format_duration((self.total - self.done) / pace)} left"

    @property
    def failures(self) -> str:
        """Number of failed items; "" for none."""
        return f"{self.failed:,} failed" if self.failed else ""

    def __str__(self) -> str:
        of = f"{self.done:,} of " if self.done < self.total else ""
        told = (f"{of}{pluralise(self.total, self.unit)}", self.rate, self.time, self.failures)
        return f"{self.name}: {', '.join(filter(None, told))}"


class StageTracker(ProgressListener):
    """Listener that tracks each stage in ``stages`` and shows a stage when it changes."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage, or enlarge it."""
        known = self.stages.setdefault(stage, Stage(stage, unit))
        known.enlarge(total)
        if known.total:
            self.show(known)

    def advance(self, stage: str, count: int, failed: int = 0) -> None:
        """Count finished items of a stage, some of them failed."""
        known = self.stages[stage]
        known.add(count, failed)
        self.show(known)

    def finish(self, stage: str) -> None:
        """End a stage."""
        known = self.stages[stage]
        known.end()
        if known.total:
            self.show(known)

    def show(self, stage: Stage) -> None:
        """Show a stage that changed."""
