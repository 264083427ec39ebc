"""Faults of faults.md that need no kill: broken files, lost parts, bombs, clocks, read-only."""

from __future__ import annotations

import os
import resource
import shutil
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from distributed import Client

import engine
from engine.errors import AlignmentError, CorruptStore, MissingObject, NoTable
from engine.ingest import driver as ingest_module
from engine.ingest.tasks import ShardTask
from engine.runs.worker import ledger_of
from engine.store.config import Limits
from engine.store.delta import entries as entries_module
from engine.store.pixels.layout import IncomingPlane, plan_stack_layouts
from engine.store.pixels.stacks import StackWriter, create_stack
from tests.support.images import (
    Counting,
    catalog,
    computed,
    connect_quietly,
    files_below,
    grey,
    night,
    put,
    states,
)

SEED = 20261122


@pytest.fixture
def cohort(tmp_path: Path, client: Client) -> engine.Cohort:
    night(tmp_path / "data", 6)
    made = engine.create(tmp_path / "cohort")
    made.ingest(tmp_path / "data", client=client)
    return made


def shard_of(cohort: engine.Cohort, image_id: str) -> Path:
    row = catalog(cohort)[image_id]
    level = Path(cohort.store.url) / "pixels" / f"{row['stack']}.zarr" / "0"
    return level / "c" / f"{row['shard']}" / "0/0/0"


# 11: read-only output

READ_ONLY = """
import sys
from pathlib import Path
import engine
from tests.support.images import Counting

place, log = Path(sys.argv[1]), sys.argv[2]
opened = []
sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e == "open" else None)
with engine.cluster(workers=1, processes=False) as cluster:
    cohort = engine.open(place / "cohort")
    for ask in (
        lambda: cohort.ingest(client=cluster),
        lambda: cohort.ingest(place / "more", client=cluster),
        lambda: cohort.run(Counting(log=log, copies=2), client=cluster),
    ):
        try:
            ask()
        except engine.errors.StoreReadOnly as error:
            print("refused", error.exit_code)
    assert not [name for name in opened if name.endswith("new.png")], opened
    print(len(cohort.images()), len(cohort.images()[0]))
    print(cohort.run(Counting(log=log), client=cluster).up_to_date)  # nothing to write
"""


def test_a_read_only_store_is_refused_before_the_first_task(
    cohort: engine.Cohort, tmp_path: Path, client: Client, log: str
) -> None:
    cohort.run(Counting(log=log, copies=2), client=client, limit=3)  # its key is noted already
    cohort.run(Counting(log=log), client=client)
    computed(log)
    put(tmp_path / "data" / "new.png", grey(60))
    put(tmp_path / "more" / "new.png", grey(61))
    (tmp_path / "ask.py").write_text(READ_ONLY)
    place = tmp_path / "cohort"
    mount = f"mount --bind {place} {place} && mount -o remount,bind,ro {place}"
    if subprocess.run(
        ["unshare", "-m", "sh", "-c", mount], capture_output=True, check=False
    ).returncode:
        pytest.skip("this machine lets nobody mount")
    before = files_below(cohort, "")
    command = f"{mount} && exec {sys.executable} {tmp_path}/ask.py {tmp_path} {log}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split("\n")[:5] == ["refused 1"] * 3 + ["6 1", "6"], done.stderr
    assert computed(log) == []
    assert files_below(cohort, "") == before


# 13: something deleted, or a bit flipped


def test_lost_and_damaged_pixels_fail_their_images_alone(
    cohort: engine.Cohort, client: Client, log: str
) -> None:
    shard_of(cohort, "data/d1/s0/e1/i2.png").unlink()
    damaged = shard_of(cohort, "data/d1/s1/e1/i3.png")
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    shortened = shard_of(cohort, "data/d1/s1/e1/i5.png")
    shortened.write_bytes(shortened.read_bytes()[:-1])
    report = cohort.run(Counting(log=log), client=client)
    assert dict(report.reasons) == {"missing_pixels": 1, "corrupt_pixels": 2}
    assert (report.published, report.failed) == (6, 3)
    rows = cohort.table(report.tables[1]).set_index("name")["reason"]
    assert rows[["i2", "i3", "i5"]].to_list() == [
        "missing_pixels", "corrupt_pixels", "corrupt_pixels",
    ]  # fmt: skip
    assert rows.drop(["i2", "i3", "i5"]).isna().all()
    assert len(computed(log)) == 3  # none was shown zeros


