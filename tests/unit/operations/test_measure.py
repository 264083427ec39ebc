"""`measure` against scikit-image, on whole images and on blocks of giant ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from distributed import Client
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import distance
from skimage.measure import label, regionprops_table

import engine
from engine.errors import UsageError
from engine.operations.measure import LENGTHS, RATIOS, STATISTICS
from tests.support.images import put

HALO = 40


def spots(image: NDArray[Any]) -> NDArray[Any]:
    """Connected pixels of the first channel."""
    return label(image[0] > 128)


def scene(seed: int, height: int, width: int) -> NDArray[np.uint16]:
    """Two channels: spots, and another pattern."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(size=(2, height, width)), (0, 3, 3))
    noise = rng.integers(0, 20, (2, height, width))
    return (np.where(smooth > 0.15, 150, 20) + noise).astype(np.uint16)


@pytest.fixture(scope="module")
def measured(client: Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[engine.Cohort, Any]:
    """Two images, one without spots, one of a single channel, and a giant one; all measured."""
    place = tmp_path_factory.mktemp("measure")
    for n in range(2):
        pixels = scene(n, 70, 80)
        resolution = {"resolution": (2.0, 2.0), "metadata": {"axes": "CYX", "unit": "um"}}
        put(place / f"data/i{n}.tif", pixels, imagej=True, **resolution)
    put(place / "data/none.tif", np.full((2, 30, 40), 9, np.uint16), imagej=True,
        metadata={"axes": "CYX"})  # fmt: skip
    put(place / "data/grey.png", scene(5, 50, 60)[0])
    tifffile.imwrite(place / "data/giant.tif", scene(6, 2100, 2090), imagej=False,
                     photometric="minisblack", tile=(256, 256), metadata={"axes": "CYX"},
                     )  # fmt: skip
    cohort = engine.create(place / "cohort", layout="{name}")
    toml = place / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + "\n[limits]\ngiant_bytes = 60000\n")
    assert cohort.ingest(place / "data", client=client).failed == 0
    found = engine.from_function(spots, name="spots", labels="instances", halo_px=HALO)
    assert cohort.run(found, client=client).failed == 0
    operation = engine.measure(objects="spots", ring_px=3.0, radius_px=25.0).with_upstream(
        {"objects": found}
    )
    report = cohort.run(operation, client=client)
    assert (report.failed, report.waiting) == (0, 0)
    return cohort, cohort.table(report.tables[0])


def test_columns_equal_scikit_image(measured: tuple[engine.Cohort, Any]) -> None:
    cohort, table = measured
    shapes = ("area", "area_convex", *LENGTHS, *RATIOS, "euler_number", "bbox", "centroid")
    for image in cohort.images(stored=True):
        labels = spots(image.values)
        rows = table[table["image_id"] == image.attrs["image_id"]]
        assert rows["spots"].tolist() == list(range(1, labels.max() + 1))
        if not len(rows):
            continue
        pixels = np.moveaxis(image.values, 0, -1)
        right = regionprops_table(labels, pixels, (*shapes, *STATISTICS))
        for name in ("area", "area_convex", *LENGTHS, "eccentricity", "solidity", "extent",
                     "euler_number"):  # fmt: skip
            assert np.allclose(rows[name], right[name], rtol=1e-6, atol=1e-6), name
        turned = np.abs(np.sin(rows["orientation"] - right["orientation"]))
        round_ = np.isclose(rows["axis_major_length"], rows["axis_minor_length"])
        assert np.all((turned < 1e-5) | round_)
        for n in range(4):
            assert np.array_equal(rows[f"bbox_{n}"], right[f"bbox-{n}"])
        for axis, n in (("y", 0), ("x", 1)):
            assert np.allclose(rows[axis], right[f"centroid-{n}"])
        for name in STATISTICS:
            for c in range(pixels.shape[-1]):
                assert np.allclose(rows[f"{name}_{c}"], right[f"{name}-{c}"], rtol=1e-6), name
            if pixels.shape[-1] == 1:
                assert rows[f"{name}_1"].isna().all()
        spacing = image.attrs["spacing_um"]
        if spacing is None:
            assert rows["area_um2"].isna().all()
        else:
            assert np.allclose(rows["area_um2"], right["area"] * 0.25)
            assert np.allclose(rows["perimeter_um"], right["perimeter"] / 2)


