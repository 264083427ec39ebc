"""Contract of cohort stores: a folder, a store in memory, S3 as implemented by moto.

moto honours If-None-Match and If-Match (`test_a_moto_that_ignores_conditions_is_noticed`), so
S3 skips only the tests that need a folder. A store in memory lives in one process and skips tests
with several processes.
"""

from __future__ import annotations

import errno
import os
import pickle
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import obstore
import pyarrow as pa
import pytest
import zarr
from deltalake import DeltaTable
from obstore.exceptions import AlreadyExistsError, PreconditionError
from obstore.store import from_url

from engine.errors import (
    AlreadyExists,
    Conflict,
    CorruptStore,
    MissingObject,
    ParameterError,
    StoreUnreachable,
)
from engine.store.backend.base import Store
from engine.store.backend.open import open_store
from engine.store.backend.write_check import check_writable
from engine.store.catalog.tables import ShardRow
from engine.store.config import Limits
from engine.store.delta.ledger import CommitConflict, Ledger
from engine.store.pixels.layout import IncomingPlane, plan_stack_layouts
from engine.store.pixels.stacks import StackReader, StackWriter, create_stack, stack_path
from tests.support.concurrent_writers import LOST, START_S, Contenders

PROCESSES = 8


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return an empty store of each kind."""
    return new_store(request, tmp_path, request.param)


@pytest.fixture(params=["local", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return an empty store that other processes can open."""
    return new_store(request, tmp_path, request.param)