def test_lost_metadata_of_a_stack_fails_its_images(
    cohort: engine.Cohort, client: Client, log: str
) -> None:
    row = catalog(cohort)["data/d1/s0/e1/i0.png"]
    metadata = Path(cohort.store.url) / "pixels" / f"{row['stack']}.zarr" / "0" / "zarr.json"
    text = metadata.read_text()
    metadata.write_text(text.replace('"fill_value": 0', '"fill_value": 7'))
    assert metadata.read_text() != text
    report = cohort.run(Counting(log=log), client=client)
    assert dict(report.reasons) == {"corrupt_pixels": 6}
    metadata.unlink()
    report = cohort.run(Counting(log=log), client=client, retry_failed=True)
    assert dict(report.reasons) == {"missing_pixels": 6}
    with pytest.raises(MissingObject):
        cohort.stacks()
    metadata.write_text(text)
    report = cohort.run(Counting(log=log), client=client, retry_failed=True)
    assert (report.published, report.failed) == (6, 0)
    assert len(computed(log)) == 6


def test_a_lost_part_or_table_raises(cohort: engine.Cohort, client: Client, log: str) -> None:
    report = cohort.run(Counting(log=log), client=client)
    top = Path(cohort.store.url)
    part = next((top / "results").rglob("*.parquet"))
    data = part.read_bytes()
    part.unlink()
    ledger = ledger_of(cohort.store, Counting(log=log))
    with pytest.raises(MissingObject, match=part.name):
        ledger.read(ledger.snapshot().parts)
    assert cohort.plan(Counting(log=log)).causes.keys() == {"results"}
    part.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
    with pytest.raises(CorruptStore, match=part.name):
        cohort.plan(Counting(log=log))
    part.write_bytes(data)
    table = top / "tables" / f"{report.tables[0]}.parquet"
    data = table.read_bytes()
    table.write_bytes(data[:50] + b"X" + data[51:])
    with pytest.raises(CorruptStore):
        cohort.table(report.tables[0])
    table.unlink()
    with pytest.raises((MissingObject, NoTable)):
        cohort.table(report.tables[0])
    part = next((top / "catalog" / "images").glob("*.parquet"))
    part.unlink()
    for ask in (cohort.images, lambda: cohort.ingest(client=client)):
        with pytest.raises(MissingObject, match=part.name):
            ask()


# 14: work that is not cut where shards end


def test_work_not_aligned_to_shards_is_refused_at_planning(cohort: engine.Cohort) -> None:
    before = files_below(cohort, "")
    arrivals = [IncomingPlane(f"r/{n}", "", (1, 8, 8), "uint8", None) for n in range(20)]
    (plan,) = plan_stack_layouts(arrivals, "i", Limits())
    assert plan.shard[0] > 1
    moved = (replace(plan.slots[0], shard=1), *plan.slots[1:])
    with pytest.raises(AlignmentError, match="two tasks"):
        replace(plan, slots=moved)
    with pytest.raises(AlignmentError):
        replace(plan, chunk=(1, 1, 3, 8))
    with pytest.raises(AlignmentError):
        replace(plan, shard=(plan.shard[0] + 1, *plan.shard[1:]))
    with pytest.raises(AlignmentError):
        ShardTask(plan, 0, {}, 1)  # slots of several shards
    series = [IncomingPlane("r/s", f"#{z}", (1, 8, 8), "uint8", None, (0, z)) for z in range(9)]
    (plan,) = plan_stack_layouts(series, "i", Limits(shard_bytes=128))
    with pytest.raises(AlignmentError):
        replace(plan, slots=tuple(replace(slot, shard=0) for slot in plan.slots))
    assert files_below(cohort, "") == before


