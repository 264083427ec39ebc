"""Faults 10 and 11 on small real disks: full or read-only is reported, and no partial write
shows."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from distributed import Client

import engine
from engine.errors import AlreadyExists, StoreFull, StoreReadOnly
from engine.store.backend.base import Store
from engine.store.backend.open import open_store
from engine.store.backend.write_check import check_writable
from engine.store.config import Limits
from engine.store.delta.ledger import Ledger
from engine.store.pixels.layout import IncomingPlane, plan_stack_layouts
from engine.store.pixels.stacks import StackReader, StackWriter, create_stack
from jobs.cli import main
from tests.contracts.small_disks import fill, mount, small_disk
from tests.support.images import LAYOUT, discs, put

RADII = {"radius_px": (8, 24)}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Disk of 1 MiB."""
    with small_disk(tmp_path / "disk") as found:
        yield found


def visible(store: Store) -> set[str]:
    return {entry.path for entry in store.list()}


def writers(store: Store, made: Path) -> dict[str, Callable[[], object]]:
    """Return all ways to write 8 KiB, by name."""
    body = b"\1" * 8192

    def assemble() -> None:
        with store.staging() as folder:
            (folder / "x").write_bytes(body)

    return {
        "create": lambda: store.create("new/created", body),
        "create_from": lambda: store.create_from("new/from", made),
        "replace": lambda: store.replace("there", body),
        "update": lambda: store.update("there", lambda old: body),
        "staging": assemble,
    }


