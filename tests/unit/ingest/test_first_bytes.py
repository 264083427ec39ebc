"""The driver looks at files of unknown formats itself, many at once."""

from __future__ import annotations

import threading
from io import BytesIO

import pytest

from engine.errors import SourceUnreadable
from engine.ingest import worker
from engine.ingest.tasks import FileStamp, SourceFile

TOGETHER = 8


class Together:
    """A location in which files open once several are asked for at the same time."""

    asked = threading.Barrier(TOGETHER, timeout=60)

    def __init__(self, base: str) -> None:
        self.base = base

    def open(self, path: str) -> BytesIO:
        """Return the bytes of a file; one after the other, they break the barrier."""
        self.asked.wait()
        if path.startswith("gone"):
            raise SourceUnreadable("unreadable", "is gone")
        return BytesIO(b"\x89PNG\r\n\x1a\n" if path.startswith("image") else b"words")


def test_the_first_bytes_of_many_files_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "open_location", Together)
    names = [f"{('words', 'image', 'gone')[n % 3]}-{n}" for n in range(128)]
    files = [SourceFile(f"lab/{name}", "/lab", name, FileStamp(5, 0, 0)) for name in names]
    ignored = worker.find_ignored(files)
    assert ignored == {file for file in files if file.path.startswith("words")}
    assert worker.find_ignored([]) == frozenset()