def test_a_writer_takes_whole_shards_only(cohort: engine.Cohort) -> None:
    arrivals = [IncomingPlane(f"r/{n}", "", (1, 8, 8), "uint8", None) for n in range(19)]
    (plan,) = plan_stack_layouts(arrivals, "i", Limits())
    create_stack(cohort.store, plan)
    before = files_below(cohort, "pixels")
    writer = StackWriter(cohort.store, plan.name)
    depth, last = plan.shard[0], plan.grid[0] - 1
    for index, frames in [(0, depth - 1), (0, depth + 1), (last, depth)]:
        with pytest.raises(AlignmentError):
            writer.write(index, np.ones((frames, 1, 8, 8), np.uint8))
    with pytest.raises(AlignmentError):
        writer.write(last + 1, np.ones((depth, 1, 8, 8), np.uint8))
    assert files_below(cohort, "pixels") == before
    assert 19 % depth  # the last shard is cut off
    row = writer.write(last, np.ones((19 % depth, 1, 8, 8), np.uint8))
    assert row.chunks == 19 % depth
    assert writer.write(last, np.ones((19 % depth, 1, 8, 8), np.uint8)) == row  # once and again
    with pytest.raises(engine.errors.Conflict):
        writer.write(last, np.full((19 % depth, 1, 8, 8), 2, np.uint8))
    assert writer.write(0, np.zeros((depth, 1, 8, 8), np.uint8)).chunks == 0
    assert writer.describe().chunks == -1


# 15 and 16: cut files and bombs, through a whole ingest


