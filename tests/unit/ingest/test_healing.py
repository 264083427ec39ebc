"""Pixels that were damaged or lost come back from their sources, and nothing else changes."""

from __future__ import annotations

import random
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from distributed import Client

import engine
from engine.ingest.commit import CatalogWriter
from engine.privacy import KEY
from engine.store.catalog.tables import ShardRow, read_shards
from engine.store.maintenance.verify import STALE
from tests.support.dicom import KEY as SECRET
from tests.support.dicom import put_dicom
from tests.support.images import Counting, catalog, computed, discs, files_below, grey, night, put
from tests.support.inprocess_client import Killed, dying, here, meanwhile

SEED = 20261125

BEFORE_HEALING = 22
"""Renames, links and removals of an ingest before it heals: those die in other tests."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    night(tmp_path / "data", 20)  # shards of three
    return tmp_path / "data"


@pytest.fixture
def cohort(tmp_path: Path, data: Path, client: Client) -> engine.Cohort:
    made = engine.create(tmp_path / "cohort")
    made.ingest(data, client=client)
    return made


def shards_of(cohort: engine.Cohort) -> list[Path]:
    """Return the files of pixels, of the finest level first."""
    rows = [row for row in read_shards(cohort.store) if row.shard >= 0]
    rows.sort(key=lambda row: (row.level, row.stack, row.shard))
    return [Path(cohort.store.url, row.path) for row in rows]


def images_in(cohort: engine.Cohort, shard: Path) -> list[str]:
    """Return the sources of the images that lie in a shard of a stack."""
    rows = catalog(cohort).values()
    place = f"{shard.parents[5].name}", int(shard.parents[2].name)
    return sorted(r["source"] for r in rows if (f"{r['stack']}.zarr", r["shard"]) == place)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1 << at % 8
    path.write_bytes(data)


def stored(cohort: engine.Cohort) -> dict[str, bytes]:
    top = Path(cohort.store.url)
    return {name: (top / "pixels" / name).read_bytes() for name in files_below(cohort, "pixels")}


def without_effort(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=["elapsed_s", "attempts", "worker", "device"], errors="ignore")


def test_damaged_pixels_come_back_from_their_sources(
    cohort: engine.Cohort, client: Client, log: str, tmp_path: Path
) -> None:
    circles = engine.circles(radius_px=(5, 12))
    random.seed(SEED)
    print("seed", SEED)
    whole = stored(cohort)
    lost, flipped, cut, *_ = random.sample(shards_of(cohort), 4)
    lost_images = images_in(cohort, lost) + images_in(cohort, cut)
    lost.unlink()
    flip(flipped, flipped.stat().st_size // 3)
    cut.write_bytes(cut.read_bytes()[:-1])
    cohort.run(Counting(log=log), client=client)
    failed = {f.source for f in cohort.status().failures}
    assert failed > set(lost_images)
    assert len(failed) == len(lost_images) + 1  # the flipped bit concerns one image
    assert len(computed(log)) == 20 - len(failed)
    assert cohort.run(circles, client=client).failed == len(failed)
    assert not cohort.verify().ok
    assert cohort.plan(Counting(log=log)).to_compute == 0  # nothing can be done yet

    report = cohort.ingest(client=client, rehash=True)
    assert (report.healed, report.lost) == (len(failed), [])
    assert stored(cohort) == whole
    assert cohort.verify().ok
    assert cohort.verify().leftovers == ()
    plan = cohort.plan(Counting(log=log))
    assert dict(plan.causes) == {"pixels": len(failed)}
    status = cohort.status()
    (state,) = (key for key in status.keys if key.operation == "circles")
    assert (state.missing, state.failed, state.done) == (len(failed), 0, 20 - len(failed))
    assert {failure.operation for failure in status.failures} == {"counting"}  # not installed
    run = cohort.run(Counting(log=log), client=client)
    assert sorted(failed) == computed(log)
    assert cohort.run(Counting(log=log), client=client).published == 0
    assert cohort.ingest(client=client, rehash=True).healed == 0

    other = engine.create(tmp_path / "other")
    other.ingest(tmp_path / "data", client=client)
    other.run(Counting(log=log), client=client)
    for name in run.tables:
        pd.testing.assert_frame_equal(
            without_effort(cohort.table(name)), without_effort(other.table(name))
        )


def test_what_no_source_gives_back_is_named_and_its_siblings_heal(
    cohort: engine.Cohort, client: Client, log: str, data: Path, tmp_path: Path
) -> None:
    shard = shards_of(cohort)[1]
    gone, changed, kept = images_in(cohort, shard)
    cohort.run(Counting(log=log), client=client)
    before = stored(cohort)
    computed(log)
    shard.unlink()
    shutil.move(tmp_path / gone, tmp_path / "aside.png")
    put(tmp_path / changed, grey(900))

    report = cohort.ingest(client=client, rehash=True)
    assert report.healed == 1
    assert report.lost == [{"source": gone, "image_id": gone, "reason": "source_gone"}]
    assert report.replaced == [changed]
    (problem,) = (p for p in cohort.verify().problems if p.kind != STALE)
    assert (problem.path, problem.kind) == (str(shard.relative_to(cohort.store.url)), "missing")
    images = cohort.images()
    number = int(Path(kept).stem[1:])
    assert np.array_equal(images.by_id(kept).values[0], grey(number))
    with pytest.raises(engine.errors.CorruptStore):  # and not zeros
        images.by_id(gone).values  # noqa: B018
    run = cohort.run(Counting(log=log), client=client)
    assert (computed(log), run.failed) == ([changed], 0)
    kept_files = {n: d for n, d in before.items() if n not in str(shard)}
    assert kept_files.items() <= stored(cohort).items()

    shutil.move(tmp_path / "aside.png", tmp_path / gone)
    report = cohort.ingest(client=client, rehash=True)
    assert (report.healed, report.lost) == (1, [])
    assert cohort.verify().ok
    assert cohort.run(Counting(log=log), client=client).published == 0


def test_shards_that_nobody_needs_are_forgotten(
    cohort: engine.Cohort, client: Client, tmp_path: Path
) -> None:
    shard = shards_of(cohort)[0]
    for n, source in enumerate(images_in(cohort, shard)):
        put(tmp_path / source, grey(500 + n))
    cohort.ingest(client=client)
    flip(shard, 40)
    assert not cohort.verify().ok
    cohort.ingest(client=client, rehash=True)
    assert cohort.verify().ok
    assert str(shard.relative_to(cohort.store.url)) in cohort.verify().leftovers


def test_a_series_and_its_results_stay_what_they_were(
    tmp_path: Path, client: Client, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, SECRET)
    for z in range(4):
        put_dicom(tmp_path / "scans" / str(z), discs(z), InstanceNumber=z,
                  ImagePositionPatient=[0, 0, z])  # fmt: skip
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(tmp_path / "scans", client=client)
    whole, before = stored(cohort), catalog(cohort)
    cohort.run(Counting(log=log), client=client)
    assert len(computed(log)) == 4
    for path in shards_of(cohort):
        path.unlink()
    report = cohort.ingest(client=client, rehash=True)
    assert (report.healed, report.lost, report.changed) == (4, [], 0)
    assert stored(cohort) == whole
    place = ("stack", "shard", "t", "z", "content", "series", "findings", "spacing_z_um")
    for name, row in catalog(cohort).items():
        assert [row[p] for p in place] == [before[name][p] for p in place]
    assert cohort.verify().ok
    assert cohort.run(Counting(log=log), client=client).published == 0


def test_giant_images_heal_on_every_level(tmp_path: Path, client: Client, log: str) -> None:
    put(tmp_path / "data/d/s/e/giant.png", grey(1, (2100, 2500)))
    cohort = engine.create(tmp_path / "cohort")
    with (tmp_path / "cohort/cohort.toml").open("a") as toml:
        toml.write("\n[limits]\ngiant_bytes = 100000\n")
    cohort.ingest(tmp_path / "data", client=client)
    whole, paths = stored(cohort), shards_of(cohort)
    assert len(paths) == 6  # 4 of the first level, one of each other
    paths[1].unlink()
    flip(paths[3], 99)
    for path in paths[4:]:
        path.unlink()
    assert cohort.ingest(client=client, rehash=True).healed == 1
    assert stored(cohort) == whole
    assert cohort.verify().ok
    flip(paths[5], 1000)  # a level above needs the level below, and no source
    shutil.rmtree(tmp_path / "data/d/s")
    put(tmp_path / "data/other.png", grey(3))
    assert cohort.ingest(client=client, rehash=True).healed == 1
    assert cohort.verify().ok


# deaths, and two at once


@pytest.fixture
def torn(tmp_path: Path, client: Client) -> tuple[engine.Cohort, set[str]]:
    """A cohort that lost a shard, and another one of which a source is gone, too: their paths."""
    night(tmp_path / "data", 9)  # shards of two
    made = engine.create(tmp_path / "torn")
    made.ingest(tmp_path / "data", client=client)
    first, second = shards_of(made)[1:3]
    (tmp_path / images_in(made, second)[0]).unlink()
    made.ingest(client=client)
    first.unlink()
    second.unlink()
    return made, {str(path.relative_to(made.store.url)) for path in (first, second)}


def damaged(cohort: engine.Cohort) -> set[str]:
    return {p.path for p in cohort.verify().problems if p.kind != STALE}


def test_a_death_at_any_point_of_healing_leaves_a_cohort_that_heals(
    torn: tuple[engine.Cohort, set[str]], tmp_path: Path
) -> None:
    cohort, lost = torn
    place = Path(cohort.store.url)
    shutil.move(place, tmp_path / "before")

    def begin() -> engine.Cohort:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(tmp_path / "before", place)
        return engine.open(place)

    with here() as client:
        assert begin().ingest(client=client, rehash=True).healed == 3
        right = stored(cohort)
        (hole,) = damaged(cohort)
        assert hole in lost
        point, healing = 2 * BEFORE_HEALING, 0
        died = True
        while died:
            point += 1
            begun = begin()
            with dying(str(place), point // 2, after=bool(point % 2)) as dead:
                with suppress(Killed):
                    begun.ingest(client=client, rehash=True)
                died = dead()
            there = damaged(engine.open(place))
            assert there <= lost
            healing += any(
                len(path.name) == 16 and path.is_file() for path in (place / ".staging").iterdir()
            )
            if died:
                engine.open(place).ingest(client=client, rehash=True)
                assert damaged(cohort) == {hole}
                assert {n: stored(cohort)[n] for n in right} == right
        assert healing > 3, point  # left aside: it was healing that died


def test_two_that_heal_at_once_leave_what_one_would(
    torn: tuple[engine.Cohort, set[str]], tmp_path: Path
) -> None:
    cohort, lost = torn
    place = Path(cohort.store.url)
    shutil.move(place, tmp_path / "before")
    with here() as client:
        point, came = BEFORE_HEALING, True
        while came:
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(tmp_path / "before", place)

            def other() -> None:
                engine.open(place).ingest(client=client, rehash=True)

            with meanwhile(str(place), point, other) as there:
                engine.open(place).ingest(client=client, rehash=True)
                came = there()
            assert len(damaged(cohort)) == 1
            assert damaged(cohort) < lost
            point += 5
    assert point > BEFORE_HEALING + 5


def test_an_ingest_notices_that_gc_removed_its_shards(
    tmp_path: Path, data: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = engine.create(tmp_path / "cohort")
    commit = CatalogWriter._shards_commit
    removed: list[str] = []

    def after_gc(self: CatalogWriter, files: list[ShardRow]) -> None:
        if not removed:
            removed.extend(left.path for left in cohort.gc(older_than_s=0))
        commit(self, files)

    with monkeypatch.context() as patch:
        patch.setattr(CatalogWriter, "_shards_commit", after_gc)
        report = cohort.ingest(data, client=client)
    assert any("/0/c/" in path for path in removed)
    assert report.left == 20
    assert damaged(cohort) == set()
    again = cohort.ingest(client=client)
    assert (again.new, again.left) == (20, 0)
    assert damaged(cohort) == set()
    assert len(cohort.images()) == 20
