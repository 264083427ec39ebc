"""Base class of records that are pickled by the thousand."""

from __future__ import annotations

from typing import Any


class Record:
    """Base of a frozen dataclass with slots that pickles as a call of its constructor.

    By default such a class calls `dataclasses.fields` for each object, in both directions: twice
    the time, which for an ingest is a tenth of the driver's.
    """

    __slots__ = ()
    __match_args__: tuple[str, ...]

    def __reduce__(self) -> tuple[type[Record], tuple[Any, ...]]:
        """Return the class and its arguments."""
        return type(self), tuple([getattr(self, name) for name in self.__match_args__])
