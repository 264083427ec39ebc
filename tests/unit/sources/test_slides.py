"""Whole slides through OpenSlide: pixel size, chosen resolution, tiles, and broken files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from distributed import Client
from numpy.typing import NDArray

import engine
from engine.errors import SourceUnreadable
from engine.geometry import Region
from engine.sources import open_source
from tests.support.images import catalog

pytest.importorskip("openslide", reason="slides need OpenSlide: pip install .[slides]")

SHAPE = (1100, 1500)
MPP = 0.5
DESCRIPTION = (
    "Aperio Image Library v11.0.0\r\n{w}x{h} [0,0 {w}x{h}] (256x256)|AppMag = 20|MPP = {mpp}"
)


def slide_pixels(seed: int = 0, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(
        0, 255, (shape[0] // 16 + 1, shape[1] // 16 + 1, 3)
    )
    return np.kron(coarse, np.ones((16, 16, 1)))[: shape[0], : shape[1]].astype(np.uint8)


def write_svs(path: Path, pixels: NDArray[np.uint8], mpp: float | None = MPP) -> Path:
    """Write what a scanner of Aperio's writes: tiled levels, and a description."""
    height, width = pixels.shape[:2]
    text = DESCRIPTION.format(w=width, h=height, mpp=mpp)
    text = text if mpp is not None else text.split("|MPP")[0]
    with tifffile.TiffWriter(path) as tiff:
        for level in (pixels, pixels[::4, ::4]):
            tiff.write(
                level, tile=(256, 256), photometric="rgb", compression="deflate",
                description=text, metadata=None,
            )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_svs(tmp_path_factory.mktemp("slides") / "a.svs", slide_pixels())


def read(path: Path, spacing_um: float | None = None) -> tuple[NDArray[np.uint8], object]:
    with path.open("rb") as file, open_source(file, path.name, slide_spacing_um=spacing_um) as made:
        return made.read(0), made.planes[0]


def test_a_slide_says_its_pixel_size_and_its_pixels(svs: Path) -> None:
    pixels, plane = read(svs)
    assert plane.spacing_um == (MPP, MPP)
    assert plane.streams
    assert np.array_equal(pixels, np.moveaxis(slide_pixels(), 2, 0))


def test_a_chosen_resolution_is_a_mean_over_areas_however_it_is_cut(svs: Path) -> None:
    pixels, plane = read(svs, 1.0)
    assert plane.shape == (3, 550, 750)
    assert plane.spacing_um == (1.0, 1.0)
    flat = slide_pixels().reshape(550, 2, 750, 2, 3).mean(axis=(1, 3))
    assert np.abs(np.moveaxis(pixels, 0, 2) - flat).max() <= 1
    odd, plane = read(svs, 0.8)
    assert plane.spacing_um == pytest.approx((0.8, 0.8))
    with svs.open("rb") as file, open_source(file, svs.name, slide_spacing_um=0.8) as made:
        for start, stop in (((0, 0), (64, 937)), ((100, 333), (612, 700)), ((600, 3), (687, 5))):
            part = made.read_region(0, Region(start, stop))
            assert np.array_equal(part, odd[:, start[0] : stop[0], start[1] : stop[1]])
    finer, plane = read(svs, 0.1)
    assert finer.shape == (3, *SHAPE), "nothing is enlarged"


def test_a_coarse_level_is_read_where_it_is_fine_enough(svs: Path) -> None:
    pixels, plane = read(svs, 4 * MPP)
    assert plane.shape == (3, 275, 375)
    assert np.array_equal(pixels, np.moveaxis(slide_pixels()[::4, ::4], 2, 0))


def test_a_slide_without_pixel_size_can_have_no_chosen_resolution(tmp_path: Path) -> None:
    path = write_svs(tmp_path / "b.svs", slide_pixels(), mpp=None)
    assert read(path)[1].spacing_um is None
    with pytest.raises(SourceUnreadable, match="no pixel size"):
        read(path, 2.0)
    plain = tmp_path / "plain.tif"
    tifffile.imwrite(plain, slide_pixels(1), tile=(256, 256), photometric="rgb")
    assert np.array_equal(read(plain, 2.0)[0], np.moveaxis(slide_pixels(1), 2, 0)), "no slide"


def test_a_slide_cut_anywhere_fails_by_name_or_gives_equal_pixels(
    svs: Path, tmp_path: Path
) -> None:
    """Fault 15."""
    data = svs.read_bytes()
    whole, coarse = read(svs)[0], read(svs, 4 * MPP)[0]
    named: list[str] = []
    for length in np.linspace(0, len(data) - 1, 20).astype(int):
        path = tmp_path / "cut.svs"
        path.write_bytes(data[:length])
        for spacing, due in ((None, whole), (4 * MPP, coarse)):
            try:
                assert np.array_equal(read(path, spacing)[0], due)
            except SourceUnreadable as error:
                named.append(error.reason)
    assert len(named) >= 30
    assert set(named) <= set(engine.sources.REASONS)


def test_a_tile_that_is_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """Fault 16."""
    path = write_svs(tmp_path / "bomb.svs", slide_pixels())
    with path.open("rb") as file, pytest.raises(SourceUnreadable) as caught:
        open_source(file, path.name, max_decoded_bytes=100_000)
    assert caught.value.reason == "too_large"


def test_slides_are_ingested_at_the_resolution_that_the_cohort_says(
    client: Client, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_svs(data / "a.svs", slide_pixels(2, (2200, 2600)))
    (data / "broken.svs").write_bytes(b"no slide at all")
    cohort = engine.create(tmp_path / "cohort", layout="{name}")
    toml = tmp_path / "cohort" / "cohort.toml"
    toml.write_text(
        toml.read_text() + "\n[limits]\ngiant_bytes = 1000000\n[slides]\nspacing_um = 1.0\n"
    )
    report = cohort.ingest(data, client=client)
    assert (report.taken, report.failed) == (1, 1)
    rows = catalog(cohort)
    assert rows["data/broken.svs"]["reason"] == "not_an_image"
    row = rows["data/a.svs"]
    assert row["giant"]
    assert (row["height"], row["width"], row["spacing_y_um"]) == (1100, 1300, 1.0)
    image = cohort.images()[0].values
    assert np.array_equal(image, read(data / "a.svs", 1.0)[0])
