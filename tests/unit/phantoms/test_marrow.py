"""Made marrow slides: exact, repeatable, streamed, in three formats, and of the right colours."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from engine.errors import ParameterError
from engine.kernels.segmentation.tissue import Tissue, bone_density, class_areas
from engine.phantoms.marrow import slide as marrow
from engine.phantoms.marrow.files import write_marrow
from engine.phantoms.marrow.options import MarrowOptions
from engine.phantoms.marrow.png_stream import PngRows
from engine.phantoms.marrow.slide import MarrowSlide
from jobs.cli import app

OPTIONS = MarrowOptions(images=3, size=(300, 220), scale=0.5, seed=7)


@pytest.fixture(scope="module")
def slide() -> marrow.MarrowBand:
    return MarrowSlide(OPTIONS, 0).whole()


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 299), st.integers(1, 40))
def test_any_rows_alone_are_those_of_the_whole(first: int, count: int) -> None:
    whole = MarrowSlide(OPTIONS, 0).draw(range(300))
    rows = range(first, min(first + count, 300))
    band = MarrowSlide(OPTIONS, 0).draw(rows)
    np.testing.assert_array_equal(band.labels, whole.labels[first : rows.stop])
    np.testing.assert_array_equal(band.pixels, whole.pixels[:, first : rows.stop])


def test_a_slide_has_all_tissues_in_plausible_shares() -> None:
    shares = []
    for number in range(5):
        options = MarrowOptions(images=5, size=(560, 280), scale=0.4, seed=1)
        areas = np.array(class_areas(MarrowSlide(options, number).whole().labels))
        shares.append(areas / areas.sum())
    mean = np.mean(shares, axis=0)
    assert 0.2 < mean[Tissue.BACKGROUND] < 0.7
    assert 0.1 < np.mean([bone_density(s) for s in shares]) < 0.4
    assert 0.1 < mean[Tissue.FAT] / (1 - mean[Tissue.BACKGROUND]) < 0.5


def test_tissues_look_as_they_are_stained(slide: marrow.MarrowBand) -> None:
    """Ground and vacuoles are pale, bone is pink, marrow is purple and darker."""
    from scipy.ndimage import binary_erosion

    mean = {}
    for tissue in Tissue:
        core = binary_erosion(slide.labels == tissue, iterations=2)
        assert core.sum() > 50, tissue
        mean[tissue] = slide.pixels[:, core].astype(float).mean(axis=1)
    for pale in (Tissue.BACKGROUND, Tissue.FAT):
        assert mean[pale].min() > 215
    red, green, blue = mean[Tissue.BONE]
    assert red > blue > green
    other = mean[Tissue.OTHER]
    assert other.sum() < mean[Tissue.BONE].sum()
    assert other[2] - other[0] > blue - red, "marrow is bluer than bone"


def test_slides_differ_by_number_seed_and_variety() -> None:
    def traits(number: int, **changes: Any) -> np.ndarray:
        options = MarrowOptions(images=3, size=(160, 140), scale=0.5, **changes)
        return MarrowSlide(options, number).whole().pixels

    first = traits(0)
    np.testing.assert_array_equal(first, traits(0))
    assert (first != traits(1)).mean() > 0.5
    assert (first != traits(0, seed=1)).mean() > 0.5
    assert (first != traits(0, variety=2.0)).mean() > 0.5


def test_memory_does_not_depend_on_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marrow, "BAND_PX", 1 << 15)
    peaks = []
    for height in (300, 900):
        slide = MarrowSlide(MarrowOptions(images=1, size=(height, 256), scale=0.3), 0)
        tracemalloc.start()
        assert sum(band.labels.size for band in slide.bands()) == height * 256
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]


def test_what_can_not_be_made_is_refused(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"images": 0},
        {"size": (100, 500)},
        {"size": (200_000, 500)},
        {"scale": 0.1},
        {"variety": -1},
        {"format": "svs"},
        {"size": (9000, 500), "format": "psd"},
    ]
    for values in wrong:
        with pytest.raises(ParameterError):
            MarrowOptions(**values)
    with pytest.raises(ParameterError, match="number"):
        MarrowSlide(OPTIONS, 3)
    with pytest.raises(ParameterError, match="rows"):
        MarrowSlide(OPTIONS, 0).draw(range(290, 301))
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ParameterError, match="a new or empty folder"):
        write_marrow(tmp_path, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_files_hold_the_slides_and_exact_masks(slide: marrow.MarrowBand, tmp_path: Path) -> None:
    truth = pq.read_table(write_marrow(tmp_path, OPTIONS)).to_pylist()
    assert [(row["subject"], row["name"]) for row in truth] == [
        (f"s{n}", "slide-001") for n in (1, 2, 3)
    ]
    pixels = imagecodecs.png_decode((tmp_path / "slides/s1/slide-001.png").read_bytes())
    np.testing.assert_array_equal(pixels, np.moveaxis(slide.pixels, 0, 2))
    for tissue in (Tissue.BONE, Tissue.FAT, Tissue.OTHER):
        file = tmp_path / f"masks/{tissue.name.lower()}/s1/slide-001.png"
        mask = imagecodecs.png_decode(file.read_bytes())
        np.testing.assert_array_equal(mask, np.where(slide.labels == tissue, 255, 0))
        assert truth[0][f"{tissue.name.lower()}_px"] == (mask == 255).sum()
    assert truth[0]["bone_density"] == bone_density(class_areas(slide.labels))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    write_marrow(tmp_path, OPTIONS)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    with pytest.raises(ParameterError, match="the same set"):
        write_marrow(tmp_path, MarrowOptions(images=3, size=(300, 220), scale=0.5, seed=8))


def test_a_tiff_is_a_pyramid_with_its_pixel_size(tmp_path: Path) -> None:
    options = MarrowOptions(images=1, size=(200, 1100), scale=0.5, seed=7, format="tiff")
    write_marrow(tmp_path, options)
    base = np.moveaxis(MarrowSlide(options, 0).whole().pixels, 0, 2)
    with tifffile.TiffFile(tmp_path / "slides/s1/slide-001.tif") as tiff:
        shapes = [page.shape for page in tiff.pages]
        assert shapes == [(200, 1100, 3), (100, 550, 3), (50, 275, 3)]
        assert [page.is_reduced for page in tiff.pages] == [False, True, True]
        assert all(page.is_tiled for page in tiff.pages)
        np.testing.assert_array_equal(tiff.pages[0].asarray(), base)
        halved = base.reshape(100, 2, 550, 2, 3).mean((1, 3))
        assert np.abs(tiff.pages[1].asarray() - halved).max() <= 0.5
        resolution = tiff.pages[0].tags["XResolution"].value
        assert resolution[0] / resolution[1] == pytest.approx(10_000 / 4.0)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"slides", "masks", "phantom.json", "truth.parquet"}


def test_a_png_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 255, (3, 50, 70)).astype(np.uint8)
    with PngRows(tmp_path / "a.png", (50, 70), 3) as file:
        for first in range(0, 50, 7):
            file.write(rows[:, first : first + 7])
    found = imagecodecs.png_decode((tmp_path / "a.png").read_bytes())
    np.testing.assert_array_equal(found, np.moveaxis(rows, 0, 2))
    with PngRows(tmp_path / "b.png", (50, 70), 3) as file:
        file.write(rows[:, :10])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_command_makes_slides(tmp_path: Path) -> None:
    arguments = ["phantom", "marrow", str(tmp_path / "m"), "--images", "2", "--size", "150x128"]
    done = CliRunner().invoke(app, [*arguments, "--scale", "0.5", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["images"] == 2
    assert len(list((tmp_path / "m").rglob("slides/*/*.png"))) == 2
    refused = CliRunner().invoke(app, [*arguments, "--format", "svs"])
    assert refused.exit_code == 2
