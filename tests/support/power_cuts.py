"""Power cut in one process: unsynced data are lost, or torn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

_State = tuple[int, int, int]  # inode, size, time of the last write


@contextmanager
def unsynced(place: Path) -> Iterator[Callable[[bool], int]]:
    """Track the durable contents of a folder from now on.

    Yields
    ------
    Function that cuts the power: files with unsynced bytes become empty, and, on request, names in
    unsynced folders are reset to their previous state. Returns the number of changes.
    """
    durable = {_state(path) for path in place.rglob("*") if path.is_file()}
    names: list[tuple[str, str, bytes | None]] = []  # (folder, name, previous contents)

    def changes(function: Callable[..., Any], which: int) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            path = Path(os.path.abspath(given[which]))  # noqa: PTH100 - links are not followed
            if named.get("dir_fd") is not None or not path.is_relative_to(place):
                return function(*given, **named)
            before = path.read_bytes() if path.is_file() else None
            found = function(*given, **named)
            names.append((str(path.parent), str(path), before))
            return found

        return call

    sync = os.fsync

    def syncing(number: int) -> None:
        sync(number)
        path = Path(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115
        if path.is_dir():
            names[:] = [change for change in names if change[0] != str(path)]
        elif path.is_file():
            durable.add(_state(path))

    def cut(names_too: bool) -> int:
        lost = names[::-1] if names_too else []
        for _, name, before in lost:
            Path(name).unlink(missing_ok=True)
            if before is not None and Path(name).parent.is_dir():
                Path(name).write_bytes(before)
                durable.add(_state(Path(name)))
        torn = [p for p in place.rglob("*") if p.is_file() and _state(p) not in durable]
        for path in torn:
            os.truncate(path, 0)
        return len(lost) + len(torn)

    with ExitStack() as stack:
        stack.enter_context(patch.object(os, "fsync", syncing))
        for name, which in (("link", 1), ("rename", 1), ("replace", 1), ("unlink", 0)):
            stack.enter_context(patch.object(os, name, changes(getattr(os, name), which)))
        yield cut


def _state(path: Path) -> _State:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def tear(place: Path, ledger: str, count: int, share: float) -> list[str]:
    """Truncate a ledger's newest log entries to a share of their bytes; return the entries."""
    log = sorted((place / ledger / "_delta_log").glob("*.json"))
    for path in log[1:][-count:]:
        os.truncate(path, int(path.stat().st_size * share))
    return [path.relative_to(place).as_posix() for path in log[1:][-count:]]
