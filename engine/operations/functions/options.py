"""Checks of the arguments that define a function's operation, in Python or in cohort.toml."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from engine.errors import ParameterError
from engine.operations.functions.columns import TAKEN


def check_version(version: Any) -> int:
    """Return a version.

    Raises
    ------
    ParameterError
        If it is not a positive whole number.
    """
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ParameterError("version", version, "a whole number, at least 1")
    return version


def check_object_name(name: Any, columns: Sequence[str]) -> None:
    """Raise ParameterError if a column beside others can't have this name."""
    if not isinstance(name, str) or not name:
        raise ParameterError("object_name", name, 'a name, e.g. "cell"')
    if name in {*TAKEN, *columns, "y", "x"} or name.startswith("_"):
        raise ParameterError("object_name", name, "another name: tables have a column called so")


def check_halo(halo_px: Any) -> None:
    """Raise ParameterError if a halo is not a whole number of pixels."""
    if isinstance(halo_px, bool) or not isinstance(halo_px, Integral) or halo_px < 0:
        raise ParameterError("halo_px", halo_px, "a whole number of pixels, at least 0")


def checked_resources(resources: Any) -> tuple[tuple[str, float], ...]:
    """Return resources in order of their names.

    Raises
    ------
    ParameterError
        If they are not positive numbers by name.
    """
    named = {} if resources is None else resources
    if not isinstance(named, Mapping) or not all(
        isinstance(name, str) and name and _is_positive(amount) for name, amount in named.items()
    ):
        raise ParameterError("resources", resources, "positive numbers by name, e.g. GPU = 1")
    return tuple(sorted(named.items()))


def _is_positive(amount: Any) -> bool:
    number = isinstance(amount, Real) and not isinstance(amount, bool)
    return number and math.isfinite(amount) and amount > 0


def checked_list(
    parameter: str, values: Any, kinds: type | tuple[type, ...], example: str
) -> tuple[Any, ...]:
    """Return different values as a tuple.

    Raises
    ------
    ParameterError
        If they are not a list of these types, or one is listed twice.
    """
    listed = isinstance(values, Sequence) and not isinstance(values, (str, bytes))
    if not listed or not all(isinstance(value, kinds) for value in values):
        raise ParameterError(parameter, values, f"a list, e.g. {example}")
    names = [getattr(value, "name", value) for value in values]
    if len({*names}) < len(names):
        raise ParameterError(parameter, values, "a list of different names")
    return tuple(values)
