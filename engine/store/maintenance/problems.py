"""Problems of a cohort, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

from engine.errors import CorruptStore, EngineError, MissingObject

MISSING, CORRUPT, INCONSISTENT, STALE = "missing", "corrupt", "inconsistent", "stale"
"""Kinds of problems: a file does not exist; its bytes differ from the written ones; two things that
must agree do not; a table is older than its inputs, a warning that the next run resolves."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Problem of a cohort: path, kind and description."""

    path: str
    kind: str
    text: str

    def as_json(self) -> dict[str, str]:
        """Return plain values for JSON."""
        return asdict(self)


def problem_from_error(error: Exception, path: str) -> Problem:
    """Convert an exception of a reader to a problem."""
    if isinstance(error, MissingObject):
        return Problem(str(error.args[0]), MISSING, "is not there")
    if isinstance(error, CorruptStore):
        return Problem(str(error.args[0]), CORRUPT, str(error.args[1]))
    if isinstance(error, EngineError):
        return Problem(path, CORRUPT, str(error))
    return Problem(path, CORRUPT, f"can't be read ({type(error).__name__})")


def report_errors(
    path: str, check: Callable[[], Iterable[Problem]], failed: Callable[[], None] | None = None
) -> Iterator[Problem]:
    """Yield the problems that a check finds; report its exceptions as problems, too.

    Parameters
    ----------
    path
        Path for exceptions that do not name one.
    failed
        Called after an exception.
    """
    try:
        yield from check()
    except Exception as error:  # broken bytes make parsers raise anything
        yield problem_from_error(error, path)
        if failed is not None:
            failed()
