"""DICOM whole slides: tiles are one image, of every organisation, at a chosen resolution."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import highdicom
import imagecodecs
import numpy as np
import pydicom
import pytest
from distributed import Client
from numpy.typing import NDArray

import engine
from engine.errors import SourceUnreadable
from engine.geometry import Region
from engine.privacy import KEY
from engine.sources import OpenSource, open_source
from tests.support.dicom import KEY as SECRET
from tests.support.dicom import uid
from tests.support.images import catalog
from tests.support.slides import item, put_slide, slide

SHAPE = (150, 210)  # neither side a multiple of a tile's


def colours(shape: tuple[int, int] = SHAPE, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3)).astype(np.uint8)


def stain(seed: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 60_000, shape).astype(np.uint16)


def opened(content: bytes, um: float | None = None) -> OpenSource:
    return open_source(io.BytesIO(content), "x.dcm", slide_spacing_um=um)


def reason(content: bytes, um: float | None = None) -> tuple[str, str]:
    with pytest.raises(SourceUnreadable) as caught, opened(content, um) as source:
        source.read(0)
    assert "CANARY" not in str(caught.value)
    return caught.value.reason, str(caught.value)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("tile", [(32, 40), (64, 64), (150, 210), (256, 256)])
def test_tiles_are_one_image_as_highdicom_puts_them_together(
    sparse: bool, tile: tuple[int, int]
) -> None:
    pixels = colours()
    content = slide([pixels], tile=tile, sparse=sparse)
    with opened(content) as source:
        (plane,) = source.planes
        assert (plane.shape, plane.dtype, plane.fragment) == ((3, *SHAPE), "uint8", "")
        assert plane.spacing_um == pytest.approx((0.5, 0.5))
        assert (plane.streams, plane.separate) == (True, False)
        found = source.read(0)
        for box in (Region((0, 0), (1, 1)), Region((31, 39), (97, 121)), Region((149, 3), SHAPE)):
            assert np.array_equal(source.read_region(0, box), found[:, *box.slices])
    assert np.array_equal(found, np.moveaxis(pixels, 2, 0))
    theirs = highdicom.Image.from_dataset(pydicom.dcmread(io.BytesIO(content)))
    assert np.array_equal(
        np.moveaxis(found, 0, 2), theirs.get_total_pixel_matrix(apply_icc_profile=False)
    )


def test_compressed_tiles_are_decoded_one_by_one() -> None:
    pixels = colours()
    given = {"code": imagecodecs.jpeg2k_encode, "PhotometricInterpretation": "RGB"}
    ds = pydicom.dcmread(io.BytesIO(slide([pixels], **given)))
    ds.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    with opened(out.getvalue()) as source:
        lossy = source.read(0).astype(int)
    assert np.abs(lossy - np.moveaxis(pixels, 2, 0)).max() <= 2
    cut = out.getvalue()[: len(out.getvalue()) * 2 // 3]
    assert reason(cut)[0] == "truncated"


@pytest.mark.parametrize("sparse", [False, True])
def test_optical_paths_are_channels(sparse: bool) -> None:
    planes = [stain(n) for n in range(3)]
    with opened(slide(planes, sparse=sparse)) as source:
        (plane,) = source.planes
        assert (plane.shape, plane.dtype) == ((3, *SHAPE), "uint16")
        assert plane.separate
        assert np.array_equal(source.read(0), np.stack(planes))


def test_where_no_tile_lies_colours_are_white_and_stains_are_0() -> None:
    for planes, blank in (([colours()], 255), ([stain(1)], 0)):
        with opened(slide(planes, sparse=True, leave_out=(0, 7))) as source:
            found = source.read(0)
        tops = [(0, 0), divmod(7, 6)]
        for row, column in tops:
            box = Region((row * 32, column * 40), (row * 32 + 32, min(column * 40 + 40, SHAPE[1])))
            assert (found[:, *box.slices] == blank).all()
        assert (found[:, 32:64, :40] != blank).any()


def test_a_resolution_is_reached_by_means_whatever_the_cut() -> None:
    pixels = colours((256, 320))
    for um, side in ((1.0, 2), (2.0, 4)):
        with opened(slide([pixels]), um) as source:
            plane = source.planes[0]
            assert plane.shape == (3, 256 // side, 320 // side)
            assert plane.spacing_um == pytest.approx((um, um))
            found = source.read(0)
            cut = source.read_region(0, Region((3, 5), (60, 70)))
        means = pixels.reshape(256 // side, side, 320 // side, side, 3).mean((1, 3))
        assert np.abs(np.moveaxis(found, 0, 2) - means).max() <= 1.0  # Pillow rounds twice
        assert np.array_equal(cut, found[:, 3:60, 5:70])
    dark = [stain(4, (256, 320)), stain(5, (256, 320))]
    with opened(slide(dark), 1.0) as source:
        means = np.stack(dark).reshape(2, 128, 2, 160, 2).mean((2, 4))
        assert np.abs(source.read(0) - means).max() <= 0.51
    with opened(slide([pixels]), 0.25) as source:  # nothing is enlarged
        assert source.planes[0].shape == (3, 256, 320)
    code, said = reason(slide([pixels], um=None), 1.0)
    assert (code, "no pixel size" in said) == ("unsupported", True)


@pytest.mark.parametrize(
    ("given", "code", "named"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]}, "no_pixels", "label"),
        ({"ImageType": ["DERIVED", "PRIMARY", "OVERVIEW", "NONE"]}, "no_pixels", "overview"),
        ({"ImageType": ["DERIVED", "PRIMARY", "THUMBNAIL", "RESAMPLED"]}, "no_pixels", "thumbnail"),
        ({"ConcatenationUID": uid("c"), "InConcatenationNumber": 1}, "unsupported", "concatenat"),
        ({"TotalPixelMatrixFocalPlanes": 3}, "unsupported", "focal planes"),
        ({"NumberOfOpticalPaths": 2}, "unsupported", "optical paths"),
        ({"TotalPixelMatrixRows": None}, "unsupported", "how large"),
        ({"DimensionOrganizationType": None}, "unsupported", "no places"),
        ({"TotalPixelMatrixColumns": 900}, "corrupt", "tiles"),
    ],
)
def test_what_is_not_assembled_is_refused_by_name(
    given: dict[str, Any], code: str, named: str
) -> None:
    if "NumberOfOpticalPaths" in given:
        content = slide([colours(), colours(seed=1)])
    else:
        content = slide([colours()], **given)
    assert reason(content)[0] == code
    assert named in reason(content)[1]


def test_tiles_that_lie_on_each_other_and_segmentations_are_refused() -> None:
    ds = pydicom.dcmread(io.BytesIO(slide([stain(0)], sparse=True)))
    places = ds.PerFrameFunctionalGroupsSequence
    places[1].PlanePositionSlideSequence = [
        item(**{e.keyword: e.value for e in places[0].PlanePositionSlideSequence[0]})
    ]
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    assert "lie on each other" in reason(out.getvalue())[1]
    ds = pydicom.dcmread(io.BytesIO(slide([stain(0)])))
    ds.SOPClassUID = pydicom.uid.SegmentationStorage
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    assert "segmentation" in reason(out.getvalue())[1]


# in a cohort


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> engine.Cohort:
    monkeypatch.setenv(KEY, SECRET)
    return engine.create(tmp_path / "cohort")


def pyramid(folder: Path, series: str = "a", seed: int = 0) -> list[NDArray[np.uint8]]:
    """Write three levels, and a label, as instances of one series; return the levels."""
    base = colours((256, 320), seed)
    levels = [base, base[::2, ::2], base[::4, ::4]]
    for n, level in enumerate(levels):
        put_slide(
            folder / f"{n}.dcm", [level], um=0.5 * 2**n, SeriesInstanceUID=uid(series),
            ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "RESAMPLED" if n else "NONE"],
        )  # fmt: skip
    put_slide(
        folder / "label.dcm", [base[:32, :40]], SeriesInstanceUID=uid(series),
        ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"],
    )  # fmt: skip
    return levels


@pytest.mark.parametrize(("um", "level", "side"), [(None, 0, 256), (1.0, 1, 128), (1.5, 1, 85)])
def test_the_levels_of_a_slide_are_one_image(
    cohort: engine.Cohort,
    tmp_path: Path,
    client: Client,
    um: float | None,
    level: int,
    side: int,
) -> None:
    levels = pyramid(tmp_path / "data")
    if um is not None:
        toml = tmp_path / "cohort" / "cohort.toml"
        toml.write_text(toml.read_text() + f"\n[slides]\nspacing_um = {um}\n")
    report = cohort.ingest(tmp_path / "data", client=client)
    assert (report.new, report.ignored, report.failed) == (1, 3, 0)
    (row,) = catalog(cohort).values()
    assert (row["height"], dict(row["header"])["level_um"]) == (side, f"{0.5 * 2**level:g}")
    assert row["findings"] == []
    if side in (256, 128):
        found = cohort.images().by_id(row["image_id"]).values
        assert np.array_equal(found, np.moveaxis(levels[level], 2, 0))
    again = cohort.ingest(client=client)  # the other levels do not become images the next night
    assert (again.new, again.unchanged, again.ignored) == (0, 1, 3)
    assert cohort.ingest(client=client, rehash=True).new == 0
    assert len(catalog(cohort)) == 1
    assert cohort.verify().ok


def test_a_large_slide_is_streamed_and_has_one_circle(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    y, x = np.mgrid[:96, :160]
    pixels = np.full((96, 160, 3), 240, np.uint8)
    pixels[(y - 48) ** 2 + (x - 80) ** 2 <= 20**2] = (120, 40, 120)
    put_slide(tmp_path / "data" / "slide", [pixels], tile=(32, 32))
    cohort.ingest(tmp_path / "data", client=client)
    cohort.run(engine.circles(radius_px=(10, 30)), client=client)
    (circle,) = cohort.table("circles").to_dict("records")
    assert (circle["y"], circle["x"], circle["radius_px"]) == pytest.approx((48, 80, 20), abs=0.5)
    large = engine.create(tmp_path / "large")
    toml = tmp_path / "large" / "cohort.toml"
    toml.write_text(toml.read_text() + "\n[limits]\ngiant_bytes = 10000\n")
    assert large.ingest(tmp_path / "data", client=client).failed == 0
    (row,) = catalog(large).values()
    assert row["giant"]
    (whole,) = catalog(cohort).values()
    assert (row["content"], row["noise_sd"]) == (whole["content"], whole["noise_sd"])
