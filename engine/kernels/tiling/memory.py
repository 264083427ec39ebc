"""How much memory this process took at most."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_rss_bytes() -> int:
    """Return the greatest resident set of this process so far, bytes.

    From ``VmHWM`` (proc(5)) where there is one: what getrusage(2) tells is inherited, so a worker
    would begin with the peak of the process that started it.
    """
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
