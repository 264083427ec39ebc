"""Names and forms of an earlier version that still work for one version, with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Self


def warn_deprecated(text: str) -> None:
    """Warn the caller's caller about a deprecated form."""
    warnings.warn(text, DeprecationWarning, stacklevel=3)


class SingleReport:
    """Base of reports that an earlier version returned as a list with one element."""

    def __iter__(self) -> Iterator[Self]:
        warn_deprecated("An operation has one report now, and no list of reports.")
        yield self

    def __getitem__(self, index: int) -> Self:
        warn_deprecated("An operation has one report now, and no list of reports.")
        return [self][index]
