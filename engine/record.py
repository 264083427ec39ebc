"""What records have in common that go to workers and back by the thousand."""

from __future__ import annotations

from typing import Any


class Record:
    """Base of a frozen dataclass with slots that is pickled as the call that makes it.

    Left to itself such a class asks `dataclasses.fields` for each object, both ways: twice the
    time, which for an ingest is a tenth of the driver's.
    """

    __slots__ = ()
    __match_args__: tuple[str, ...]

    def __reduce__(self) -> tuple[type[Record], tuple[Any, ...]]:
        """Return the class and its arguments."""
        return type(self), tuple([getattr(self, name) for name in self.__match_args__])
