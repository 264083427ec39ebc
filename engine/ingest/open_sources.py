"""Open sources of a worker; one that is slow to open stays open for the next task of its file.

A gzipped volume has to be inflated to its end before its first plane, and its shards are tasks of
their own: 13 for a volume of 200 MB, whose ingest took 66 s, and takes 9 s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from engine.sources import OpenSource

KEPT_S = 20.0
"""Time that an unused source stays open, seconds; tasks of one file follow each other sooner."""


class _Kept(NamedTuple):
    key: Hashable
    source: OpenSource
    resources: ExitStack
    timer: threading.Timer


class OpenSources:
    """Open sources of a process, of which one at most is kept while no task uses it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: _Kept | None = None

    @contextmanager
    def opened(
        self, key: Hashable, open_source: Callable[[ExitStack], OpenSource]
    ) -> Iterator[OpenSource]:
        """Open a source, or take the kept one of this key: no other task uses it meanwhile.

        Parameters
        ----------
        open_source
            Opens the source, with all that must be closed in the given stack.
        """
        with ExitStack() as resources:
            kept = self._exchange(None)
            if kept is not None:
                resources.push(kept.resources)
            if kept is not None and kept.key == key:
                source = kept.source
            else:
                resources.close()
                source = open_source(resources)
            yield source
            if source.slow_to_open:
                self._keep(key, source, resources.pop_all())

    def close(self) -> None:
        """Close the kept source."""
        self._keep_instead(None)

    def _keep(self, key: Hashable, source: OpenSource, resources: ExitStack) -> None:
        timer = threading.Timer(KEPT_S, self.close)
        timer.daemon = True
        self._keep_instead(_Kept(key, source, resources, timer))
        timer.start()

    def _keep_instead(self, kept: _Kept | None) -> None:
        before = self._exchange(kept)
        if before is not None:
            before.resources.close()

    def _exchange(self, kept: _Kept | None) -> _Kept | None:
        with self._lock:
            before, self._kept = self._kept, kept
        if before is not None:
            before.timer.cancel()
        return before
