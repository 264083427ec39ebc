"""Limit of open files, checked before a local cluster would fail on it half-way."""

from __future__ import annotations

import resource
from contextlib import suppress

from engine.errors import TooManyFiles

LEAST_FILES = 128
"""Maximum open files of a driver and each worker, with few images and few workers."""


def require_files() -> None:
    """Raise the limit of open files as far as possible, if it is very low.

    Raises
    ------
    TooManyFiles
        If it stays too low for a local cluster.
    """
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < LEAST_FILES:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < LEAST_FILES:
        raise TooManyFiles("a local cluster", limit)
