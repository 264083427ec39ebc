"""Detection of functions that read an image's catalog identity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from engine.operations.array_metadata import NAMED

ALWAYS_READ = frozenset({*NAMED, "source", "rescale"}) - {"name"}
"""Attributes that count as read if a name or string in the function's code equals them."""


def reads_attributes(function: Callable[..., Any], values: Mapping[str, Any]) -> bool:
    """Return whether a function, or one of its module that it calls, names a field of the catalog.

    Detects ``image.attrs["subject"]`` and ``image.subject``. ``name`` is a common word, so it only
    counts together with ``attrs``. Functions of other modules are not inspected: they get no
    attributes, neither in a run nor in an interactive trial.

    Parameters
    ----------
    values
        The function's parameters, which may name the attributes to read.

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
    """Yield the names and strings in a value, including nested code."""
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
    except ValueError:  # an unbound closure variable
        return False
