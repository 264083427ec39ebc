"""Preload for workers (dask --preload) that stops a worker (SIGSTOP) once, just before a write.

The environment names the write (``STOP_AT``) and a file that records the stop and, in a second
file, the outcome of the write after the worker continued.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine.tables.driver
from engine.store.delta.ledger import Ledger
from engine.store.pixels.stacks import StackWriter
from tests.support.operations import first_time

PLACES: dict[str, tuple[Any, str]] = {
    "part": (Ledger, "write_part"),
    "shard": (StackWriter, "write"),
    "table": (engine.tables.driver, "write_table"),
}
"""Kinds of writes, and the functions that do them."""


def _stopping(function: Callable[..., Any], marker: Path) -> Callable[..., Any]:
    def stopping(*given: Any, **named: Any) -> Any:
        if not first_time(str(marker)):
            return function(*given, **named)
        os.kill(os.getpid(), signal.SIGSTOP)
        outcome = "written"
        try:
            return function(*given, **named)
        except BaseException as error:
            outcome = type(error).__name__
            raise
        finally:
            marker.with_suffix(".outcome").write_text(outcome)

    return stopping


if "STOP_AT" in os.environ:
    owner, name = PLACES[os.environ["STOP_AT"]]
    setattr(owner, name, _stopping(getattr(owner, name), Path(os.environ["STOP_ONCE"])))
