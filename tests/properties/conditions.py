"""Invariants of any text as a condition, for hypothesis and for atheris."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from engine.conditions.compiling import select_rows
from engine.conditions.tree import ConditionError
from engine.visible import visible

NAN = float("nan")
ROWS = pa.table(
    {
        "subject": ["s1", "s2", None, "", "007", "Müller", "a'b", 's"2'],
        "site": ["a", "b", None, "b", "007", "s1", "a", "c"],
        "dose": [1.0, None, NAN, 3.0, -2.5, 0.0, float("inf"), 1e300],
        "visits": pa.array([1, None, 3, 4, -1, 0, None, 7], pa.int64()),
        "serial": [1, 2, 3, 4, -1, 2**53, 2**53 + 1, -(2**63)],
        "height": pa.array([1, 2, 3, 4, -1, 0, 512, 7], pa.int32()),
        "giant": [True, False, True, False, False, True, True, False],
        "smoker": [True, None, False, True, None, False, True, True],
        "dose (mg)": [1.5, 2.5, None, 4.0, 5.0, 6.0, 7.0, 8.0],
        "in": [1, 2, 3, 4, 5, 6, 7, 8],
    }
)
"""Rows with nulls, NaN, infinity and the limits of ranges."""

FRAME = ROWS.to_pandas()

FORBIDDEN = ("exec", "compile", "import", "open", "os.", "subprocess.", "socket.", "ctypes.")
"""Audit events (PEP 578) that must not occur while a condition is parsed."""

_seen: list[str] = []
_watched_thread: int | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    # Threads of a Dask client in this process open files of /proc all the time.
    if event.startswith(FORBIDDEN) and threading.get_ident() == _watched_thread:
        _seen.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_audit)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collect the code, imports and files that this thread executes or opens in the block."""
    global _watched_thread
    _seen.clear()
    _watched_thread = threading.get_ident()
    try:
        yield _seen
    finally:
        _watched_thread = None


def kept(where: str) -> np.ndarray[Any, Any] | None:
    """Return the rows that a condition selects, or None if it is refused, as it must be."""
    with watched() as seen:
        try:
            found = select_rows(ROWS, where)
        except ConditionError as error:
            text, start, end, problem, hint = error.args
            shown = f"{error}\n{error.pointed}"
            assert text == where
            assert 0 <= start < end <= len(where) + 1
            assert problem
            assert hint
            assert visible(shown, keep="\n") == shown
            assert len(shown.splitlines()) == 3
            found = None
    assert not seen, list(seen)
    return found


def kept_by_pandas(where: str) -> np.ndarray[Any, Any] | None:
    """Return the rows that pandas selects, or None if pandas rejects the condition.

    pandas executes its input: pass only conditions that `kept` has accepted.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = FRAME.eval(where, engine="python", local_dict={}, global_dict={})
    except Exception:
        return None
    if not isinstance(found, pd.Series) or not pd.api.types.is_bool_dtype(found):
        return None
    return found.to_numpy(bool)


def check(where: str) -> tuple[bool, bool]:
    """Check a text; return whether we accept it, and whether pandas does too.

    If both do, they select the same rows.
    """
    ours = kept(where)
    if ours is None:
        return False, False
    theirs = kept_by_pandas(where)
    if theirs is None:
        return True, False
    assert ours.tolist() == theirs.tolist(), where
    return True, True