def cut(data: bytes, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(20):
        (folder / name.format(n)).write_bytes(data[: len(data) * n // 20])


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_files_cut_anywhere_are_named_each(client: Client, tmp_path: Path, kind: str) -> None:
    pixels = grey(1, (120, 130))
    whole = tmp_path / f"whole.{kind}"
    put(whole, pixels) if kind == "png" else tifffile.imwrite(whole, pixels, compression="zlib")
    cut(whole.read_bytes(), tmp_path / "data", f"cut-{{:02d}}.{kind}")
    cohort = engine.create(tmp_path / "cohort")
    report = cohort.ingest(tmp_path / "data", client=client)
    assert (report.listed, report.left) == (20, 0)
    assert report.failed + report.new == 20
    rows = catalog(cohort)
    assert len(rows) == 20
    assert sum(report.reasons.values()) == report.failed >= 18
    for image_id, row in rows.items():
        if row["state"] == "ready":  # what was cut off did not matter
            assert np.array_equal(cohort.images().by_id(image_id).values[0], pixels)
        else:
            assert row["reason"] in {"empty", "truncated", "corrupt", "not_an_image"}
    assert rows[f"data/cut-00.{kind}"]["reason"] == "empty"
    assert cohort.ingest(client=client).unchanged == 20


def png_of(height: int, width: int, rows: bytes) -> bytes:
    """A greyscale PNG that claims a size and carries some rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def rss_bytes(dask_worker: Any = None) -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_bombs_are_too_large_and_harm_no_worker(tmp_path: Path) -> None:
    data = tmp_path / "data"
    night(data, 3)
    (data / "claims.png").write_bytes(png_of(60_000, 60_000, b"\0" * 100))
    (data / "inflates.png").write_bytes(png_of(20_000, 20_000, bytes(20_001 * 20_000)))
    (data / "longer.png").write_bytes(png_of(10, 10, bytes(300_000_000)))
    tifffile.imwrite(
        data / "strip.tif", np.zeros((20_000, 20_000), np.uint8), compression="zlib",
        compressionargs={"level": 1}, rowsperstrip=20_000,
    )  # fmt: skip
    small = tmp_path / "small.tif"
    tifffile.imwrite(small, grey(1), compression="zlib")
    raw = bytearray(small.read_bytes())
    for tag in (256, 257):  # width and length say far more than the strip holds
        at = raw.index(struct.pack("<HH", tag, 4), 8) if struct.pack("<HH", tag, 4) in raw else -1
        at = at if at >= 0 else raw.index(struct.pack("<HH", tag, 3), 8)
        raw[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 60_000)
    (data / "claims.tif").write_bytes(raw)
    cohort = engine.create(tmp_path / "cohort")
    toml = tmp_path / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + "\n[limits]\nmax_decoded_bytes = 50000000\n")
    with connect_quietly(workers=1) as workers:
        cohort.ingest(data / "d1", client=workers)  # all that is imported is
        before = workers.run(rss_bytes)
        report = cohort.ingest(data, client=workers)
        after = workers.run(rss_bytes)
    rows = catalog(cohort)
    names = sorted(path.name for path in data.iterdir() if path.is_file())
    reasons = {name: rows[f"data/{name}"]["reason"] for name in names}
    assert {n for n, r in reasons.items() if r == "too_large"} >= {
        "claims.png", "inflates.png", "strip.tif",
    }  # fmt: skip
    assert reasons["claims.tif"] in {"truncated", "corrupt", "too_large"}
    # What comes after its last row is not inflated; the rows that are due are read.
    assert not cohort.images().by_id("data/longer.png").values.any()
    assert (report.failed, reasons["longer.png"]) == (4, None)
    assert before.keys() == after.keys()  # the same worker, at the same address
    (address,) = before
    assert after[address] - before[address] < 150e6, "a bomb was inflated"
    assert sum(state == "ready" for state in states(cohort).values()) == 4  # each file once


# 17: odd files


def test_odd_files_each_by_their_rule(client: Client, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    put(data / "a.png", grey(1))
    put(out / "secret.png", grey(9))
    shutil.copy(data / "a.png", data / "same.png")
    shutil.copy(data / "a.png", data / "really-a-png.jpg")
    put(tmp_path / "other.png", grey(2))
    (data / os.fsdecode(b"caf\xe9.png")).write_bytes((tmp_path / "other.png").read_bytes())
    (data / "empty.png").write_bytes(b"")
    (data / "text.png").write_text("this is no image")
    (data / "notes.txt").write_text("nor this, and it does not say so")
    (data / "loop.png").symlink_to("loop.png")
    (data / "folder").mkdir()
    (data / "folder" / "round").symlink_to("..")
    (data / "out.png").symlink_to(out / "secret.png")
    (data / "in.png").symlink_to("a.png")
    os.mkfifo(data / "pipe.png")
    cohort = engine.create(tmp_path / "cohort")
    report = cohort.ingest(data, client=client)
    assert {i: row["reason"] or row["state"] for i, row in catalog(cohort).items()} == {
        "data/a.png": "ready",
        "data/same.png": "ready",
        "data/really-a-png.jpg": "ready",
        "data/caf\\xe9.png": "ready",
        "data/empty.png": "empty",
        "data/text.png": "not_an_image",
        "data/loop.png": "link_loop",
        "data/out.png": "outside_root",
        "data/pipe.png": "not_a_file",
    }
    assert (report.new, report.duplicates, report.failed, report.ignored) == (4, 2, 5, 1)
    originals = {row["duplicate_of"] for row in catalog(cohort).values()} - {None}
    assert len(originals) == 1
    again = cohort.ingest(client=client)
    assert (again.new, again.failed, again.unchanged) == (0, 0, 6)
    (data / "loop.png").unlink()
    cohort.ingest(client=client)
    assert states(cohort)["data/loop.png"] == "retired"


# 21: clocks


def test_a_clock_that_jumps_back_changes_nothing(
    tmp_path: Path, client: Client, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) - timedelta(days=1)

    tables = []
    for jumps in (False, True):
        paths = night(tmp_path / "data", 4)
        cohort = engine.create(tmp_path / f"cohort-{jumps}")
        cohort.ingest(tmp_path / "data", client=client)
        operation = Counting(log=log)
        cohort.run(operation, client=client, limit=2)
        put(paths[0], grey(70))
        with monkeypatch.context() as patch:
            if jumps:
                back = SimpleNamespace(time=lambda: time.time() - 86_400)
                patch.setattr(entries_module, "time", back)
                patch.setattr(ingest_module, "datetime", Yesterday)
            report = cohort.ingest(client=client)
            assert (report.changed, report.unchanged) == (1, 3)
            run = cohort.run(operation, client=client)
        again = cohort.run(operation, client=client)
        assert (run.published, again.published) == (3, 0)
        assert len(computed(log)) == 5
        tables.append([cohort.table(name) for name in run.tables])
    for one, other in zip(*tables, strict=True):
        pd.testing.assert_frame_equal(one, other)
