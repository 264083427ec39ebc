"""Files named in settings: pipes, sockets and devices are refused at once, and stops are heard."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import engine
from engine import plain_files
from engine.errors import ConfigError
from engine.learning.models import bundle
from engine.learning.models.card import Card, CardError
from engine.learning.models.weights import WeightsRefused
from engine.plain_files import NotAFile, read_plain, reads_end_on
from engine.privacy import KEY_FILE, NoPseudonymKey, read_key
from engine.store.config import read_config
from engine.store.subjects import read_subjects


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def pipe_by_a_link(path: Path) -> Path:
    os.mkfifo(path.with_suffix(".pipe"))
    path.symlink_to(path.with_suffix(".pipe"))
    return path


def listening(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as opened:
        before = Path.cwd()
        os.chdir(path.parent)  # a socket's path has 108 characters at most
        try:
            opened.bind(path.name)
        finally:
            os.chdir(before)
    return path


def endless(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def terminal(path: Path) -> Path:
    path.symlink_to("/dev/ptmx")
    return path


KINDS = [pipe, pipe_by_a_link, listening, endless, terminal]


@pytest.fixture(params=KINDS, ids=lambda made: made.__name__)
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make: Callable[[Path], Path] = request.param
    return make(tmp_path / "thing.toml")


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Nothing here may wait."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < 20


def test_a_file_that_is_none_is_refused_wherever_it_is_named(no_file: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAFile, match="is a pipe, a socket or a device"):
        read_plain(no_file)
    with pytest.raises(NoPseudonymKey, match="pipe, a socket or a device"):
        read_key({KEY_FILE: str(no_file)})
    cohort = engine.create(tmp_path / "cohort")
    (tmp_path / "cohort/cohort.toml").write_text(f'subjects = "{no_file}"\n')
    with pytest.raises(ConfigError, match=r"cohort.toml, subjects.*pipe, a socket"):
        read_subjects(cohort.store, read_config(cohort.store))
    card = Card(name="edges", architecture="onnx")
    weights = no_file.rename(tmp_path / "weights.onnx")
    with pytest.raises(WeightsRefused, match="pipe, a socket or a device"):
        bundle.import_model(weights, tmp_path / "bundle", card)
    (tmp_path / "cohort/cohort.toml").unlink()
    weights.rename(tmp_path / "cohort/cohort.toml")
    with pytest.raises(NotAFile, match=r"cohort.toml is a pipe"):
        engine.open(tmp_path / "cohort").config  # noqa: B018


@pytest.mark.parametrize("name", ["card.json", "model.onnx"])
def test_a_model_of_pipes_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "model").mkdir()
    os.mkfifo(tmp_path / "model" / name)
    with pytest.raises((NotAFile, CardError, WeightsRefused)):
        bundle.open_bundle(tmp_path / "model").load("cpu")


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, fifo = tmp_path / "file", pipe(tmp_path / "fifo")
    file.write_bytes(b"a key")
    real = os.open

    def swapped(path: Path, *how: int) -> int:
        fifo.replace(file)
        return real(path, *how)

    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(NotAFile):
        plain_files.open_plain(file)


def test_what_can_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        read_plain(tmp_path / "gone")
    with pytest.raises(IsADirectoryError):
        read_plain(tmp_path)
    (tmp_path / "large").write_bytes(b"")
    os.truncate(tmp_path / "large", 10 * plain_files.MOST_BYTES)
    with pytest.raises(OSError, match="File too large"):
        read_plain(tmp_path / "large")
    (tmp_path / "small").write_bytes(b"key\n")
    assert read_plain(tmp_path / "small") == b"key\n"
    monkeypatch.setattr(plain_files, "ANSWER_S", 0.2)
    monkeypatch.setattr(plain_files, "_read", lambda path: time.sleep(5))
    with pytest.raises(NoPseudonymKey, match=r"can't be read \(TimeoutError\)"):
        read_key({KEY_FILE: str(tmp_path / "small")})


def test_a_stop_ends_a_read_that_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, left = threading.Event(), threading.Event()
    monkeypatch.setattr(plain_files, "_read", lambda path: left.wait(60))
    threading.Timer(0.3, asked.set).start()
    began = time.monotonic()
    with reads_end_on(asked.is_set), pytest.raises(KeyboardInterrupt):
        read_plain(tmp_path / "key")
    left.set()
    assert 0.2 < time.monotonic() - began < 5
