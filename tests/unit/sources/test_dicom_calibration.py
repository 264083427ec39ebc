"""DICOM: what the size of a pixel is where PixelSpacing does not say it, and what its value is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from engine.header import FINDINGS, Header
from engine.sources import Plane, open_source
from tests.support.dicom import make
from tests.support.slides import item

CM, SECONDS = 3, 4


def written(bits: int = 12, dtype: str = "<u2", **tags: Any) -> bytes:
    out = io.BytesIO()
    named = {"BitsStored": bits, "HighBit": bits - 1, **tags}
    make(np.arange(64, dtype=dtype).reshape(8, 8), **named).save_as(out, enforce_file_format=True)
    return out.getvalue()


def planes(content: bytes) -> tuple[Plane, ...]:
    with open_source(io.BytesIO(content), "x") as source:
        return source.planes


def header(plane: Plane) -> Header:
    assert plane.header is not None
    assert set(plane.header.findings) <= set(FINDINGS)
    return plane.header


def region(y: float, x: float, units: int = CM, kind: int = 1) -> pydicom.Dataset:
    return item(
        RegionSpatialFormat=kind, PhysicalUnitsXDirection=units, PhysicalUnitsYDirection=units,
        PhysicalDeltaX=x, PhysicalDeltaY=y,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tags", "spacing", "findings"),
    [
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (200, 100), ("spacing_at_detector",)),
        ({"NominalScannedPixelSpacing": [0.2, 0.1]}, (200, 100), ("spacing_at_detector",)),
        (
            {"ImagerPixelSpacing": [0.2, 0.1], "EstimatedRadiographicMagnificationFactor": 1.25},
            (160, 80),
            ("spacing_by_magnification",),
        ),
        (
            {"ImagerPixelSpacing": [0.2, 0.1], "EstimatedRadiographicMagnificationFactor": 0.0},
            (200, 100),
            ("spacing_at_detector",),
        ),
        (
            {"PixelSpacing": [0.2, 0.1], "ImagerPixelSpacing": [0.2, 0.1]},
            (200, 100),
            ("spacing_at_detector",),
        ),
        (
            {
                "PixelSpacing": [0.2, 0.1],
                "ImagerPixelSpacing": [0.2, 0.1],
                "PixelSpacingCalibrationType": "FIDUCIAL",
            },
            (200, 100),
            (),
        ),
        ({"PixelSpacing": [0.16, 0.08], "ImagerPixelSpacing": [0.2, 0.1]}, (160, 80), ()),
        (
            {"PixelSpacing": "", "ImagerPixelSpacing": [0.2, 0.1]},
            (200, 100),
            ("spacing_at_detector",),
        ),
        ({"PixelSpacing": [0, 0.1], "ImagerPixelSpacing": [0.2, 0.1]}, None, ("spacing_invalid",)),
        ({"SequenceOfUltrasoundRegions": [region(0.03, -0.02)]}, (300, 200), ()),
        (
            {"SequenceOfUltrasoundRegions": [region(0.03, 0.02), region(9, 0.01, SECONDS, 2)]},
            (300, 200),
            ("spacing_of_region",),
        ),
        (
            {"SequenceOfUltrasoundRegions": [region(0.03, 0.02), region(0.06, 0.04)]},
            None,
            ("spacing_differs",),
        ),
        ({"SequenceOfUltrasoundRegions": [region(0.03, 0.02, SECONDS)]}, None, ()),
        ({"SequenceOfUltrasoundRegions": [region(0.0, 0.02)]}, None, ()),
        ({}, None, ()),
    ],
)  # fmt: skip
def test_the_size_of_a_pixel(
    tags: dict[str, Any], spacing: tuple[float, float] | None, findings: tuple[str, ...]
) -> None:
    (plane,) = planes(written(**{"PixelSpacing": None, **tags}))
    if spacing is None:
        assert plane.spacing_um is None
    else:
        assert plane.spacing_um == pytest.approx(spacing)
    assert header(plane).findings == findings


def test_real_files_of_ultrasound_have_the_spacing_of_their_regions() -> None:
    path = get_testdata_file("examples_palette.dcm")
    (plane,) = planes(Path(path).read_bytes())
    first = pydicom.dcmread(path).SequenceOfUltrasoundRegions[0]
    um = (first.PhysicalDeltaY * 1e4, first.PhysicalDeltaX * 1e4)
    assert plane.spacing_um == pytest.approx(um)


def mapping(slope: float, intercept: float, last: int = 4095, **more: Any) -> pydicom.Dataset:
    return item(
        RealWorldValueSlope=slope, RealWorldValueIntercept=intercept,
        RealWorldValueFirstValueMapped=0, RealWorldValueLastValueMapped=last, **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("mappings", "rescale", "found", "findings"),
    [
        ([mapping(0.5, 3.0)], None, (0.5, 3.0), ()),
        ([mapping(1.0, 0.0)], None, None, ()),
        ([mapping(0.5, 3.0)], (0.5, 3.0), (0.5, 3.0), ()),
        ([mapping(0.5, 3.0, last=1000)], (0.5, 3.0), (0.5, 3.0), ()),
        ([mapping(0.5, 3.0)], (1.0, 0.0), (0.5, 3.0), ()),
        ([mapping(0.5, 3.0)], (2.0, 0.0), (2.0, 0.0), ("real_world_values",)),
        ([mapping(0.5, 3.0), mapping(2.0, 0.0)], None, None, ("real_world_values",)),
        ([mapping(0.5, 3.0, last=1000)], None, None, ("real_world_values",)),
        (
            [item(RealWorldValueFirstValueMapped=0, RealWorldValueLUTData=[0.0, 1.0])],
            None,
            None,
            ("real_world_values",),
        ),
    ],
)
@pytest.mark.parametrize("where", ["dataset", "shared", "frame"])
def test_a_mapping_to_real_world_values(
    mappings: list[pydicom.Dataset],
    rescale: tuple[float, float] | None,
    found: tuple[float, float] | None,
    findings: tuple[str, ...],
    where: str,
) -> None:
    groups = {"RealWorldValueMappingSequence": mappings}
    place = {
        "dataset": groups,
        "shared": {"SharedFunctionalGroupsSequence": [item(**groups)]},
        "frame": {"PerFrameFunctionalGroupsSequence": [item(**groups)]},
    }[where]
    given = {} if rescale is None else dict(
        zip(("RescaleSlope", "RescaleIntercept"), rescale, strict=True)
    )  # fmt: skip
    (plane,) = planes(written(**place, **given))
    assert header(plane).rescale == found
    assert header(plane).findings == findings


def test_each_frame_has_its_own_rescale_spacing_and_orientation() -> None:
    groups = [
        item(
            PixelValueTransformationSequence=[item(RescaleSlope=1.0 + n, RescaleIntercept=-n)],
            PixelMeasuresSequence=[item(PixelSpacing=[0.5 + n, 0.25], SliceThickness=2)],
            PlaneOrientationSequence=[
                item(ImageOrientationPatient=[[1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, -1]][n])
            ],
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, n])],
        )
        for n in range(2)
    ]
    pixels = np.zeros((2, 8, 8), "<u2")
    out = io.BytesIO()
    make(pixels, PerFrameFunctionalGroupsSequence=groups).save_as(out, enforce_file_format=True)
    one, two = planes(out.getvalue())
    assert (header(one).rescale, header(two).rescale) == ((1.0, 0.0), (2.0, -1.0))
    assert (one.spacing_um, two.spacing_um) == ((500.0, 250.0), (1500.0, 250.0))
    assert header(one).orientation != header(two).orientation
    assert header(two).position_mm == (0.0, 0.0, 1.0)


def test_a_parametric_map_has_the_values_that_highdicom_gives_it() -> None:
    source = make(np.arange(64, dtype="<u2").reshape(8, 8))
    for name in ("PatientBirthDate", "PatientSex", "StudyTime", "StudyID", "AccessionNumber"):
        setattr(source, name, "")
    source.ReferringPhysicianName = ""
    source.SliceThickness, source.SeriesNumber = 1.0, 1
    values = np.random.default_rng(0).integers(0, 4000, (8, 8)).astype(np.uint16)
    codes = highdicom.sr.CodedConcept("mm2/s", "UCUM", "mm2/s")
    made = highdicom.pm.ParametricMap(
        [source], values[None], highdicom.UID(), 1, highdicom.UID(), 1, "x", "x", "1", "1",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            highdicom.pm.RealWorldValueMapping(
                "ADC", "ADC", codes, value_range=(0, 65535), intercept=0.25, slope=0.5
            )
        ],
        voi_lut_transformations=[highdicom.VOILUTTransformation(1.0, 1.0)],
    )  # fmt: skip
    out = io.BytesIO()
    made.save_as(out, enforce_file_format=True)
    with open_source(io.BytesIO(out.getvalue()), "x") as opened:
        slope, intercept = header(opened.planes[0]).rescale or (0.0, 0.0)
        found = opened.read(0)[0] * slope + intercept
    theirs = highdicom.Image.from_dataset(made).get_frame(1, apply_real_world_transform=True)
    assert np.allclose(found, theirs)
