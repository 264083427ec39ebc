"""Whether a function reads what the catalog calls the image that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from engine.operations.array_metadata import NAMED

ALWAYS_READ = frozenset({*NAMED, "source", "rescale"}) - {"name"}
"""Attributes that a function reads if it has a name or a text called so."""


def reads_attributes(function: Callable[..., Any], values: Mapping[str, Any]) -> bool:
    """Tell whether a function, or one of its module that it calls, names a field of the catalog.

    As ``image.attrs["subject"]`` or ``image.subject``; of ``name``, which much else is called, only
    beside ``attrs``. A function of another module is not looked into: attributes are not there for
    it, in a run and where it is tried.

    Parameters
    ----------
    values
        Its parameters, which may say what it reads.

    Examples
    --------
    >>> reads_attributes(lambda image: image.attrs["subject"], {})
    True
    >>> reads_attributes(lambda image: image.y.attrs["units"], {})
    False
    """
    home = getattr(function, "__module__", None)
    waiting: list[Any] = [function]
    seen: set[FunctionType] = set()
    names = set(_names(values))
    while waiting:
        one = waiting.pop()
        one = getattr(one, "__func__", one)
        if not isinstance(one, FunctionType) or one in seen:
            continue
        seen.add(one)
        spoken = set(_names(one.__code__))
        used = [one.__globals__[name] for name in spoken & {*one.__globals__}]
        used += [cell.cell_contents for cell in one.__closure__ or () if _is_filled(cell)]
        names |= spoken | {*_names([used, one.__defaults__, one.__kwdefaults__])}
        waiting += [f for f in used if getattr(f, "__module__", None) == home]
        waiting.append(getattr(one, "__wrapped__", None))
    return bool(names & ALWAYS_READ) or {"attrs", "name"} <= names


def _names(value: Any) -> Iterator[str]:
    """Yield the names and texts in a value: in code those of what is defined in it too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (tuple, list, set, frozenset, dict)):
        for one in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _names(one)
    elif isinstance(value, CodeType):
        yield from value.co_names
        yield from _names(value.co_consts)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that nothing has been given yet
        return False
