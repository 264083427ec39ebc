"""The driver looks at files of unknown formats itself, many at once."""

from __future__ import annotations

import time
from io import BytesIO

import pytest

from engine.errors import SourceUnreadable
from engine.ingest import worker
from engine.ingest.tasks import FileStamp, SourceFile


class Slow:
    """A location in which each file takes a moment to open."""

    def __init__(self, base: str) -> None:
        self.base = base

    def open(self, path: str) -> BytesIO:
        """Return the bytes of a file."""
        time.sleep(0.02)
        if path.startswith("gone"):
            raise SourceUnreadable("unreadable", "is gone")
        return BytesIO(b"\x89PNG\r\n\x1a\n" if path.startswith("image") else b"words")


def test_the_first_bytes_of_many_files_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "open_location", Slow)
    names = [f"{('words', 'image', 'gone')[n % 3]}-{n}" for n in range(128)]
    files = [SourceFile(f"lab/{name}", "/lab", name, FileStamp(5, 0, 0)) for name in names]
    began = time.perf_counter()
    ignored = worker.find_ignored(files)
    took_s = time.perf_counter() - began
    assert ignored == {file for file in files if file.path.startswith("words")}
    assert took_s < 1.0, "one after the other they take 2.6 s"
    assert worker.find_ignored([]) == frozenset()
