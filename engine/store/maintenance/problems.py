"""What can be wrong with a cohort, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

from engine.errors import CorruptStore, EngineError, MissingObject

MISSING, CORRUPT, INCONSISTENT, STALE = "missing", "corrupt", "inconsistent", "stale"
"""Kinds of problems: a file is not there; its bytes are not those written; two things that must
agree do not; a table is older than what it was made of, a warning that the next run settles."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong: where, its kind, and what it is."""

    path: str
    kind: str
    text: str

    def as_json(self) -> dict[str, str]:
        """Return it as plain values."""
        return asdict(self)


def problem_of(error: Exception, path: str) -> Problem:
    """Turn what a reader raised into a problem."""
    if isinstance(error, MissingObject):
        return Problem(str(error.args[0]), MISSING, "is not there")
    if isinstance(error, CorruptStore):
        return Problem(str(error.args[0]), CORRUPT, str(error.args[1]))
    if isinstance(error, EngineError):
        return Problem(path, CORRUPT, str(error))
    return Problem(path, CORRUPT, f"can't be read ({type(error).__name__})")


def guarded(
    path: str, check: Callable[[], Iterable[Problem]], failed: Callable[[], None] | None = None
) -> Iterator[Problem]:
    """Yield what a check finds; what it raises is a problem too, and not the end of the rest.

    Parameters
    ----------
    path
        What the check is about, where the error does not say it.
    failed
        Called when it raised.
    """
    try:
        yield from check()
    except Exception as error:  # broken bytes make parsers raise anything
        yield problem_of(error, path)
        if failed is not None:
            failed()
