"""Faults 17 and 18 on disk: loops, links, names, permissions; and the order of the walk."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import NoSource, SourceUnreadable
from engine.sources import REASONS
from engine.sources.locations.folder import (
    FileStat,
    escape_path,
    open_file,
    real_path,
    unescape_path,
    walk_files,
)


def found(root: Path, below: str = "") -> dict[str, str | None]:
    rows = list(walk_files(root, below))
    assert len({row.path for row in rows}) == len(rows)
    assert all(row.problem is None or row.problem in REASONS for row in rows)
    return {row.path: row.problem for row in rows}


def put(place: Path, content: bytes = b"x") -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return place


def test_order_is_that_of_the_paths_bytes(tmp_path: Path) -> None:
    for name in ("b/2", "b/1", "b.png", "a", "b-c", "B", "b/c/3", ".hidden/x", "é", "z"):
        put(tmp_path / name)
    paths = [row.path for row in walk_files(tmp_path)]
    assert paths == sorted(paths, key=os.fsencode)
    assert len(paths) == 10


def test_what_is_known_of_a_file(tmp_path: Path) -> None:
    place = put(tmp_path / "a.png", b"12345")
    about = place.stat()
    assert list(walk_files(tmp_path)) == [
        FileStat("a.png", 5, about.st_mtime_ns, about.st_ctime_ns)
    ]


def test_links_inside_stand_for_what_is_listed_already(tmp_path: Path) -> None:
    put(tmp_path / "data/a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "data/a.png")
    (tmp_path / "again").symlink_to("data")
    assert found(tmp_path) == {"data/a.png": None}


def test_loops_end(tmp_path: Path) -> None:
    put(tmp_path / "data/a.png")
    (tmp_path / "data/up").symlink_to(tmp_path)
    (tmp_path / "data/here").symlink_to(".")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "one.png").symlink_to("two.png")
    (tmp_path / "two.png").symlink_to("one.png")
    assert found(tmp_path) == {
        "data/a.png": None,
        "self.png": "link_loop",
        "one.png": "link_loop",
        "two.png": "link_loop",
    }


def test_links_out_are_refused(tmp_path: Path) -> None:
    secret = put(tmp_path / "elsewhere/secret.png")
    root = tmp_path / "root"
    put(root / "a.png")
    (root / "b.png").symlink_to(secret)
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "gone.png").symlink_to(tmp_path / "elsewhere/none.png")
    (root / "dangling.png").symlink_to("none.png")
    (root / "almost.png").symlink_to(put(tmp_path / "root2/x.png"))
    assert found(root) == {
        "a.png": None,
        "almost.png": "outside_root",
        "b.png": "outside_root",
        "dangling.png": "vanished",
        "folder": "outside_root",
        "gone.png": "outside_root",
    }
    for path in ("b.png", "folder/secret.png"):
        with pytest.raises(SourceUnreadable) as caught:
            open_file(root, path)
        assert caught.value.reason == "outside_root"


def test_the_root_may_be_a_link(tmp_path: Path) -> None:
    put(tmp_path / "data/a.png")
    (tmp_path / "root").symlink_to("data")
    assert found(tmp_path / "root") == {"a.png": None}
    with open_file(tmp_path / "root", "a.png") as file:
        assert file.read() == b"x"


def test_a_part_of_the_root(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/b/2.png", "c/3.png"):
        put(tmp_path / name)
    assert found(tmp_path, "a") == {"a/1.png": None, "a/b/2.png": None}
    assert found(tmp_path, "a/b/") == {"a/b/2.png": None}
    assert found(tmp_path, "c/3.png") == {"c/3.png": None}
    with pytest.raises(NoSource):
        found(tmp_path, "none")
    with pytest.raises(SourceUnreadable, match="outside_root"):
        found(tmp_path / "a", "../c")


def test_no_such_root(tmp_path: Path) -> None:
    with pytest.raises(NoSource):
        found(tmp_path / "none")
    with pytest.raises(NoSource):
        found(put(tmp_path / "file"))


NAMES = [
    b"caf\xe9.png",
    b"a\nb.png",
    b"back\\slash.png",
    b"\\xe9.png",
    b"\xff\xfe",
    "é%FF.png".encode(),
]


def test_any_name_survives_the_catalog_and_opens(tmp_path: Path) -> None:
    for name in NAMES:
        put(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)), name)
    rows = list(walk_files(tmp_path))
    assert len(rows) == len(NAMES)
    for row in rows:
        assert row.path.encode().decode() == row.path
        assert row.path.isprintable()
        with open_file(tmp_path, row.path) as file:
            assert file.read() == os.fsencode(real_path(tmp_path, row.path).name)
    assert {row.path for row in rows} >= {r"caf\xe9.png", r"a\x0ab.png", r"back\x5cslash.png"}


@given(st.binary(min_size=1).filter(lambda name: b"\0" not in name))
def test_escaping_is_reversible(name: bytes) -> None:
    path = os.fsdecode(name)
    escaped = escape_path(path)
    assert escaped.encode().decode() == escaped
    assert "\n" not in escaped
    assert os.fsencode(unescape_path(escaped)) == name


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_escaping_keeps_names_apart(a: bytes, b: bytes) -> None:
    assert (escape_path(os.fsdecode(a)) == escape_path(os.fsdecode(b))) == (a == b)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "a\0b", r"\x2e\x2e/x", r"\x2fetc"]
)
def test_paths_that_climb_are_refused(tmp_path: Path, path: str) -> None:
    for use in (real_path, open_file):
        with pytest.raises(SourceUnreadable) as caught:
            use(tmp_path, path)
        assert caught.value.reason == "outside_root"


def test_pipes_and_sockets(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "socket.png"))
    assert found(tmp_path) == {"pipe.png": "not_a_file", "socket.png": "not_a_file"}
    for name in ("pipe.png", "socket.png"):
        with pytest.raises(SourceUnreadable) as caught:
            open_file(tmp_path, name)
        assert caught.value.reason in ("not_a_file", "unreadable")


def test_opening_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, reason in (("none.png", "vanished"), ("folder", "not_a_file")):
        with pytest.raises(SourceUnreadable) as caught:
            open_file(tmp_path, name)
        assert caught.value.reason == reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_folders_and_files_without_permission(tmp_path: Path) -> None:
    put(tmp_path / "closed/a.png")
    put(tmp_path / "b.png").chmod(0)
    (tmp_path / "closed").chmod(0)
    try:
        assert found(tmp_path) == {"b.png": None, "closed/": "unreadable"}
        with pytest.raises(SourceUnreadable, match="unreadable"):
            open_file(tmp_path, "b.png")
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_a_folder_that_can_not_be_listed_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "closed/a.png")
    put(tmp_path / "open/b.png")
    scandir = os.scandir

    def refuse(place: str) -> object:
        if place.endswith("/closed"):
            raise PermissionError(13, "denied")
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    assert found(tmp_path) == {"closed/": "unreadable", "open/b.png": None}


def test_deep_trees_do_not_recurse(tmp_path: Path) -> None:
    folder = tmp_path
    depth = 400
    for _ in range(depth):
        folder = folder / "d"
    folder.mkdir(parents=True)
    put(folder / "a.png")
    assert list(found(tmp_path)) == ["d/" * depth + "a.png"]