def test_rings_and_neighbours_are_those_of_the_whole_image(
    measured: tuple[engine.Cohort, Any],
) -> None:
    cohort, table = measured
    for image in cohort.images(stored=True):
        if image.sizes["y"] > 1000:
            box: tuple[slice, slice] = slice(1990, 2100), slice(1990, 2090)  # around a corner
        else:
            box = slice(None), slice(None)
        labels = spots(image.values)
        rows = table[table["image_id"] == image.attrs["image_id"]].set_index("spots")
        if not len(rows):
            continue
        away, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
        ring = (away > 0) & (away <= 3.0)
        owner = np.where(ring, labels[tuple(nearest)], 0)
        centres = rows[["y", "x"]].to_numpy()
        apart = distance.cdist(centres, centres)
        np.fill_diagonal(apart, np.inf)
        assert np.allclose(rows["neighbour_distance"], apart.min(axis=1))
        assert np.array_equal(rows["neighbours"], (apart <= 25.0).sum(axis=1))
        for number in np.unique(labels[box])[1:]:
            # ties between two objects may go either way in scipy: compare those without
            mine = image.values[:, owner == number]
            got = [rows.loc[number, f"ring_intensity_mean_{c}"] for c in range(len(image.values))]
            close = np.allclose(got, mine.mean(axis=1), rtol=0.05) if mine.size else True
            assert close, (image.attrs["image_id"], number)


def test_tables_by_image_have_a_mean_for_each_channel(
    measured: tuple[engine.Cohort, Any],
) -> None:
    cohort, table = measured
    name = next(t for t in cohort.tables() if t.startswith("measure_by_image"))
    by_image = cohort.table(name).set_index("image_id")
    for image_id, rows in table.groupby("image_id"):
        assert by_image.loc[image_id, "count"] == len(rows)
        mean = rows["intensity_mean_0"].mean()
        assert by_image.loc[image_id, "intensity_mean_0_mean"] == pytest.approx(mean)
    assert by_image.loc["data/none.tif", "count"] == 0


def test_qc_of_measured_objects(measured: tuple[engine.Cohort, Any], client: Client) -> None:
    cohort, _ = measured
    found = engine.from_function(spots, name="spots", labels="instances", halo_px=HALO)
    operation = engine.measure(objects="spots", ring_px=3.0, radius_px=25.0).with_upstream(
        {"objects": found}
    )
    assert cohort.qc(operation, client=client).shown == 5


def test_what_has_no_objects_is_refused() -> None:
    with pytest.raises(UsageError, match="does not number"):
        engine.measure(objects="segment").with_upstream({"objects": engine.segment()})
    with pytest.raises(UsageError, match=r"cohort\.operation"):
        _ = engine.measure().key


def test_parents(client: Client, tmp_path: Path) -> None:
    pixels = np.zeros((40, 60), np.uint8)
    pixels[5:30, 5:30] = 100
    pixels[10:14, 10:14], pixels[20:25, 28:33], pixels[2:4, 50:53] = 200, 200, 200
    put(tmp_path / "data/a.png", pixels)
    cohort = engine.create(tmp_path / "cohort", layout="{name}")
    cohort.ingest(tmp_path / "data", client=client)
    small = engine.from_function(lambda image: label(image[0] > 150), name="small",
                                 labels="instances")  # fmt: skip
    large = engine.from_function(lambda image: label(image[0] > 50), name="large",
                                 labels="instances")  # fmt: skip
    for one in (small, large):
        assert cohort.run(one, client=client).failed == 0
    asked = engine.measure(objects="small", within="large")
    report = cohort.run(asked.with_upstream({"objects": small, "within": large}), client=client)
    table = cohort.table(report.tables[0])
    assert table["small"].tolist() == [1, 2, 3]
    assert table["parent"].tolist() == [1, 2, 2]
