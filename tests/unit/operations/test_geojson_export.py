"""GeoJSON of objects: closed polygons without self-intersection, with the masks' areas."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from distributed import Client
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon2mask
from skimage.measure import label

import engine
from engine.errors import NothingFound
from engine.kernels.contours.trace import trace_mask
from engine.tables.geojson import geometry_of, write_features
from tests.support.images import put


def pieces(image: NDArray[Any]) -> NDArray[Any]:
    """Objects with holes, and one of two pieces."""
    numbers = label(image[0] > 128, connectivity=2)
    numbers[numbers == 2] = 1
    return numbers


@pytest.fixture(scope="module")
def cohort(client: Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[engine.Cohort, str]:
    place = tmp_path_factory.mktemp("geojson")
    rng = np.random.default_rng(4)
    for n, shape in enumerate([(60, 80), (2100, 2090)]):
        smooth = ndimage.gaussian_filter(rng.normal(size=shape), 2)
        pixels = np.where(smooth > 0.2, 200, 20).astype(np.uint8)
        pixels[20:40, 20:40] = 200
        pixels[22:30, 22:30] = 20  # a hole, with an island
        pixels[25:27, 25:27] = 200
        if n:
            tifffile.imwrite(place / "data/giant.tif", pixels, tile=(256, 256))
        else:
            put(place / "data/small.png", pixels)
    made = engine.create(place / "cohort", layout="{name}")
    toml = place / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + "\n[limits]\ngiant_bytes = 60000\n")
    assert made.ingest(place / "data", client=client).failed == 0
    report = made.map(
        pieces, name="pieces", labels="instances", object_name="piece", halo_px=2100, client=client
    )
    assert report.failed == 0
    return made, report.tables[0]


def write(cohort: engine.Cohort, table: str, where: str | None = None) -> list[dict[str, Any]]:
    out = bytearray()
    count = write_features(cohort.store, table, cohort.arrow_table(table, where), out.extend)
    found = json.loads(out)
    assert found["type"] == "FeatureCollection"
    assert len(found["features"]) == count
    return list(found["features"])


def polygons(feature: dict[str, Any]) -> list[list[list[list[int]]]]:
    geometry = feature["geometry"]
    found = geometry["coordinates"]
    return [found] if geometry["type"] == "Polygon" else found


def area(ring: list[list[int]]) -> float:
    """Return the area that a ring encloses, by the shoelace formula."""
    x, y = np.array(ring, float).T
    return abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))) / 2


def test_outlines_are_those_of_the_labels(cohort: tuple[engine.Cohort, str]) -> None:
    made, table = cohort
    rows = made.table(table)
    for image in made.images(stored=True):
        name = image.attrs["image_id"]
        features = write(made, table, f"image_id == {name!r}")
        mine = rows[rows["image_id"] == name].set_index("piece")
        assert len(features) == len(mine)
        numbers = [int(feature["properties"]["metadata"]["number"]) for feature in features]
        assert sorted(numbers) == mine.index.tolist()
        for number, feature in zip(numbers, features, strict=True):
            total = 0.0
            for outer, *holes in polygons(feature):
                for ring in (outer, *holes):
                    assert ring[0] == ring[-1]
                    assert all(isinstance(value, int) for point in ring for value in point)
                total += area(outer) - sum(map(area, holes))
            assert total == mine.loc[number, "area_px"]
            assert feature["properties"]["measurements"]["area_px"] == total
        if len(mine) < 300:  # pixel by pixel, by scikit-image's polygons
            labels = pieces(image.values)
            painted = np.zeros(labels.shape, bool)
            for feature in features:
                for outer, *holes in polygons(feature):
                    inside = polygon2mask(labels.shape, np.array(outer)[:, ::-1] - 0.5)
                    for hole in holes:
                        inside &= ~polygon2mask(labels.shape, np.array(hole)[:, ::-1] - 0.5)
                    painted |= inside
            assert np.array_equal(painted, labels > 0)


def test_tables_without_outlines_are_refused(
    cohort: tuple[engine.Cohort, str], client: Client, tmp_path: Path
) -> None:
    made, table = cohort
    by_image = table.replace("pieces@", "pieces_by_image@")
    with pytest.raises(NothingFound, match="no outlines"):
        write(made, by_image)
    counted = made.map(lambda image: {"mean": image.mean()}, name="counted",
                       schema={"mean": float}, client=client)  # fmt: skip
    with pytest.raises(NothingFound, match="no outlines"):
        write(made, counted.tables[0])


def passed(ring: list[list[int]]) -> list[tuple[int, int]]:
    """Return the corners of pixels that a ring passes, also between its points."""
    found = []
    for (ax, ay), (bx, by) in pairwise(ring):
        steps = abs(bx - ax) + abs(by - ay)
        found += [(ax + (bx - ax) * n // steps, ay + (by - ay) * n // steps) for n in range(steps)]
    return found


def test_no_ring_touches_itself() -> None:
    rng = np.random.default_rng(8)
    touching = 0
    for _ in range(300):
        mask = rng.random((9, 9)) > 0.35
        rings = trace_mask(mask)
        touching += sum(len({*map(tuple, ring.tolist())}) < len(ring) for ring in rings)
        found = polygons({"geometry": geometry_of(rings)})
        for polygon in found:
            for ring in polygon:
                assert len(passed(ring)) == len({*passed(ring)})
        painted = np.zeros(mask.shape, int)
        for outer, *holes in found:
            painted += polygon2mask(mask.shape, np.array(outer)[:, ::-1] - 0.5)
            for hole in holes:
                painted -= polygon2mask(mask.shape, np.array(hole)[:, ::-1] - 0.5)
        assert np.array_equal(painted, mask)
    assert touching > 50  # so the masks have such places


def test_no_rows_are_no_features(cohort: tuple[engine.Cohort, str]) -> None:
    made, table = cohort
    assert write(made, table, "area_px < 0") == []


def test_rows_of_earlier_pixels_get_no_outlines_of_later_ones(
    client: Client, tmp_path: Path
) -> None:
    def image(*at: int) -> NDArray[np.uint8]:
        pixels = np.full((60, 80), 20, np.uint8)
        for left in at:
            pixels[10:20, left : left + 6] = 200
        return pixels

    for n, pixels in enumerate([image(5), image(40, 60), image(70)]):
        put(tmp_path / f"data/i{n}.png", pixels)
    made = engine.create(tmp_path / "cohort", layout="{name}")
    made.ingest(tmp_path / "data", client=client)
    table = made.map(pieces, name="pieces", labels="instances", object_name="piece",
                     client=client).tables[0]  # fmt: skip
    put(tmp_path / "data/i0.png", image(70))  # as another image, which has labels
    put(tmp_path / "data/i1.png", image(20))  # as none has been
    made.ingest(tmp_path / "data", client=client)
    for name in ("i0", "i1"):
        with pytest.raises(NothingFound, match=f"is older than the labels of data/{name}.png"):
            write(made, table, f"name == '{name}'")
    assert len(write(made, table, "name == 'i2'")) == 1
    made.map(pieces, name="pieces", labels="instances", object_name="piece", client=client)
    assert len(write(made, table)) == 3
