"""Names and forms of an earlier version that still work for one version, with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


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


def renamed_arguments(**names: str) -> Callable[[F], F]:
    """Return a decorator that takes arguments under their earlier names too: ``earlier="new"``."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            for earlier in names.keys() & named.keys():
                warn_deprecated(f"The argument {earlier} is called {names[earlier]} now.")
                named[names[earlier]] = named.pop(earlier)
            return function(*given, **named)

        return cast(F, call)

    return decorate


class RenamedMember:
    """Member of a class under its earlier name; `adopt_earlier_names` serves its subclasses."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __set_name__(self, owner: type, earlier: str) -> None:
        self.earlier = earlier

    def __get__(self, instance: object, owner: type) -> Any:
        warn_deprecated(f"{owner.__name__}.{self.earlier} is called {self.name} now.")
        return getattr(owner if instance is None else instance, self.name)


def adopt_earlier_names(kind: type) -> None:
    """Move members that a subclass defines under earlier names to their names."""
    renamed = [m for base in kind.__mro__[1:] for m in vars(base).values()]
    for member in renamed:
        if isinstance(member, RenamedMember) and member.earlier in vars(kind):
            warn_deprecated(f"{kind.__name__}.{member.earlier} is called {member.name} now.")
            setattr(kind, member.name, vars(kind)[member.earlier])
            delattr(kind, member.earlier)
