"""JSON records that hold a digest of their other values, so that any changed byte is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from engine.errors import CorruptStore
from engine.store.digests import digest_of

Record = TypeVar("Record")


def seal(values: Mapping[str, Any], field: str = "check", indent: int | None = None) -> bytes:
    """Return the bytes of a record, equal for equal values.

    Parameters
    ----------
    values
        Content of the record, as JSON values.
    field
        Name under which the digest is added.
    indent
        Indentation, for records that people read.

    Examples
    --------
    >>> seal({"a": 1})
    b'{"a": 1, "check": "015abd7f5cc57a2dd94b7590f04ad808"}'
    """
    return json.dumps({**values, field: digest_of(values)}, indent=indent).encode()


def unseal(
    raw: bytes,
    path: str,
    build: Callable[[dict[str, Any]], Record],
    *,
    field: str = "check",
    indent: int | None = None,
    problem: str = "is not the JSON that the engine wrote",
) -> Record:
    """Return what ``build`` makes of a record's values.

    Raises
    ------
    CorruptStore
        With ``problem``, if the bytes differ from those of `seal`, or values are missing.
    """
    try:
        values = dict(json.loads(raw))
        del values[field]
        if seal(values, field, indent) == raw:
            return build(values)
    except (ValueError, KeyError, TypeError):
        pass
    raise CorruptStore(path, problem)
