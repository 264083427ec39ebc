"""What ingest makes of foreign files: every pixel where the catalog says it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from distributed import Client
from numpy.typing import NDArray
from PIL import Image as Pil

import engine
from engine.store.digests import digest_plane
from tests.support.images import catalog, grey, put


def expected_of(folder: Path) -> dict[str, NDArray[Any]]:
    """Write a file of each kind; return the planes (c, y, x) that are due, by image_id."""
    made: dict[str, NDArray[Any]] = {}
    bits = grey(1) > 100
    folder.mkdir(parents=True)
    Pil.fromarray(bits).save(folder / "bit.png")
    made["bit.png"] = bits[None] * np.uint8(255)
    put(folder / "grey8.png", grey(2))
    made["grey8.png"] = grey(2)[None]
    put(folder / "grey16.png", grey(3, dtype="uint16") * 300)
    made["grey16.png"] = grey(3, dtype="uint16")[None] * 300
    put(folder / "rgb.png", grey(4, (30, 20, 3)))
    made["rgb.png"] = np.moveaxis(grey(4, (30, 20, 3)), -1, 0)
    put(folder / "rgba.png", grey(5, (30, 20, 4)))
    made["rgba.png"] = np.moveaxis(grey(5, (30, 20, 4)), -1, 0)
    palette = Pil.fromarray(grey(6, (30, 20)) % 4, mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
    palette.save(folder / "palette.png")
    made["palette.png"] = np.moveaxis(np.array(palette.convert("RGB")), -1, 0)
    Pil.fromarray(grey(7, (32, 48))).save(folder / "grey.jpg", quality=90)
    made["grey.jpg"] = np.array(Pil.open(folder / "grey.jpg"))[None]
    pages = [grey(n, (20 + n % 2, 24)) for n in range(10, 16)]
    with tifffile.TiffWriter(folder / "pages.tif") as file:
        for page in pages:
            file.write(page, contiguous=False)
    made |= {f"pages.tif#{n}": page[None] for n, page in enumerate(pages)}
    for dtype in ("float32", "float64", "int16", "uint32"):
        values = grey(20, dtype=dtype) - (3 if dtype != "uint32" else 0)
        tifffile.imwrite(folder / f"{dtype}.tif", values)
        made[f"{dtype}.tif"] = values[None]
    series = grey(30, (3, 2, 2, 16, 24), "uint16")  # t, z, c
    tifffile.imwrite(folder / "series.ome.tif", series, ome=True, metadata={"axes": "TZCYX"})
    made |= {f"series.ome.tif#{t * 2 + z}": series[t, z] for t in range(3) for z in range(2)}
    return made


@pytest.fixture(scope="module")
def mixture(
    client: Client, tmp_path_factory: pytest.TempPathFactory
) -> tuple[engine.Cohort, dict[str, NDArray[Any]]]:
    place = tmp_path_factory.mktemp("mixture")
    made = expected_of(place / "data" / "d1" / "s1" / "e1")
    (place / "data" / "notes.txt").write_text("no image")
    (place / "data" / "field.CZI").write_bytes(b"ZISRAWFILE")
    cohort = engine.create(place / "cohort")
    report = cohort.ingest(place / "data", client=client)
    assert (report.new, report.failed, report.ignored, report.left) == (len(made), 0, 2, 0)
    assert report.untaken == {".czi": 1}
    return cohort, {f"data/d1/s1/e1/{name}": pixels for name, pixels in made.items()}


def test_every_plane_reads_as_it_was_written(mixture: Any) -> None:
    cohort, made = mixture
    images = cohort.images()
    assert len(images) == len(made)
    for found in images:
        due = made[found.attrs["image_id"]]
        assert found.dims == ("c", "y", "x")
        assert found.dtype == due.dtype
        assert np.array_equal(found.values, due), found.attrs["image_id"]
        assert found.attrs["subject"] == "s1"


def test_the_catalog_says_what_the_planes_are(mixture: Any) -> None:
    cohort, made = mixture
    rows = catalog(cohort)
    assert rows.keys() == made.keys()
    for image_id, row in rows.items():
        pixels = made[image_id]
        assert (row["channels"], row["height"], row["width"]) == pixels.shape
        assert row["dtype"] == pixels.dtype.name
        assert row["content"] == digest_plane(pixels)
        assert len(row["noise_sd"]) == len(pixels) + (len(pixels) in (3, 4))
        assert row["state"] == "ready"
        assert row["duplicate_of"] is None


def test_a_place_holds_one_image(mixture: Any) -> None:
    cohort, _ = mixture
    rows = catalog(cohort).values()
    places = [(row["stack"], row["t"], row["z"]) for row in rows]
    assert len(set(places)) == len(places)


def test_series_have_their_own_stack_and_axes(mixture: Any) -> None:
    cohort, made = mixture
    rows = {i: r for i, r in catalog(cohort).items() if "series" in i}
    (stack,) = {row["stack"] for row in rows.values()}
    assert not any(r["stack"] == stack for i, r in catalog(cohort).items() if "series" not in i)
    pixels = cohort.stacks()[f"/{stack}/0"]["pixels"]
    assert pixels.dims == ("t", "c", "z", "y", "x")
    assert pixels.shape == (3, 2, 2, 16, 24)
    for image_id, row in rows.items():
        due = made[image_id]
        assert np.array_equal(pixels.values[row["t"], :, row["z"]], due)


def test_stacks_are_of_one_kind(mixture: Any) -> None:
    cohort, _ = mixture
    for stack, node in cohort.stacks().children.items():
        members = [row for row in catalog(cohort).values() if row["stack"] == stack]
        assert len({(row["dtype"], row["channels"]) for row in members}) == 1
        assert node["0"]["pixels"].dtype == np.dtype(members[0]["dtype"])


def test_two_series_of_one_file_do_not_overwrite_each_other(client: Client, tmp_path: Path) -> None:
    first, second = grey(1, (4, 16, 24)), grey(2, (4, 16, 24))
    with tifffile.TiffWriter(tmp_path / "two.ome.tif", ome=True) as file:
        file.write(first, metadata={"axes": "ZYX"})
        file.write(second, metadata={"axes": "ZYX"})
    cohort = engine.create(tmp_path / "cohort")
    assert cohort.ingest(tmp_path / "two.ome.tif", client=client).new == 8
    images = cohort.images()
    for n, due in enumerate([*first, *second]):
        assert np.array_equal(images.by_id(f"{tmp_path.name}/two.ome.tif#{n}").values[0], due)


def test_pages_of_two_shapes_in_one_shard_keep_their_contents(
    client: Client, tmp_path: Path
) -> None:
    # Buckets put like shapes side by side, so pages of one file need not be neighbours.
    data = tmp_path / "data"
    data.mkdir()
    due: dict[str, NDArray[Any]] = {}
    for n in range(20):
        pages = [grey(100 * n + k, (60 + k % 2 + n % 3, 60)) for k in range(4)]
        with tifffile.TiffWriter(data / f"f{n:02d}.tif") as file:
            for page in pages:
                file.write(page, contiguous=False)
        due |= {f"data/f{n:02d}.tif#{k}": page for k, page in enumerate(pages)}
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(data, client=client)
    rows = catalog(cohort)
    for found in cohort.images():
        image_id = found.attrs["image_id"]
        assert np.array_equal(found.values[0], due[image_id]), image_id
        assert rows[image_id]["content"] == digest_plane(due[image_id][None]), image_id


def test_rare_shapes_share_a_stack_and_read_at_their_true_size(
    client: Client, tmp_path: Path
) -> None:
    shapes = [(97, 120), (128, 128), (100, 99), (110, 127)]
    for n, shape in enumerate(shapes):
        put(tmp_path / "data" / f"i{n}.png", grey(n, shape) + 1)
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(tmp_path / "data", client=client)
    rows = catalog(cohort)
    assert len({row["stack"] for row in rows.values()}) == 1
    stack = cohort.stacks()[f"/{rows['data/i0.png']['stack']}/0"]["pixels"]
    assert stack.shape == (4, 1, 128, 128)
    for n, shape in enumerate(shapes):
        assert np.array_equal(cohort.images()[n].values, (grey(n, shape) + 1)[None])
        padded = stack.values[rows[f"data/i{n}.png"]["t"], 0]
        assert np.array_equal(padded[: shape[0], : shape[1]], grey(n, shape) + 1)
        assert not padded[shape[0] :].any()
        assert not padded[:, shape[1] :].any()


def test_spacing_parts_stacks_and_gives_coordinates(client: Client, tmp_path: Path) -> None:
    put(tmp_path / "data" / "c.png", grey(3))
    for name, resolution in (("a.tif", 20000.0), ("b.tif", 10000.0)):
        tifffile.imwrite(
            tmp_path / "data" / name,
            grey(len(name) + int(resolution)),
            resolution=(resolution, resolution * 2),
            resolutionunit="CENTIMETER",
        )
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(tmp_path / "data", client=client)
    rows = catalog(cohort)
    assert len({row["stack"] for row in rows.values()}) == 3
    found = cohort.images().by_id("data/a.tif")
    assert found.coords["x"].values[1] == pytest.approx(0.5)
    assert found.coords["y"].values[1] == pytest.approx(0.25)
    assert found.coords["y"].attrs["units"] == "micrometer"
    assert not cohort.images().by_id("data/c.png").coords


def test_blank_images_are_images(client: Client, tmp_path: Path) -> None:
    for n in range(3):
        put(tmp_path / "data" / f"i{n}.png", np.zeros((40, 40 + n), np.uint8))
    cohort = engine.create(tmp_path / "cohort")
    cohort.ingest(tmp_path / "data", client=client)
    assert [found.shape for found in cohort.images()] == [(1, 40, 40), (1, 40, 41), (1, 40, 42)]
    assert not any(found.values.any() for found in cohort.images())


def test_images_are_a_sequence(mixture: Any) -> None:
    cohort, _ = mixture
    images = cohort.images("height == 16")
    assert len(images) == 6
    assert [a.attrs["image_id"] for a in images[1:3]] == [
        "data/d1/s1/e1/series.ome.tif#1",
        "data/d1/s1/e1/series.ome.tif#2",
    ]
    assert np.array_equal(images[-1].values, images[5].values)
    with pytest.raises(KeyError, match="nothing"):
        images.by_id("nothing")
    with pytest.raises(engine.errors.NothingFound, match="hight"):
        cohort.images("hight == 16")
