"""Giant images: tiled, yet with the digest, the noise and the circles of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from distributed import Client
from numpy.typing import NDArray

import engine
from engine.ingest.pyramid import downsample_2x
from engine.runs.plan import PlanItem
from engine.runs.regions import region_of
from engine.runs.worker import shards_read
from engine.store.digests import BLOCK_PX, digest_plane
from engine.store.pixels.layout import level_shapes
from tests.support.images import Counting, catalog, computed, grey, states

SHAPE = (2500, 4300)
SEED = 20261122


def scene() -> NDArray[np.uint8]:
    """Discs all over a plane of 2 x 3 blocks, many of them cut by the blocks' borders."""
    random = np.random.default_rng(SEED)
    plane = np.full(SHAPE, 70.0, np.float32)
    centres = [(y, x) for y in range(60, SHAPE[0], 130) for x in range(60, SHAPE[1], 130)]
    chosen = [centres[n] for n in random.permutation(len(centres))[:120]]
    chosen += [(2048, 600), (1000, 2048), (2046, 2050), (2040, 4094), (300, 4100)]
    for cy, cx in chosen:
        cy, cx, radius = (
            cy + random.uniform(-9, 9),
            cx + random.uniform(-9, 9),
            random.uniform(14, 28),
        )
        top, left = int(max(cy - 40, 0)), int(max(cx - 40, 0))
        y, x = np.mgrid[top : min(top + 80, SHAPE[0]), left : min(left + 80, SHAPE[1])]
        inside = (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
        plane[top : top + 80, left : left + 80][inside] = 180.0
    return np.clip(plane + random.normal(0, 3, SHAPE), 0, 255).astype(np.uint8)


def ingest(place: Path, data: Path, client: Client, *, giant: bool) -> engine.Cohort:
    cohort = engine.create(place)
    if giant:
        toml = place / "cohort.toml"
        toml.write_text(toml.read_text() + "\n[limits]\ngiant_bytes = 1000000\n")
    report = cohort.ingest(data, client=client)
    assert (report.failed, report.left) == (0, 0)
    return cohort


@pytest.fixture(scope="module")
def made(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("giants")
    (place / "data").mkdir()
    pixels = scene()
    tifffile.imwrite(place / "data" / "tiled.tif", pixels, tile=(512, 512))  # streams
    rgb = np.stack([pixels[:2100, :2100], pixels[:2100, 2200:], pixels[400:, :2100]], -1)
    tifffile.imwrite(place / "data" / "rgb.tif", rgb, photometric="rgb", rowsperstrip=2100)
    tifffile.imwrite(place / "data" / "small.tif", pixels[:100, :100])
    due = {"tiled.tif": pixels[None], "rgb.tif": np.moveaxis(rgb, -1, 0)}
    return (
        due,
        ingest(place / "giant", place / "data", client, giant=True),
        ingest(place / "plain", place / "data", client, giant=False),
    )


def test_only_giants_are_tiled(made: Any) -> None:
    _, giant, plain = made
    assert {i: row["giant"] for i, row in catalog(giant).items()} == {
        "data/rgb.tif": True,
        "data/small.tif": False,
        "data/tiled.tif": True,
    }
    assert not any(row["giant"] for row in catalog(plain).values())


@pytest.mark.parametrize("name", ["tiled.tif", "rgb.tif"])
def test_a_giant_is_the_same_image(made: Any, name: str) -> None:
    due, giant, plain = made
    for cohort in (giant, plain):
        row = catalog(cohort)[f"data/{name}"]
        assert row["content"] == digest_plane(due[name])
        assert np.array_equal(cohort.images().by_id(f"data/{name}").values, due[name])
    rows = catalog(giant)[f"data/{name}"], catalog(plain)[f"data/{name}"]
    assert rows[0]["noise_sd"] == rows[1]["noise_sd"]
    assert all(sd > 0 for sd in rows[0]["noise_sd"])


@pytest.mark.parametrize("name", ["tiled.tif", "rgb.tif"])
def test_each_level_is_the_mean_of_the_one_below(made: Any, name: str) -> None:
    due, giant, _ = made
    node = giant.stacks()[f"/{catalog(giant)[f'data/{name}']['stack']}"]
    shapes = level_shapes((1, *due[name].shape))
    assert len(node.children) == len(shapes) > 1
    below = due[name].astype(float)
    for level, shape in enumerate(shapes):
        found = node[str(level)]["pixels"].values
        assert found.shape == shape
        if level:
            _, height, width = below.shape
            even = np.pad(below, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
            mean = even.reshape(len(even), shape[2], 2, shape[3], 2).mean((2, 4))
            below = np.floor(mean + 0.5)
        assert np.array_equal(found[0], below.astype(np.uint8)), level


def comparable(cohort: engine.Cohort, name: str) -> pd.DataFrame:
    table = cohort.table(name)
    return table.drop(columns=["elapsed_s", "attempts", "worker", "device"], errors="ignore")


def test_circles_of_blocks_are_those_of_the_whole(made: Any, client: Client) -> None:
    _, giant, plain = made
    operation = engine.circles(radius_px=(12, 30))
    for cohort, rows in ((giant, 1 + 6 + 4), (plain, 3)):
        report = cohort.run(operation, client=client)
        assert (report.planned, report.failed, report.published) == (3, 0, rows)
    whole, tiled = comparable(plain, "circles"), comparable(giant, "circles")
    assert len(whole) > 150
    pd.testing.assert_frame_equal(tiled, whole)
    for kind in ("by_image", "by_experiment"):
        pd.testing.assert_frame_equal(
            comparable(giant, f"circles_{kind}"), comparable(plain, f"circles_{kind}")
        )
    across = whole[(whole["y"] - 2047.5).abs() < whole["radius_px"]]
    assert len(across) >= 2  # the scene does have circles on a border of blocks
    again = giant.run(operation, client=client)
    assert (again.planned, again.up_to_date) == (0, 3)


def test_a_giant_is_done_when_all_its_blocks_are(made: Any, client: Client, tmp_path: Path) -> None:
    _, giant, _ = made
    operation = Counting(log=str(tmp_path / "log"))
    giant.run(operation, client=client, where="width == 4300")
    assert computed(tmp_path / "log") == ["data/tiled.tif"] * 6
    publisher, _, _ = giant._plan(operation, None, None, False)
    ledger = publisher._ledger
    # Take one block away, as if the run had been killed before its commit.
    snapshot = ledger.snapshot()
    part = snapshot.of_key(operation.key)[0]
    rows = ledger.read_part(part)
    rest = rows.filter([b != 3 for b in rows["block"].to_pylist()])
    others = [p for p in snapshot.parts if p.path != part.path]
    if rest.num_rows == rows.num_rows:
        part = next(p for p in others if 3 in ledger.read_part(p)["block"].to_pylist())
        rows = ledger.read_part(part)
        rest = rows.filter([b != 3 for b in rows["block"].to_pylist()])
    added = [ledger.write_part(rest, operation.key)] if rest.num_rows else []
    ledger.commit(snapshot, added, [part])
    report = giant.run(operation, client=client, where="width == 100")
    table = giant.table(report.tables[1]).set_index("image_id")
    assert table["status"].to_dict() == {
        "data/rgb.tif": "missing",
        "data/small.tif": "done",
        "data/tiled.tif": "missing",
    }
    assert list(giant.table(report.tables[0])["name"].unique()) == ["small"]
    computed(tmp_path / "log")
    report = giant.run(operation, client=client, where="width == 4300")
    assert computed(tmp_path / "log") == ["data/tiled.tif"]
    assert (report.planned, report.published) == (1, 1)
    table = giant.table(report.tables[1]).set_index("image_id")
    assert table.loc["data/tiled.tif", "count"] == 6


def test_one_failed_block_fails_the_image(made: Any, client: Client, tmp_path: Path) -> None:
    _, giant, _ = made
    report = giant.run(FailsAtTheEdge(log=str(tmp_path / "log")), client=client)
    table = giant.table(report.tables[1]).set_index("image_id")
    assert table["status"].to_dict() == {
        "data/rgb.tif": "failed",
        "data/small.tif": "done",
        "data/tiled.tif": "failed",
    }
    assert table.loc["data/tiled.tif", "reason"] == "edge"
    assert np.isnan(table.loc["data/tiled.tif", "count"])
    objects = giant.table(report.tables[0])
    assert list(objects["name"].unique()) == ["small"]
    experiments = giant.table(report.tables[2])
    assert experiments["count"].sum() == table["count"].sum() == len(objects)
    assert experiments["images_failed"].sum() == 2
    before = len(computed(tmp_path / "log"))
    assert before == 1 + 6 + 4
    giant.run(FailsAtTheEdge(log=str(tmp_path / "log")), client=client, retry_failed=True)
    assert computed(tmp_path / "log") == ["data/rgb.tif"] * 2 + ["data/tiled.tif"] * 3


class FailsAtTheEdge(Counting):
    """Fails the blocks of the last row of a giant image."""

    name = "edges"

    def measure(self, image: engine.Image) -> Any:
        found = super().measure(image)
        if image.core_region is not None and image.core_region.start[0] >= BLOCK_PX:
            raise engine.ImageFailed("edge")
        return found


def test_a_giant_known_already_is_neither_kept_nor_computed(
    made: Any, client: Client, tmp_path: Path
) -> None:
    due, _, _ = made
    (tmp_path / "data").mkdir()
    tifffile.imwrite(tmp_path / "data" / "a.tif", due["tiled.tif"][0], tile=(512, 512))
    cohort = ingest(tmp_path / "cohort", tmp_path / "data", client, giant=True)
    operation = Counting(log=str(tmp_path / "log"))
    cohort.run(operation, client=client)
    assert len(computed(tmp_path / "log")) == 6
    stored = sorted(p for p in (tmp_path / "cohort" / "pixels").rglob("*") if p.is_file())
    tifffile.imwrite(tmp_path / "data" / "b.tif", due["tiled.tif"][0])
    report = cohort.ingest(client=client)
    assert report.duplicates == 1
    assert sorted(p for p in (tmp_path / "cohort" / "pixels").rglob("*") if p.is_file()) == stored
    assert catalog(cohort)["data/b.tif"]["giant"]
    plan = cohort.plan(operation)
    assert (plan.causes, len(plan.items), len(plan.copies)) == ({"copy": 1}, 0, 6)
    run = cohort.run(operation, client=client)
    assert (run.copied, run.published) == (1, 6)
    assert computed(tmp_path / "log") == []
    table = cohort.table(run.tables[1])
    assert table["count"].to_list() == [6, 6]
    assert cohort.plan(operation).to_compute == 0


def test_a_giant_that_breaks_off_is_a_failed_source(client: Client, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "a.tif"
    tifffile.imwrite(path, scene(), rowsperstrip=64, compression="zlib")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    path.write_bytes(flipped)
    cohort = engine.create(tmp_path / "cohort")
    toml = tmp_path / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + "\n[limits]\ngiant_bytes = 1000000\n")
    report = cohort.ingest(tmp_path / "data", client=client)
    assert (report.failed, report.left, report.new) == (1, 0, 0)
    assert states(cohort) == {"data/a.tif": "failed"}
    path.write_bytes(whole)
    assert cohort.ingest(client=client).changed == 1
    assert np.array_equal(cohort.images()[0].values[0], scene())


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
def test_halve_is_the_mean(dtype: str) -> None:
    pixels = grey(3, (2, 7, 9), dtype)
    found = downsample_2x(pixels)
    even = np.pad(pixels.astype(float), ((0, 0), (0, 1), (0, 1)), mode="edge")
    mean = even.reshape(2, 4, 2, 5, 2).mean((2, 4))
    assert found.dtype == pixels.dtype
    due = np.floor(mean + 0.5) if pixels.dtype.kind in "iu" else mean
    assert np.array_equal(found, due.astype(dtype))
    most = np.iinfo(dtype).max if pixels.dtype.kind in "iu" else 1e6
    assert (downsample_2x(np.full((1, 2, 2), most, dtype)) == most).all()


def test_a_block_reads_the_shards_under_its_halo() -> None:
    item = PlanItem(("i",), "n", "s", 0, 0, None, (1, 5000, 4500), "uint8", (), None, "i", block=4)
    region, across = region_of(item)
    assert (region.start, region.stop, across) == ((2048, 2048), (4096, 4096), 3)
    assert {n for _, n in shards_read(item)} == {4}
    assert {n for _, n in shards_read(item, 1)} == set(range(9))
    last = PlanItem(("i",), "n", "s", 0, 0, None, (1, 5000, 4500), "uint8", (), None, "i", block=8)
    assert region_of(last)[0].stop == (5000, 4500)
    assert {n for _, n in shards_read(last, 100)} == {4, 5, 7, 8}
