"""Atomic writes of files: complete or unchanged, durable before they are visible."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from engine.errors import UsageError
from engine.store.backend.atomic_write import atomic_replace, atomic_write
from engine.store.backend.local import LocalStore
from jobs.commands.export import write_export


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    atomic_write(path, b"old")

    def fail_half_way() -> None:
        with atomic_replace(path) as aside:
            aside.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]
    with pytest.raises(UsageError, match=r"below\.pt can't be written: Not a directory"):
        atomic_write(path / "below.pt", b"")
    atomic_write(tmp_path / "a" / "b" / "new.pt", b"new")
    assert (tmp_path / "a" / "b" / "new.pt").read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["file", "export", "create", "replace"])
def test_data_are_durable_before_their_name_and_the_name_at_the_end(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(str(tmp_path))
    store.create("first.csv", b"makes the folders")
    calls: list[str] = []
    fsync, link, rename = os.fsync, os.link, Path.replace

    def traced_fsync(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append("sync folder" if place == tmp_path else "sync file")
        fsync(descriptor)

    def traced_link(*names: Path) -> None:
        calls.append("publish")
        link(*names)

    def traced_rename(source: Path, target: Path) -> Path:
        calls.append("publish")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "link", traced_link)
    monkeypatch.setattr(Path, "replace", traced_rename)
    match kind:
        case "file":
            atomic_write(tmp_path / "a.csv", b"n\n1\n")
        case "export":
            write_export(pa.table({"n": [1]}), tmp_path / "a.csv")
        case "create":
            store.create("a.csv", b"n\n1\n")
        case _:
            store.replace("a.csv", b"n\n1\n")
    assert calls == ["sync file", "publish", "sync folder"]
    assert (tmp_path / "a.csv").read_bytes().replace(b'"', b"") == b"n\n1\n"
