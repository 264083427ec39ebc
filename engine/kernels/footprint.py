"""How much memory this process took at most."""

from __future__ import annotations

import resource
import sys


def peak_rss_bytes() -> int:
    """Return the greatest resident set of this process so far, bytes (getrusage(2))."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
