"""Detection of functions that read an image's catalog identity, or its channels' names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from engine.operations.array_metadata import NAMED

ALWAYS_READ = frozenset({*NAMED, "source", "rescale"}) - {"name"}
"""Attributes that count as read if a name or string in the function's code equals them."""

SELECTS = frozenset({"sel", "loc", "coords", "indexes", "get_index"})
"""Attributes of a DataArray by which coordinates are read."""


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
    names = {*_names(values)}.union(*map(_names_read, _own_functions(function)))
    return bool(names & ALWAYS_READ) or {"attrs", "name"} <= names


def reads_channels(function: Callable[..., Any]) -> bool:
    """Return whether a function, or one of its module that it calls, reads the coordinate ``c``.

    Detects ``image.c`` and ``image.sel(c="DAPI")``, and ``"c"`` beside `loc` or `coords`.

    Examples
    --------
    >>> reads_channels(lambda image: image.sel(c="DAPI"))
    True
    >>> reads_channels(lambda image: image.isel(c=0).mean("y"))
    False
    """
    for one in _own_functions(function):
        attributes = {*_attributes(one.__code__)}
        if "c" in attributes or ("c" in _names_read(one) and attributes & SELECTS):
            return True
    return False


def _own_functions(function: Callable[..., Any]) -> Iterator[FunctionType]:
    """Yield a function, and those of its module that it uses."""
    home = getattr(function, "__module__", None)
    waiting: list[Any] = [function]
    seen: set[FunctionType] = set()
    while waiting:
        one = waiting.pop()
        one = getattr(one, "__func__", one)
        if not isinstance(one, FunctionType) or one in seen:
            continue
        seen.add(one)
        yield one
        used = _values_used(one)
        waiting += [f for f in used if getattr(f, "__module__", None) == home]
        waiting.append(getattr(one, "__wrapped__", None))


def _values_used(function: FunctionType) -> list[Any]:
    spoken = {*_names(function.__code__)}
    used = [function.__globals__[name] for name in spoken & {*function.__globals__}]
    return used + [c.cell_contents for c in function.__closure__ or () if _is_filled(c)]


def _names_read(function: FunctionType) -> set[str]:
    """Return the names and strings in a function, its defaults, and values that it uses."""
    values = [_values_used(function), function.__defaults__, function.__kwdefaults__]
    return {*_names(function.__code__), *_names(values)}


def _attributes(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _attributes(inner)


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
