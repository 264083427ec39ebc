"""Instances: numbered by first pixels, and equal however an image was cut into blocks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label, regionprops_table

import engine
from engine.errors import ParameterError
from engine.geometry import Region
from engine.operations.base import LABELS, Image, ImageFailed
from engine.operations.functions.function import InstanceFunction, from_function
from tests.support.images import catalog, put
from tests.support.instance_blocks import in_blocks
from tests.support.label_operation import read_labels

HALO = 40


def blobs(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return the connected bright pixels; numbered from the bottom up, and not one by one."""
    numbers = label(pixels[0] > 128, connectivity=2)
    return np.where(numbers, (numbers.max(initial=0) + 1 - numbers) * 7, 0)


def touching(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return objects that touch: pixels of one grey value that are connected."""
    return label(pixels[0], connectivity=1, background=0).astype(np.uint16)


def expected(labels: NDArray[Any]) -> NDArray[np.uint32]:
    """Number objects by their first pixels, with numpy's own means."""
    names, firsts = np.unique(labels, return_index=True)
    order = [name for _, name in sorted(zip(firsts, names, strict=True)) if name]
    table = {int(name): n for n, name in enumerate(order, 1)}
    return np.array([[table.get(int(v), 0) for v in row] for row in labels], np.uint32).reshape(
        labels.shape
    )


def operation(function: Any = blobs, halo: int = HALO, **options: Any) -> InstanceFunction:
    made = from_function(function, name="blobs", labels="instances", halo_px=halo, **options)
    assert isinstance(made, InstanceFunction)
    return made


@st.composite
def scenes(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Rectangles and lines of up to 40 pixels, which may touch and hide each other."""
    height, width = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    pixels = np.zeros((1, height, width), np.uint8)
    for grey in range(draw(st.integers(0, 25))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        h, w = draw(st.sampled_from([1, 2, 5, 13, HALO])), draw(st.sampled_from([1, 3, 8, HALO]))
        pixels[0, y : y + h, x : x + w] = 100 + 5 * grey
    return pixels


@settings(max_examples=40, deadline=None)
@given(scenes(), st.sampled_from([16, 33, 64]))
def test_blocks_equal_the_whole(pixels: NDArray[np.uint8], side: int) -> None:
    made = operation(touching)
    whole = dict(made.measure(Image(pixels)))
    labels = whole.pop(LABELS)
    assert np.array_equal(labels, expected(touching(pixels)))
    found, rows = in_blocks(made, pixels, side)
    extents = [s for s in ndimage.find_objects(labels) if s is not None]
    largest = max((max(side.stop - side.start for side in s) for s in extents), default=0)
    if largest <= HALO:
        assert np.array_equal(found, labels)
        for name in set(made.object_schema.names) - {"owned"}:
            right = pa.array(whole[name]).to_numpy(zero_copy_only=False)
            assert np.array_equal(rows[name].to_numpy(), right, equal_nan=right.dtype == float)
        assert not np.any(rows["cut"].to_numpy())
    else:  # nothing is lost, and what isn't seen whole is marked
        assert np.array_equal(found > 0, labels > 0)
        assert found.max(initial=0) == rows.num_rows
        counts = np.bincount(found.ravel(), minlength=rows.num_rows + 1)[1:]
        cut = rows["cut"].to_numpy()
        assert np.array_equal(counts[~cut], rows["area_px"].to_numpy()[~cut])


def test_objects_larger_than_three_halos_are_marked_and_counted() -> None:
    pixels = np.zeros((1, 40, 400), np.uint8)
    pixels[0, 5:9, 10 : 10 + 3 * HALO] = 200
    pixels[0, 20:24, 200:210] = 210
    made = operation()
    found, rows = in_blocks(made, pixels, 32)
    assert rows["cut"].to_pylist().count(False) == 1
    assert rows["cut"].to_pylist().count(True) >= 1
    assert np.array_equal(found > 0, pixels[0] > 0)


def test_measures_equal_scikit_image() -> None:
    rng = np.random.default_rng(3)
    pixels = (ndimage.gaussian_filter(rng.normal(size=(1, 120, 130)), (0, 3, 3)) > 0.05) * np.uint8(
        200
    )
    found = operation().measure(Image(pixels, spacing_um=(0.5, 2.0)))
    names = ("area", "centroid", "bbox", "equivalent_diameter_area")
    table = regionprops_table(np.asarray(found[LABELS]), properties=names)
    assert np.array_equal(found["area_px"], table["area"])
    assert np.allclose(found["area_um2"], table["area"])
    assert np.allclose(found["y"], table["centroid-0"])
    assert np.allclose(found["x"], table["centroid-1"])
    assert np.allclose(found["equivalent_diameter_px"], table["equivalent_diameter_area"])
    assert np.allclose(found["equivalent_diameter_um"], np.sqrt(4 * table["area"] / np.pi))
    for n, name in enumerate(("top", "left", "bottom", "right")):
        assert np.array_equal(found[name], table[f"bbox-{n}"])
    edge = (table["bbox-0"] == 0) | (table["bbox-1"] == 0)
    edge |= (table["bbox-2"] == 120) | (table["bbox-3"] == 130)
    assert np.array_equal(found["touches_border"], edge)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (np.zeros((5, 5), bool), "labels_are_a_mask"),
        (np.zeros((5, 5)), "labels_of_type_float64"),
        (np.zeros((5, 4), int), "labels_of_another_shape"),
        (np.full((5, 5), -1), "negative_labels"),
        ({"count": [1]}, "answer_without_labels"),
    ],
)
def test_wrong_labels_have_names(answer: Any, reason: str) -> None:
    made = operation(lambda image: answer)
    with pytest.raises(ImageFailed, match=reason):
        made.measure(Image(np.zeros((1, 5, 5), np.uint8)))


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"])
def test_any_integer_type_is_taken(dtype: str) -> None:
    high = np.iinfo(dtype).max
    labels = np.zeros((6, 9), dtype)
    labels[0, 5], labels[1:3, 2:4], labels[5, 0] = high - 1, high, 3
    made = operation(lambda image: {"labels": labels, "mean": [0.5, 1.5, 2.5]},
                     schema={"mean": float})  # fmt: skip
    found = made.measure(Image(np.zeros((1, 6, 9), np.uint8)))
    assert np.array_equal(found[LABELS], expected(labels))
    assert found["mean"].tolist() == [1.5, 2.5, 0.5]  # by number: ascending labels


def test_own_columns_need_a_value_for_each_object() -> None:
    labels = np.eye(3, dtype=int)
    made = operation(lambda image: {"labels": labels, "mean": [1.0, 2.0]}, schema={"mean": float})
    with pytest.raises(ImageFailed, match="columns_of_different_length"):
        made.measure(Image(np.zeros((1, 3, 3), np.uint8)))
    with pytest.raises(ParameterError, match="area_px"):
        operation(schema={"area_px": float})
    with pytest.raises(ParameterError, match="labels"):
        from_function(blobs, name="blobs", labels="classes")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images, a series, and a giant of four blocks."""
    place = tmp_path_factory.mktemp("instances")
    rng = np.random.default_rng(1)

    def scene(*shape: int) -> NDArray[np.uint8]:
        smooth = ndimage.gaussian_filter(rng.normal(size=shape), (*[0] * (len(shape) - 2), 3, 3))
        return np.where(smooth > 0.15, 200, 20).astype(np.uint8)

    for n in range(3):
        put(place / f"data/i{n}.png", scene(40 + n, 50))
    tifffile.imwrite(place / "data/series.ome.tif", scene(2, 2, 32, 48), metadata={"axes": "TZYX"})
    tifffile.imwrite(place / "data/giant.tif", scene(2100, 2090), tile=(256, 256))
    cohort = engine.create(place / "cohort", layout="{name}")
    toml = place / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + "\n[limits]\ngiant_bytes = 60000\n")
    assert cohort.ingest(place / "data", client=client).failed == 0
    report = cohort.map(blobs, name="blobs", labels="instances", halo_px=HALO, client=client)
    assert (report.planned, report.failed) == (8, 0)
    return place / "cohort"


def test_label_images_and_tables_have_the_same_numbers(made: Path) -> None:
    cohort = engine.open(made)
    asked = operation()
    found = read_labels(cohort, asked)
    table = cohort.table(f"blobs@{asked.key[:8]}")
    for image in cohort.images(stored=True):
        name = image.attrs["image_id"]
        right = expected(blobs(image.values))
        assert np.array_equal(found[name], right), name
        rows = table[table["image_id"] == name]
        assert rows["object"].tolist() == list(range(1, right.max() + 1))
        assert np.array_equal(rows["area_px"], np.bincount(right.ravel())[1:])
        assert not rows["cut"].any()
    assert not {"first", "owned", "top"} & set(table.columns)
    report = cohort.verify()
    assert not report.problems
    assert not report.leftovers
    assert cohort.plan(asked).to_compute == 0
    for row in catalog(cohort).values():
        index = json.loads((made / f"pixels/{row['stack']}.zarr/labels/zarr.json").read_text())
        assert index["attributes"]["ome"]["labels"] == [asked.label_name]


def test_lost_labels_are_computed_again(made: Path, tmp_path: Path, client: Client) -> None:
    cohort = engine.open(shutil.copytree(made, tmp_path / "cohort"))
    asked = operation()
    stack = catalog(cohort)["data/giant.tif"]["stack"]
    labels = tmp_path / f"cohort/pixels/{stack}.zarr/labels"
    for folder in (labels / asked.label_name, labels / asked.measured_image.name):
        shard = next(path for path in sorted(folder.glob("0/c/**/*")) if path.is_file())
        shard.unlink()
        assert not cohort.verify().ok
        assert cohort.run(asked, client=client).failed == 0
        assert cohort.verify().ok
        for image in cohort.images(stored=True):
            name = image.attrs["image_id"]
            assert np.array_equal(read_labels(cohort, asked)[name], expected(blobs(image.values)))


def test_pictures_show_outlines(made: Path, tmp_path: Path, client: Client) -> None:
    cohort = engine.open(shutil.copytree(made, tmp_path / "cohort"))
    report = cohort.qc(operation(), client=client)
    assert report.shown == 8


def test_regions_of_an_image_that_has_a_halo_only_where_the_plane_goes_on() -> None:
    """An object that touches the plane's own border is whole."""
    pixels = np.zeros((1, 64, 64), np.uint8)
    pixels[0, 0:6, 0:6] = 200
    image = Image(
        pixels[:, :48, :48], origin=(0, 0), core_region=Region((0, 0), (32, 32)),
        full_shape=(64, 64),
    )  # fmt: skip
    found = operation().measure(image)
    assert list(found["cut"]) == [False]
    assert list(found["touches_border"]) == [True]