def test_a_full_disk_is_named_and_nothing_is_visible(disk: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.write_bytes(b"\1" * 8192)
    store = open_store(disk / "c")
    store.create("there", b"old")
    filling = fill(disk, leave=4096)
    for name, write in writers(store, made).items():
        with pytest.raises(StoreFull, match=str(disk)) as caught:
            write()
        assert type(pickle.loads(pickle.dumps(caught.value))) is StoreFull, name
        assert store.read("there") == b"old", name
    with pytest.raises(AlreadyExists):
        store.create("there", b"\1" * 8192)  # no room is needed to say so
    assert visible(store) - {".staging/lock"} == {"there"}
    filling.unlink()
    for write in writers(store, made).values():
        made.write_bytes(b"\1" * 8192)
        write()
    assert store.read("there") == b"\1" * 8192
    assert visible(store) - {".staging/lock"} == {"there", "new/created", "new/from"}


def test_a_read_only_disk_is_named(disk: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.write_bytes(b"\1" * 8192)
    store = open_store(disk / "c")
    store.create("there", b"old")
    mount(disk, "remount,ro")
    for write in writers(store, made).values():
        with pytest.raises(StoreReadOnly, match=str(disk)):
            write()
    with pytest.raises(StoreReadOnly):
        store.delete("there")
    with pytest.raises(StoreReadOnly, match=store.url):
        check_writable(store)
    assert store.read("there") == b"old"
    assert made.exists()
    mount(disk, "remount,rw")
    check_writable(store)
    assert visible(store) == {"there"}


def test_a_shard_is_whole_or_the_disk_is_full(disk: Path) -> None:
    """Whatever room there is, zarrs' file is right or its failure is named."""
    store = open_store(disk / "c")
    arrivals = [IncomingPlane("r/i.png", f"{n}", (1, 128, 128), "uint8", None) for n in range(8)]
    limits = Limits(shard_images=8)
    pixels = np.random.default_rng(0).integers(1, 255, (1, 1, 128, 128), "uint8")
    outcomes = set()
    for free in range(0, 40 * 1024, 2048):
        (plan,) = plan_stack_layouts(arrivals, f"s{free}", limits)
        rows = {row.path: row for row in create_stack(store, plan)}
        filling = fill(disk, leave=free)
        writer = StackWriter(store, plan.name)
        try:
            row = writer.write(0, pixels)
        except StoreFull:
            outcomes.add("full")
            assert not list(store.list(f"pixels/{plan.name}.zarr/0/c/"))
        else:
            outcomes.add("written")
            assert row.chunks == 1
            reader = StackReader(store, {**rows, row.path: row})
            assert np.array_equal(
                reader.read(plan.name, (0, slice(0, 1), slice(0, 128), slice(0, 128))), pixels[0]
            )
            store.delete(row.path)
        filling.unlink()
    assert outcomes == {"full", "written"}


def test_a_commit_to_a_full_disk_is_named(disk: Path) -> None:
    """deltalake's entry needs more than the 4 KiB that a probe would find."""
    store = open_store(disk / "c")
    ledger = Ledger(store, "results/x/v1", pa.schema([("image_id", pa.string())]))
    rows = pa.table({"image_id": ["a"]})
    for leave in (0, 4096):
        filling = fill(disk, leave)
        with pytest.raises(StoreFull):
            ledger.commit(ledger.snapshot(), [])
        assert ledger.snapshot().parts == ()
        filling.unlink()
    first = ledger.commit(ledger.snapshot(), [ledger.write_part(rows)])
    parts = [ledger.write_part(rows) for _ in range(60)]
    for leave in range(0, 16384, 4096):
        filling = fill(disk, leave)
        with pytest.raises(StoreFull):
            ledger.commit(first, parts)
        assert ledger.snapshot() == first
        filling.unlink()
    assert len(ledger.commit(first, parts).parts) == 61


# a whole cohort


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images that compress badly: about 150 KiB as shards."""
    folder = tmp_path_factory.mktemp("sources")
    for n in range(12):
        put(folder / "d1" / f"s{n % 3}" / "e1" / f"i{n}.png", discs(n))
    return folder


def test_a_cohort_names_a_full_disk_and_goes_on(
    tmp_path: Path, sources: Path, client: Client
) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        cohort = engine.create(disk / "c", layout=LAYOUT)
        operation = engine.circles(**RADII)
        full = 0
        for leave in (0, 40, 80, 120, 160, 200, 300):
            filling = fill(disk, leave * 1024)
            try:
                cohort.ingest(sources, client=client)
            except StoreFull:
                full += 1
            filling.unlink()
            report = cohort.verify()
            assert report.problems == (), report.problems
        assert full >= 3
        assert cohort.ingest(sources, client=client).left == 0
        assert len(cohort.images()) == 12
        full = 0
        for leave in (0, 8, 16, 32, 64, 128):
            filling = fill(disk, leave * 1024)
            try:
                cohort.run(operation, client=client)
            except StoreFull:
                full += 1
            filling.unlink()
            assert [p for p in cohort.verify().problems if p.kind != "stale"] == []
        assert full >= 3
        cohort.run(operation, client=client)
        assert cohort.status().complete
        assert cohort.verify().problems == ()
        for image in cohort.images():
            name = image.attrs["source"].rsplit("/", 1)[-1]
            assert np.array_equal(image.to_numpy()[0], discs(int(name[1:-4])))
        plain = engine.create(tmp_path / "plain", layout=LAYOUT)
        plain.ingest(sources, client=client)
        plain.run(operation, client=client)
        mine, other = (
            c.table("circles").drop(
                columns=["elapsed_s", "attempts", "worker", "device"], errors="ignore"
            )
            for c in (cohort, plain)
        )
        by = ["image_id", *(c for c in mine.columns if c != "image_id")]
        assert mine.sort_values(by).to_csv(index=False) == other.sort_values(by).to_csv(index=False)


def test_a_cohort_is_made_where_a_killed_writer_began_one(tmp_path: Path) -> None:
    place = tmp_path / "c"
    (place / ".staging" / "0123").mkdir(parents=True)
    (place / ".staging" / "0123" / "cohort.json").write_bytes(b"{")
    engine.create(place)
    other = tmp_path / "other"
    put(other / "mine.png", discs(0))
    with pytest.raises(engine.EngineError, match="not empty"):
        engine.create(other)


def in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *argv: str | Path
) -> tuple[int, str]:
    """Run a command in this process, and return its exit code and standard error."""
    monkeypatch.setattr(sys, "argv", ["cohort", *map(str, argv)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(str(ended.value.code)), capsys.readouterr().err


def test_commands_end_with_1_on_a_full_or_read_only_disk(
    tmp_path: Path,
    sources: Path,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:
        cohort = engine.create(disk / "c", layout=LAYOUT)
        here = ("--scheduler", client.scheduler.address)
        ingest = ("ingest", disk / "c", sources, *here)
        run = ("run", disk / "c", "circles", "--radius-px", "8:24", *here)

        def full(leave: int, *argv: str | Path) -> None:
            filling = fill(disk, leave)
            code, said = in_process(monkeypatch, capsys, *argv)
            assert (code, "No space left at " + str(disk) in said) == (1, True), said
            assert "Traceback" not in said
            filling.unlink()

        def read_only(*argv: str | Path) -> None:
            mount(disk, "remount,ro")
            code, said = in_process(monkeypatch, capsys, *argv)
            assert (code, "No permission to write at " + str(disk) in said) == (1, True), said
            mount(disk, "remount,rw")

        full(0, *ingest)
        full(64 * 1024, *ingest)
        read_only(*ingest)
        assert in_process(monkeypatch, capsys, *ingest)[0] == 0
        full(0, *run)
        full(24 * 1024, *run)
        read_only(*run)
        code = "from jobs.cli import main; main()"
        filling = fill(disk, 24 * 1024)
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            code,
            *map(str, run[:-2]),
            "--workers",
            "1",
        ]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert ended.returncode == 1, ended.stderr
        assert f"No space left at {disk}" in ended.stderr
        filling.unlink()
        assert in_process(monkeypatch, capsys, *run)[0] == 0
        assert cohort.status().complete
        assert cohort.verify().problems == ()
