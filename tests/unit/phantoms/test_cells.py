"""Fields of cells: repeatable, drawn by any region, touching, and equal to their truth."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skimage.measure
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ParameterError
from engine.geometry import Region
from engine.phantoms.cells import files
from engine.phantoms.cells.field import CellField, FieldPart
from engine.phantoms.cells.files import IMAGES, MASKS, write_cells
from engine.phantoms.cells.nuclei import largest_radius
from engine.phantoms.cells.objects import NucleusNumbers, sum_part
from engine.phantoms.cells.options import SUBJECTS, CellOptions, field_path
from engine.phantoms.cells.random_lattice import BLOCK, RandomLattice

SMALL = CellOptions(images=3, size=(700, 600), seed=5)
"""Two by two tiles, none of them whole."""


def contents(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def draw(options: CellOptions, number: int = 0) -> FieldPart:
    return CellField(options, number).draw(Region((0, 0), options.size))


def touching(ids: np.ndarray) -> set[int]:
    """Return the objects of which some pixel has a neighbour, also a diagonal one, of another."""
    found: set[int] = set()
    height, width = ids.shape
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        a = ids[: height - down, max(0, -right) : width - max(0, right)]
        b = ids[down:, max(0, right) : width + min(0, right)]
        border = (a != b) & (a > 0) & (b > 0)
        found |= {*a[border].tolist(), *b[border].tolist()}
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cells")
    write_cells(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def truth(made: Path) -> pd.DataFrame:
    return pd.read_csv(made / "truth/objects.csv")


@pytest.fixture(scope="module")
def whole() -> FieldPart:
    return draw(SMALL)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_region_alone_is_that_of_the_whole(whole: FieldPart, data: st.DataObject) -> None:
    height, width = SMALL.size
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    stop = (
        data.draw(st.integers(y + 1, min(height, y + 200))),
        data.draw(st.integers(x + 1, min(width, x + 200))),
    )
    region = Region((y, x), stop)
    part = CellField(SMALL, 0).draw(region)
    np.testing.assert_array_equal(part.ids, whole.ids[region.slices])
    np.testing.assert_array_equal(part.expected, whole.expected[:, *region.slices])
    np.testing.assert_array_equal(part.pixels, whole.pixels[:, *region.slices])


def test_random_numbers_are_those_of_their_place() -> None:
    random = RandomLattice(3, 1)
    window = Region((-2 * BLOCK - 5, -7), (BLOCK + 3, BLOCK + 1))
    values = random.normals(4, window, 2)
    inner = Region((-9, 3), (20, 90))
    found = random.normals(4, inner, 2)
    offset = inner.start[0] - window.start[0], inner.start[1] - window.start[1]
    np.testing.assert_array_equal(found, values[:, offset[0] :, offset[1] :][:, :29, :87])
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02
    for other in (RandomLattice(2, 1), RandomLattice(3, 0)):
        assert (other.normals(4, inner) != found[:1]).all()
    assert (random.normals(5, inner) != found[:1]).all()


def test_equal_options_give_equal_bytes(made: Path, tmp_path: Path) -> None:
    write_cells(tmp_path, SMALL)
    assert contents(tmp_path) == contents(made)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    write_cells(tmp_path, SMALL)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    with pytest.raises(ParameterError, match="the same set"):
        write_cells(tmp_path, CellOptions(images=3, size=(700, 600), seed=6))


def test_fields_differ_by_number_and_seed(whole: FieldPart) -> None:
    for other in (draw(SMALL, 1), draw(CellOptions(images=3, size=SMALL.size, seed=6))):
        assert ((other.ids > 0) != (whole.ids > 0)).mean() > 0.2


def test_masks_are_the_truth(made: Path, truth: pd.DataFrame) -> None:
    for number in range(SMALL.images):
        path = f"{field_path(number)}.tif"
        mask = tifffile.imread(made / MASKS / path)
        image = tifffile.imread(made / IMAGES / path)
        place = dict(zip(("date", "subject", "experiment", "name"), Path(path).parts, strict=True))
        mine = truth[(truth["subject"] == place["subject"]) & (truth["date"] == place["date"])]
        assert set(mine["experiment"]) == {place["experiment"]}
        assert {f"{name}.tif" for name in mine["name"]} == {place["name"]}

        objects = skimage.measure.regionprops_table(
            mask, np.moveaxis(image, 0, 2), ("label", "area", "centroid", "intensity_mean")
        )
        np.testing.assert_array_equal(mine["object"], objects["label"])
        np.testing.assert_array_equal(mine["object"], np.arange(1, mask.max() + 1))
        np.testing.assert_array_equal(mine["area_px"], objects["area"])
        np.testing.assert_allclose(mine["centroid_y"], objects["centroid-0"], atol=1e-4)
        np.testing.assert_allclose(mine["centroid_x"], objects["centroid-1"], atol=1e-4)
        for channel, name in enumerate(SMALL.channels):
            # Noise leaves the mean: its variance is 6^2, and 2 for each grey level of signal.
            mean = mine[f"mean_{name}"].to_numpy()
            error = np.sqrt((36 + 2 * (mean - 100)) / mine["area_px"])
            z = (objects[f"intensity_mean-{channel}"] - mean) / error
            assert np.abs(z).max() < 5
            assert 0.8 < z.std() < 1.2

        _, first = np.unique(mask, return_index=True)
        assert (np.diff(first[1:]) > 0).all(), "numbers follow the first pixels, row by row"
        pieces = skimage.measure.label(mask, connectivity=1)
        assert pieces.max() == mask.max(), "each nucleus is one piece"


@pytest.mark.parametrize("seed", range(4))
def test_nuclei_touch_and_none_is_a_sliver(seed: int) -> None:
    ids = draw(CellOptions(size=(1000, 1000), seed=seed)).ids
    areas = np.bincount(ids.ravel())
    areas = areas[1:][areas[1:] > 0]
    assert 0.15 < len(touching(ids)) / len(areas) < 0.5
    assert 400 < len(areas) < 900
    assert areas.min() > 0.25 * np.median(areas)


def test_cells_keep_their_size_in_micrometres() -> None:
    areas, counts = {}, {}
    for spacing in (0.25, 0.5, 1.0):
        side = round(250 / spacing)
        part = draw(CellOptions(size=(side, side), spacing_um=spacing))
        counts[spacing] = len(np.unique(part.ids)) - 1
        areas[spacing] = (part.ids > 0).sum() * spacing**2 / counts[spacing]
        reach = largest_radius(1 / spacing)
        boxes = [region.bbox for region in skimage.measure.regionprops(part.ids.astype(int))]
        assert max(max(b[2] - b[0], b[3] - b[1]) for b in boxes) <= 2 * reach + 1
    assert max(areas.values()) / min(areas.values()) < 1.15
    assert max(counts.values()) / min(counts.values()) < 1.25


def test_the_marker_is_around_positive_nuclei() -> None:
    """In a ring of 1 um around the nuclei, away from others, classes are apart."""
    from skimage.segmentation import expand_labels

    part = draw(CellOptions(size=(1000, 1000)))
    ids = part.ids.astype(np.int64)
    ring = np.where(ids == 0, expand_labels(ids, 3), 0)
    means = np.bincount(ring.ravel(), part.pixels[1].ravel().astype(float))
    means /= np.maximum(np.bincount(ring.ravel()), 1)
    present = np.unique(ids)[1:]
    is_positive = dict(zip(part.cells.id.tolist(), part.cells.positive.tolist(), strict=True))
    positive = np.array([is_positive[cell] for cell in present.tolist()])
    ringed = means[present]
    cut = 2 * np.median(ringed[~positive])
    assert (ringed[positive] > cut).mean() > 0.97
    assert (ringed[~positive] < cut).mean() > 0.9
    inside = np.bincount(ids.ravel(), part.pixels[1].ravel().astype(float))[present]
    inside /= np.bincount(ids.ravel())[present]
    assert (ringed[positive] > inside[positive]).mean() > 0.9, "cytoplasm is around the nucleus"


def test_light_is_uneven_and_the_ground_is_not_empty() -> None:
    part = draw(CellOptions(size=(1400, 1400)))
    ground = np.where(part.ids == 0, part.expected[0] - 100, np.nan)
    blocks = np.nanpercentile(ground.reshape(7, 200, 7, 200).swapaxes(1, 2), 5, axis=(2, 3))
    corners = blocks[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert blocks[2:5, 2:5].mean() > 1.1 * corners.mean()
    assert blocks.min() > 20


def test_groups_differ_in_their_share_of_positive_cells(tmp_path: Path) -> None:
    write_cells(tmp_path, CellOptions(images=6, size=(800, 800)))
    table = pd.read_csv(tmp_path / "truth/objects.csv")
    groups = pd.read_csv(tmp_path / "subjects.csv")
    assert set(groups) == {"subject", "group"}
    assert sorted(groups["subject"]) == sorted(subject.name for subject in SUBJECTS)
    shares = (table["class"] == "positive").groupby(table["subject"]).mean()
    by_group = {name: shares[list(rows["subject"])] for name, rows in groups.groupby("group")}
    assert set(by_group) == {"control", "treated"}
    assert by_group["control"].max() < by_group["treated"].min()
    for subject in SUBJECTS:
        assert shares[subject.name] == pytest.approx(subject.positive, abs=0.08)


def test_numbers_of_bands_are_those_of_the_whole(whole: FieldPart) -> None:
    field, width = CellField(SMALL, 0), SMALL.size[1]
    expected = NucleusNumbers()
    masks = expected.number(whole.ids)
    rows = expected.finish(sum_part(whole), whole.ids[:0])
    numbers, bands, found = NucleusNumbers(), [], []
    for top in range(0, SMALL.size[0], 50):
        part = field.draw(Region((top, 0), (top + 50, width)))
        bands.append(numbers.number(part.ids))
        is_last = top + 50 == SMALL.size[0]
        found += numbers.finish(sum_part(part), part.ids[:0] if is_last else part.ids[-1:])
    np.testing.assert_array_equal(np.concatenate(bands), masks)
    assert [(row.number, row.id, row.area_px, row.positive_px) for row in found] == [
        (row.number, row.id, row.area_px, row.positive_px) for row in rows
    ]
    np.testing.assert_allclose([r.first_channel for r in found], [r.first_channel for r in rows])


def test_masks_of_many_nuclei_have_32_bits(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CellField, "most_cells", 1 << 16)
    write_cells(tmp_path, CellOptions(images=1, size=SMALL.size, seed=SMALL.seed))
    path = f"{MASKS}/{field_path(0)}.tif"
    wide, narrow = tifffile.imread(tmp_path / path), tifffile.imread(made / path)
    assert wide.dtype == np.uint32
    assert narrow.dtype == np.uint16
    np.testing.assert_array_equal(wide, narrow)


def test_memory_does_not_depend_on_the_height(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "TILE_PX", 128)
    monkeypatch.setattr("engine.phantoms.cells.tiff_file.TILE_PX", 128)
    write_cells(tmp_path / "warm", CellOptions(images=1, size=(64, 64)))
    peaks = []
    for height in (512, 2048):
        tracemalloc.start()
        write_cells(tmp_path / str(height), CellOptions(images=1, size=(height, 200)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.15 * peaks[0]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("images", 0),
        ("size", (32, 500)),
        ("size", (500, 200_000)),
        ("channels", ("DAPI",)),
        ("channels", ("DAPI", "DAPI")),
        ("channels", ("DAPI", " CD3")),
        ("channels", ("DAPI", "")),
        ("spacing_um", 0.01),
        ("spacing_um", float("nan")),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_bad_value_is_refused_by_name(parameter: str, value: object) -> None:
    options: dict[str, Any] = {parameter: value}
    with pytest.raises(ParameterError, match=parameter):
        CellOptions(**options)


def test_what_can_not_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="number"):
        CellField(SMALL, 3)
    for region in (Region((0, 0), (701, 10)), Region((-1, 0), (5, 5)), Region((5, 5), (5, 9))):
        with pytest.raises(ParameterError, match="region"):
            CellField(SMALL, 0).draw(region)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ParameterError, match="a new or empty folder"):
        write_cells(tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