def new_store(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> Store:
    if kind == "s3":
        return open_store(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")
    return open_store(tmp_path / "root" if kind == "local" else f"memory:///{tmp_path.name}")


# one process


def test_what_is_created_is_read_and_listed(store: Store) -> None:
    began = time.time()
    store.create("a/b/c", b"0123456789")
    store.create("a/d", memoryview(b"xyz"))
    store.create("empty", b"")
    assert store.read("a/b/c") == b"0123456789"
    assert store.read("empty") == b""
    entries = {
        entry.path: entry for entry in store.list() if not entry.path.startswith(".staging/")
    }
    assert {path: entry.size for path, entry in entries.items()} == {
        "a/b/c": 10,
        "a/d": 3,
        "empty": 0,
    }
    assert all(began - 2 < entry.modified_s < time.time() + 2 for entry in entries.values())
    assert [entry.path for entry in store.list("a/b/")] == ["a/b/c"]
    assert sorted(entry.path for entry in store.list("a/")) == ["a/b/c", "a/d"]
    assert list(store.list("nothing/")) == list(store.list("emp/")) == []


def test_a_part_is_read_as_far_as_it_goes(store: Store) -> None:
    store.create("x", b"0123456789")
    assert store.read("x", 3) == b"3456789"
    assert store.read("x", 3, 4) == b"3456"
    assert store.read("x", 8, 10) == b"89"
    assert store.read("x", 3, 0) == store.read("x", 10) == store.read("x", 99, 5) == b""


def test_what_is_not_there_is_said_to_be_missing(store: Store) -> None:
    store.create("folder/x", b"1")
    for path in ("nothing", "folder", "folder/y", "folder/x/z"):
        assert store.size(path) is None
        with pytest.raises(MissingObject, match=path):
            store.read(path)
        with pytest.raises(MissingObject):
            store.read(path, 1, 2)
    assert store.size("folder/x") == 1
    for path in ("nothing", "folder/x", "folder/x"):
        store.delete(path)
    assert store.size("folder/x") is None


def test_nothing_is_created_twice(store: Store, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.write_bytes(b"second")
    store.create("x", b"first")
    with pytest.raises(AlreadyExists, match="x"):
        store.create("x", b"first")
    with pytest.raises(AlreadyExists):
        store.create_from("x", made)
    assert store.read("x") == b"first"
    assert made.read_bytes() == b"second"
    store.delete("x")
    store.create("x", b"third")
    assert store.read("x") == b"third"


def test_a_file_made_aside_becomes_an_object(store: Store, tmp_path: Path) -> None:
    with store.staging() as folder:
        (folder / "0").write_bytes(b"one")
        store.create_from("a/created", folder / "0")
        assert store.read("a/created") == b"one"
    assert not folder.exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"four")
    store.create_from("b", elsewhere)
    assert store.read("b") == b"four"
    assert sorted(e.path for e in store.list()) == ["a/created", "b"]


def test_what_is_replaced_is_the_new_one(store: Store) -> None:
    store.replace("x", b"longer than the next one")
    store.replace("x", b"short")
    assert store.read("x") == b"short"
    assert store.size("x") == 5


def test_an_update_sees_what_is_there(store: Store) -> None:
    seen = []

    def change(old: bytes | None) -> bytes | None:
        seen.append(old)
        return None if old == b"2" else str(len(seen)).encode()

    assert [store.update("u", change) for _ in range(3)] == [True, True, False]
    assert seen == [None, b"1", b"2"]
    with pytest.raises(CorruptStore):
        store.update("u", lambda old: (_ for _ in ()).throw(CorruptStore("u", "odd")))
    assert store.read("u") == b"2"


def test_an_update_may_write_other_objects(store: Store, tmp_path: Path) -> None:
    def change(old: bytes | None) -> bytes:
        store.replace("other", b"o")
        with store.staging() as folder:
            (folder / "x").write_bytes(b"p")
            store.create_from("another", folder / "x")
        return b"n"

    assert store.update("u", change)
    assert [store.read(path) for path in ("u", "other", "another")] == [b"n", b"o", b"p"]


def test_threads_count_without_losing_any(store: Store) -> None:
    def count(_: int) -> bool:
        return store.update("n", lambda old: str(int(old or b"0") + 1).encode())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(count, range(40)))
    assert store.read("n") == b"40"


@pytest.mark.parametrize(
    "path",
    ["../x", "/x", "a/../../x", "a//x", "a/./x", "a\0b", "", "a/", "..\\x", "a\\..\\..\\x", "\\x"],
)
def test_no_path_leaves_the_root(store: Store, path: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.write_bytes(b"1")
    for act in (
        lambda: store.read(path),
        lambda: store.size(path),
        lambda: store.create(path, b""),
        lambda: store.create_from(path, made),
        lambda: store.replace(path, b""),
        lambda: store.update(path, lambda old: b""),
        lambda: store.delete(path),
        lambda: store.as_zarr_store(path),
        lambda: store.delta_location(path),
    ):
        with pytest.raises(ParameterError):
            act()
    if path not in ("", "a/"):
        with pytest.raises(ParameterError):
            list(store.list(path))
        with pytest.raises(ParameterError):
            store.as_local_path(path)
    assert made.exists()
    assert list(store.list()) == []


def test_staging_is_removed_whatever_happens(store: Store) -> None:
    folders = []

    def fail() -> None:
        with store.staging() as folder:
            folders.append(folder)
            (folder / "deep").mkdir()
            (folder / "deep" / "x").write_bytes(b"1")
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert not folders[0].exists()
    assert list(store.list()) == []


@pytest.mark.parametrize(
    ("number", "named", "told"),
    [
        (errno.ENOSPC, "StoreFull", "No space left"),
        (errno.EDQUOT, "StoreFull", "The quota is used up"),
        (errno.EIO, "StoreFailed", "Input/output error, EIO"),
        (errno.ESTALE, "StoreFailed", "Stale file handle, ESTALE"),
        (errno.EMFILE, "TooManyFiles", "ulimit -n"),
        (errno.EROFS, "StoreReadOnly", "No permission to write"),
    ],
)
@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_what_stops_an_assembly_is_named(
    store: Store, number: int, named: str, told: str, kind: type[Exception]
) -> None:
    text = f"{os.strerror(number)} (os error {number})"
    with pytest.raises(Exception, match=told) as caught, store.staging():
        raise OSError(number, "text") if kind is OSError else RuntimeError(text)
    assert type(caught.value).__name__ == named
    with pytest.raises(ValueError, match="odd") as other, store.staging():
        raise ValueError("odd")
    assert type(other.value) is ValueError


def test_a_root_travels_small(store: Store) -> None:
    store.create("x", b"1")
    packed = pickle.dumps(store)
    assert len(packed) < 300
    assert pickle.loads(packed).read("x") == b"1"
    assert pickle.loads(packed) == store


def test_writability_leaves_nothing_behind(store: Store) -> None:
    check_writable(store)
    assert list(store.list()) == []


# what is built on it


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_pixels_are_written_and_read(store: Store, dtype: str) -> None:
    arrivals = [IncomingPlane("r/i.png", f"{n}", (1, 40, 48), dtype, None) for n in range(20)]
    (plan,) = plan_stack_layouts(arrivals, "s", Limits())
    rows = {row.path: row for row in create_stack(store, plan)}
    pixels = np.random.default_rng(0).integers(0, 255, plan.shape).astype(dtype)
    pixels[9:12] = 0  # a shard without a chunk
    writer = StackWriter(store, plan.name)
    depth = plan.shard[0]
    for index in range(plan.grid[0]):
        row = writer.write(index, pixels[index * depth : (index + 1) * depth])
        assert row == writer.write(index, pixels[index * depth : (index + 1) * depth])
        rows[row.path] = row
    with pytest.raises(Conflict):
        writer.write(0, pixels[:depth] + 1)
    reader = StackReader(store, rows)
    assert np.array_equal(
        reader.read(plan.name, (slice(0, 20), 0, slice(0, 40), 3)), pixels[:, 0, :, 3]
    )
    assert np.array_equal(
        reader.read(plan.name, (7, slice(0, 1), slice(2, 9), slice(0, 48))), pixels[7, :, 2:9]
    )
    group = zarr.open_group(store.as_zarr_store(stack_path(plan.name)), mode="r")
    assert np.array_equal(group["0"][:], pixels)
    check_corruption(store, plan.name, rows, reader)


def check_corruption(
    store: Store, stack: str, rows: dict[str, ShardRow], reader: StackReader
) -> None:
    """A flipped bit and a lost shard raise."""
    whole = (slice(0, 20), slice(0, 1), slice(0, 40), slice(0, 48))
    path = next(path for path in rows if path.endswith("c/0/0/0/0"))
    good = store.read(path)
    random = np.random.default_rng(1)
    for place in random.integers(0, len(good), 20):
        bad = bytearray(good)
        bad[place] ^= 1 << int(random.integers(8))
        store.replace(path, bytes(bad))
        with pytest.raises(CorruptStore):
            reader.read(stack, whole)
    store.delete(path)
    with pytest.raises(MissingObject):
        reader.read(stack, whole)


def test_of_two_commits_one_is_refused(shared: Store) -> None:
    ledger = Ledger(
        shared, "results/x/v1", pa.schema([("image_id", pa.string()), ("n", pa.int64())])
    )
    seen = ledger.snapshot()
    parts = [ledger.write_part(pa.table({"image_id": ["a"], "n": [n]})) for n in range(3)]
    first = ledger.commit(seen, parts[:1])
    with pytest.raises(CommitConflict):
        ledger.commit(seen, parts[1:2])
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(ledger.commit, first, [part]) for part in parts[1:]]
        failed = [future.exception() for future in futures]
    assert sorted(type(error).__name__ for error in failed) == ["CommitConflict", "NoneType"]
    assert len(ledger.read(ledger.snapshot().parts)) == 2
    uri, options = shared.delta_location("results/x/v1")
    assert DeltaTable(uri, storage_options=options).version() == 2


# several processes


def test_of_many_creators_one_wins(shared: Store, contenders: Contenders) -> None:
    codes = contenders.wait(contenders.start("create", shared.url, [*map(str, range(PROCESSES))]))
    assert sorted(codes) == [0] + [LOST] * (PROCESSES - 1)
    assert shared.read("contended/one") == f"{codes.index(0)}".encode() * 10_000


def test_many_counters_lose_nothing(shared: Store, contenders: Contenders) -> None:
    times = 50
    codes = contenders.wait(contenders.start("count", shared.url, [f"{times}"] * PROCESSES))
    assert codes == [0] * PROCESSES
    assert shared.read("contended/counter") == f"{PROCESSES * times}".encode()


def test_a_killed_writer_leaves_nothing_torn(tmp_path: Path, contenders: Contenders) -> None:
    store = open_store(tmp_path / "root")
    seed = time.time_ns() % 10_000
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    seen = 0
    for _ in range(5):
        pids = contenders.start("write", store.url, [f"{seen}-{n}" for n in range(4)])
        time.sleep(START_S)
        for pid in pids:
            time.sleep(float(random.uniform(0, 0.3)))
            os.kill(pid, signal.SIGKILL)
        assert contenders.wait(pids) == [-signal.SIGKILL] * len(pids)
        found = list(store.list("loop/"))
        assert len(found) > seen
        seen = len(found)
        for entry in found:
            data = store.read(entry.path)
            assert len(data) > 64 * 1024
            assert len(data) == entry.size
            assert len(set(data)) == 1, entry.path
            count = int(entry.path.split("-")[2]) if entry.path.count("-") > 1 else 0
            assert count in (0, len(data) - 64 * 1024)
    assert {e.path.split("/")[0] for e in store.list()} <= {"loop", ".staging"}
    store.update("loop/lock-is-free", lambda old: b"1")


# objects


def test_a_moto_that_ignores_conditions_is_noticed(bucket: str, tmp_path: Path) -> None:
    store = from_url(f"{bucket}/{tmp_path.name}")
    first = obstore.put(store, "x", b"1", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(store, "x", b"2", mode="create")
    obstore.put(store, "x", b"3")
    with pytest.raises(PreconditionError):
        obstore.put(store, "x", b"4", mode={"e_tag": first["e_tag"]})


def test_a_bucket_or_server_that_is_not_there_is_named(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = open_store("s3://no-such-bucket/c")
    assert nowhere.size("x") is None
    for act in (lambda: nowhere.create("x", b""), lambda: list(nowhere.list())):
        with pytest.raises(StoreUnreachable, match="no such bucket"):
            act()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # discard: nobody listens
    off = open_store("s3://bucket/c-off")
    began = time.monotonic()
    with pytest.raises(StoreUnreachable, match="s3://bucket/c-off"):
        off.read("x")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("url", ["ftp://host/x", "s3://bucket/a?versionId=1", "", "a\0b"])
def test_a_url_that_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(ParameterError):
        open_store(url)


# folders


def test_a_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("a/../b")
    monkeypatch.chdir("/")
    assert store.url == str(tmp_path / "b")
    assert open_store(f"file://{tmp_path}/b%20c").url == f"{tmp_path}/b c"
    assert open_store(Path("/x")).url == "/x"


@pytest.fixture
def local(tmp_path: Path) -> Store:
    """Return a store in a folder."""
    return open_store(tmp_path / "root")


def test_a_file_system_without_hard_links(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(local.create, "a/x", f"{n}".encode()) for n in range(8)]
        errors = [future.exception() for future in futures]
    assert [type(e) for e in errors if e is not None] == [AlreadyExists] * 7
    assert local.read("a/x") == f"{errors.index(None)}".encode()


def test_a_lock_file_that_was_removed_is_no_lock(local: Store) -> None:
    def change(old: bytes | None) -> bytes:
        (Path(local.url) / ".staging" / "lock").unlink()  # as a collector might
        return (old or b"") + b"1"

    local.update("x", change)
    local.update("x", change)
    assert local.read("x") == b"11"


def test_a_failed_write_leaves_no_file_aside(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    local.create("x", b"1")
    (Path(local.url) / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        local.replace("folder", b"2")
    with pytest.raises(NotADirectoryError):
        local.create("x/y", b"2")
    assert [entry.path for entry in local.list()] == ["x"]
