"""Invariant 10: every reference is written after its target is durable, by traced system calls."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import pytest

from tests.distributed.processes import REPOSITORY

CALLS = "open,openat,creat,write,pwrite64,writev,fsync,fdatasync,link,linkat"
CALLS += ",rename,renameat,renameat2,mkdir,mkdirat,unlink,unlinkat,ftruncate,mmap"

PROGRAM = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import engine
from tests.distributed.power_work import COHORT, TRAINING, night, train, work
from tests.support.inprocess_client import here
disk, sources = Path(sys.argv[1]), Path(sys.argv[2])
cohort = engine.create(disk / COHORT, layout="{date}/{subject}/{experiment}/{name}")
with here() as client:
    for number in range(2):
        night(sources, number)
        cohort.ingest(sources, client=client)
        for _ in work(disk / COHORT, client):
            pass
train(disk / TRAINING)
"""

_STARTED = re.compile(r"^(\d+) +(.*?) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_PATHS = re.compile(r'"((?:[^"\\]|\\.)*)"')
_FILE = re.compile(r"^\d+<([^>]*)>")

ASIDE = re.compile(r"/\.staging(/|$)|/tables/\.fragments(/|$)|/\.lock$|/\.[^/]+\.[^/]*(/|$)")
"""Staged files, which have no published name yet."""

LEAF = re.compile(r"/pixels/.*/c/|/\w+-[0-9a-f]{32}\.parquet$|/qc/.*-[0-9a-f]{32}\.\w+$")
"""Files that reference nothing, and are written by several threads at once."""


@dataclass
class Order:
    """Durable parts of a folder, updated call by call; ``broken`` lists premature references."""

    place: str
    files: dict[str, int] = field(default_factory=dict)  # file number by name
    dirty: set[int] = field(default_factory=set)
    unsettled: set[str] = field(default_factory=set)  # names whose folder was not synced since
    published: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    _count: int = 0

    def ours(self, path: str) -> bool:
        return path.startswith(self.place)

    def written(self, path: str) -> None:
        if self.ours(path):
            self.dirty.add(self.files.setdefault(path, self._next()))

    def made(self, path: str) -> None:
        if self.ours(path) and path not in self.files:
            self.files[path] = self._next()
            self.unsettled.add(path)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def synced(self, path: str) -> None:
        self.dirty.discard(self.files.get(path, -1))
        self.unsettled = {name for name in self.unsettled if str(PurePath(name).parent) != path}

    def named(self, old: str, new: str, *, moved: bool) -> None:
        """A file gets a name under which others find it: it, and all before it, are durable."""
        if not self.ours(new):
            return
        for name in [n for n in self.files if n == old or n.startswith(old + "/")]:
            self.files[new + name[len(old) :]] = self.files[name]
            if moved:
                del self.files[name]
                self.unsettled.discard(name)
        if ASIDE.search(new):
            self.unsettled.add(new)
            return
        for name, number in self.files.items():
            here = name == new or name.startswith(new + "/")
            if number in self.dirty and not ASIDE.search(name) and (here or not LEAF.search(new)):
                self.broken.append(f"{new} before the bytes of {'its own' if here else name}")
        early = [name for name in self.unsettled if not ASIDE.search(name)]
        early = [] if LEAF.search(new) else early
        self.broken += [f"{new} before the name of {name}" for name in early]
        self.unsettled.add(new)
        self.published.append(new)

    def gone(self, path: str) -> None:
        self.files.pop(path, None)
        self.unsettled.discard(path)


def calls(log: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (name, arguments, result) of each successful call, in order of completion."""
    started: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        if match := _STARTED.match(line):
            started[match[1]] = match[2]
            continue
        if match := _RESUMED.match(line):
            line = f"{match[1]} {started.pop(match[1], '')}{match[2]}"
        if (match := _CALL.match(line)) and int(match[4]) >= 0:
            yield match[2], match[3], match[4]


def follow(log: Path, place: Path) -> Order:
    """Process the calls of a sequential process."""
    order = Order(str(place))
    for name, given, _ in calls(log):
        paths = [path if path[:1] == "/" else "" for path in _PATHS.findall(given)]
        file = _FILE.match(given)
        if name in ("open", "openat", "creat") and paths:
            if "O_CREAT" in given or name == "creat":
                order.made(paths[0])
            if "O_TRUNC" in given:
                order.written(paths[0])
        elif name in ("write", "pwrite64", "writev", "ftruncate") and file:
            order.written(file[1])
        elif name in ("fsync", "fdatasync") and file:
            order.synced(file[1])
        elif name in ("mkdir", "mkdirat") and paths:
            order.made(paths[0])
        elif name in ("link", "linkat") and len(paths) == 2:
            order.named(*paths, moved=False)
        elif name.startswith("rename") and len(paths) == 2:
            order.named(*paths, moved=True)
        elif name in ("unlink", "unlinkat") and paths:
            order.gone(paths[0])
    return order


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> Order:
    tracer = shutil.which("strace")
    if tracer is None:
        pytest.skip("strace is not installed: nothing is shown about the order of writes here")
    folder = tmp_path_factory.mktemp("order").resolve()
    for name in ("disk", "lab"):
        (folder / name).mkdir()
    log = folder / "calls"
    command = [tracer, "-f", "-y", "-s", "0", "-o", str(log), "-e", f"trace={CALLS}"]
    command += [sys.executable, "-c", PROGRAM, str(folder / "disk"), str(folder / "lab")]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if "PTRACE" in done.stderr:
        pytest.skip(f"no permission to trace: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    return follow(log, folder / "disk")


KINDS = {
    "shard": r"pixels/.*/c/", "metadata": r"zarr\.json$", "labels": r"pixels/.*/labels/.*/c/",
    "part": r"catalog/images/[^/]+\.parquet$", "log entry": r"_delta_log/\d+\.json$",
    "note": r"_head\.json$", "table": r"tables/[^/]+\.parquet$", "key": r"_keys/",
    "note of a table": r"tables/\.origin/", "picture": r"qc/.*\.jpg$", "pictures' note": r"\.note$",
    "page": r"index\.html$", "config": r"cohort\.toml$", "identity": r"cohort\.json$",
    "checkpoint": r"training/run/checkpoint\.pt$", "kept weights": r"training/run/kept-",
    "model": r"training/run/best-loss$",
}  # fmt: skip


@pytest.mark.timeout(600)
def test_nothing_is_referred_to_before_it_is_durable(order: Order) -> None:
    for kind, pattern in KINDS.items():
        assert any(re.search(pattern, path) for path in order.published), f"no {kind} was written"
    assert "\n".join(sorted({*order.broken})) == ""
    assert {name for name in order.unsettled if not ASIDE.search(name)} == set()


def test_the_check_finds_what_is_too_early() -> None:
    """An entry linked without fsync, as deltalake does, and a note after it."""
    order = Order("/c")
    order.made("/c/.staging/1")
    order.written("/c/.staging/1")
    order.named("/c/.staging/1", "/c/log/1.json", moved=False)
    assert order.broken == ["/c/log/1.json before the bytes of its own"]
    order.synced("/c/log/1.json")
    order.made("/c/.staging/2")
    order.named("/c/.staging/2", "/c/_head.json", moved=True)
    assert order.broken[1:] == ["/c/_head.json before the name of /c/log/1.json"]
    order.synced("/c/log")
    order.synced("/c")
    order.named("/c/_head.json", "/c/other", moved=False)
    assert len(order.broken) == 2
