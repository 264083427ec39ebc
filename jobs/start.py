"""Entry point of the command ``cohort``; Ctrl-C during imports prints a sentence or nothing.

Importing the engine takes seconds. An exception that Ctrl-C raises meanwhile surfaces in the middle
of another package, which may print a traceback or swallow it and go on. Nothing has begun then, so
the process is left at once. `jobs.framework.run_command` takes Ctrl-C over when all that a command
imports is there.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

INTERRUPTED = 130

ADDRESS_SPACE_BYTES = 4 * 1024**3
"""Minimum address space of a process, bytes: stacks of threads and arenas of allocators reserve
much and use little. With less, workers die or hang at their start."""


def _leave(number: int, frame: FrameType | None) -> None:
    # print may be in use in the interrupted code
    os.write(2, b"Stopped before anything was begun.\n")
    os._exit(INTERRUPTED)


def _require_address_space() -> None:
    """Exit with a message if `ulimit -v` is too low, before libraries fail in unclear ways."""
    try:
        import resource  # not available on every system

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    except (ImportError, AttributeError):
        return
    if limit == resource.RLIM_INFINITY or limit >= ADDRESS_SPACE_BYTES:
        return
    told = (
        f"cohort: A process may use {limit / 1e9:.1f} GB of address space here (ulimit -v), and "
        f"libraries reserve up to {ADDRESS_SPACE_BYTES / 1e9:.1f} GB. Raise it (ulimit -v "
        "unlimited), and limit workers by --memory-limit instead.\n"
    )
    os.write(2, told.encode())
    os._exit(1)


def main() -> None:
    """Import the command line and run it."""
    _require_address_space()
    signal.signal(signal.SIGINT, _leave)
    # Python sets a stream that was closed before its start (`>&-`) to None; libraries expect one.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    from jobs.cli import main as run

    try:
        run()
    finally:
        # Restore the default handler: no traceback during interpreter shutdown.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
