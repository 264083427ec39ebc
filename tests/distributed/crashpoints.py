"""Scripted crashes: kill this process at its n-th link or rename below a cohort.

Counts the calls that make an object appear under its name: links (including a ledger's commit) and
renames. The product needs no hook: functions of the standard library are replaced.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

BEFORE, AFTER = "before", "after"


class Counter:
    """Count the points passed, and kill the process at one of them."""

    def __init__(self, place: str, point: int | None, when: str, log: str | None) -> None:
        self._place = place
        self._point = point
        self._when = when
        self._log = log
        self._passed = 0
        self._lock = threading.Lock()

    def passing(self, name: str, target: str) -> int:
        """Count a point, and return its number."""
        with self._lock:
            self._passed += 1
            number = self._passed
            if self._log is not None:
                with Path(self._log).open("a") as log:
                    log.write(f"{number} {name} {target}\n")
        if self._when == BEFORE and number == self._point:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    def passed(self, number: int) -> None:
        """Record that a point was passed without an error."""
        if self._when == AFTER and number == self._point:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap_path(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function (source, target)."""

        def wrapped(source: Any, target: Any, *rest: Any, **named: Any) -> Any:
            path = os.fsdecode(target)
            if not path.startswith(self._place):
                return function(source, target, *rest, **named)
            number = self.passing(name, path.removeprefix(self._place))
            found = function(source, target, *rest, **named)
            self.passed(number)
            return found

        return wrapped


def install(place: str, crash: tuple[int, str] | None, log: str | None) -> None:
    """Start counting.

    Parameters
    ----------
    place
        The cohort's folder.
    crash
        The point's number, from 1, and whether to die before or after it.
    log
        File to which each point's number and name are appended.
    """
    point, when = crash or (None, BEFORE)
    counter = Counter(place, point, when, log)
    for name in ("link", "rename", "replace"):
        setattr(os, name, counter.wrap_path(name, getattr(os, name)))
