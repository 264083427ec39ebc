"""Where the command ``cohort`` begins and ends: Ctrl-C is a sentence there too, or silence.

Importing the engine takes seconds. An exception that Ctrl-C raises meanwhile surfaces in the middle
of another package, which may print a traceback or swallow it and go on. Nothing has begun then, so
the process is left at once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

INTERRUPTED = 130


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"Stopped before anything was begun.\n")  # print may be busy under us
    os._exit(INTERRUPTED)


def main() -> None:
    """Import the command line and run it."""
    signal.signal(signal.SIGINT, _leave)
    # Python has None for a stream that was closed before it began (`>&-`); libraries expect one.
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    from jobs.cli import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is said: no traceback of what tidies up


if __name__ == "__main__":
    main()
