"""Translation of pydantic's validation errors into errors for users."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import ValidationError

from engine.errors import EngineError, ParameterError, UsageError, did_you_mean


def told_in_words(
    error: ValidationError, operation: str, known: Collection[str], given: Mapping[str, Any]
) -> EngineError:
    """Return the first problem as an error to raise.

    Parameters
    ----------
    operation, known
        Name of the operation, and names of its parameters.
    given
        The given values, by parameter.
    """
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, EngineError):  # a field's own validator has the best message
        return cause
    name = ".".join(str(part) for part in first["loc"]) or operation
    if first["type"] == "extra_forbidden":
        meant = did_you_mean(name, known) or "."
        return UsageError(
            f"{operation} has no parameter {name!r}{meant} Its parameters: {', '.join(known)}."
        )
    if first["type"] == "missing":
        return UsageError(f"{operation} needs a value for the parameter {name!r}.")
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] in ("tuple_type", "too_long"):
        message = "a range, e.g. 10:60"
    value = given.get(str(first["loc"][0])) if first["loc"] else given
    return ParameterError(name, value, message)
