"""Unit tests for the NIfTI reader, by SimpleITK, which shares no code with nibabel."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as its users write it
import zarr
from distributed import Client
from numpy.typing import NDArray

import engine
from engine.errors import SourceUnreadable
from engine.sources import Plane, detect_format, nifti, open_source
from engine.store.pixels.stacks import stack_path

OBLIQUE = np.array(
    [
        [1.9318517, -0.5176381, 0.0, -80.0],
        [0.5, 1.8660254, -0.7764571, -60.0],
        [0.1339746, 0.5, 2.8977775, -40.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""2 x 2 x 3 mm, turned about two axes, each by 15 degrees."""

LEFT_HANDED = np.diag([-2.0, 2.0, 3.0, 1.0])


def volume(dtype: str = "int16", shape: tuple[int, ...] = (6, 5, 4)) -> NDArray[Any]:
    return (np.arange(np.prod(shape)) % 120).reshape(shape).astype(dtype)


CODES, DIMENSIONS, TYPE, SLOPE = 252, 42, 70, 112
"""Offsets of fields in the header of NIfTI-1: qform_code, dim[1], datatype, scl_slope."""


def image(
    pixels: NDArray[Any], affine: NDArray[Any] | None = None, unit: str = "mm"
) -> nibabel.Nifti1Image:
    made = nibabel.Nifti1Image(pixels, np.eye(4) if affine is None else affine)
    made.set_qform(made.affine, 1)
    made.header.set_xyzt_units(unit, "sec")
    return made


def planes_of(content: bytes) -> tuple[Plane, ...]:
    with open_source(io.BytesIO(content), "a.nii") as source:
        return source.planes


def pixels_of(content: bytes) -> list[NDArray[Any]]:
    with open_source(io.BytesIO(content), "a.nii") as source:
        return [source.read(n) for n in range(len(source.planes))]


def reason_of(content: bytes, name: str = "a.nii", **limits: int) -> str | None:
    try:
        with open_source(io.BytesIO(content), name, **limits) as source:
            for n in range(len(source.planes)):
                source.read(n)
    except SourceUnreadable as error:
        return error.reason
    return None


def patched(content: bytes, offset: int, values: list[float], kind: str = "<i2") -> bytes:
    new = np.array(values, kind).tobytes()
    return content[:offset] + new + content[offset + len(new) :]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "dtype",
    [
        "uint8",
        "int8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "float32",
        "float64",
    ],
)
def test_what_itk_writes_is_read(tmp_path: Path, dtype: str, suffix: str) -> None:
    written = volume(dtype, (4, 5, 6))  # z, y, x
    made = sitk.GetImageFromArray(written)
    made.SetSpacing((0.5, 0.75, 2.5))
    sitk.WriteImage(made, str(tmp_path / f"a{suffix}"))
    content = (tmp_path / f"a{suffix}").read_bytes()
    assert detect_format("a", content[:512]) == "nifti"
    assert np.array_equal(np.concatenate(pixels_of(content)), written)
    for z, plane in enumerate(planes_of(content)):
        assert (plane.place, plane.fragment, plane.dtype) == ((0, z), f"#{z}", dtype)
        assert plane.spacing_um == (750.0, 500.0)
        assert plane.step_um == 2500.0
        assert plane.findings == ()


@pytest.mark.parametrize("affine", [OBLIQUE, LEFT_HANDED, np.diag([2.0, 2.0, 3.0, 1.0])])
@pytest.mark.parametrize("coded", ["sform", "qform"])
@pytest.mark.parametrize(("unit", "mm"), [("mm", 1.0), ("micron", 0.001), ("meter", 1000.0)])
def test_the_affine_is_that_of_itk(
    tmp_path: Path, affine: NDArray[Any], coded: str, unit: str, mm: float
) -> None:
    made = image(volume(), affine, unit)
    made.header["qform_code" if coded == "sform" else "sform_code"] = 0
    made.to_filename(tmp_path / "a.nii")
    there = sitk.ReadImage(str(tmp_path / "a.nii"))
    for plane in planes_of((tmp_path / "a.nii").read_bytes()):
        assert plane.affine is not None
        assert plane.spacing_um == pytest.approx((2000.0 * mm, 2000.0 * mm), rel=1e-6)
        for index in ((0, 0, 0), (5, 0, 0), (0, 4, 0), (0, 0, 3), (5, 4, 3)):
            found = (np.array(plane.affine) @ (*index, 1))[:3]
            due = there.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose(found, due, rtol=1e-5, atol=1e-4 * mm)


def test_slope_and_intercept_are_a_rescale(tmp_path: Path) -> None:
    made = image(volume())
    made.header.set_slope_inter(0.5, -3.0)
    made.to_filename(tmp_path / "a.nii")
    due = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii")))
    content = (tmp_path / "a.nii").read_bytes()
    for z, (plane, pixels) in enumerate(zip(planes_of(content), pixels_of(content), strict=True)):
        assert plane.rescale == (0.5, -3.0)
        assert pixels.dtype == np.int16
        np.testing.assert_allclose(pixels[0] * 0.5 - 3.0, due[z])


@pytest.mark.parametrize(
    ("slope", "inter", "rescale", "findings"),
    [
        (0.0, 7.0, None, ()),
        (np.nan, 0.0, None, ()),
        (1.0, 0.0, None, ()),
        (1.0, np.inf, None, ("rescale_invalid",)),
        (2.0, 0.0, (2.0, 0.0), ()),
    ],
)
def test_a_slope_that_is_none(slope: float, inter: float, rescale: Any, findings: Any) -> None:
    (plane, *_) = planes_of(patched(image(volume()).to_bytes(), SLOPE, [slope, inter], "<f4"))
    assert (plane.rescale, plane.findings) == (rescale, findings)


def test_time_comes_after_z() -> None:
    values = volume("uint16", (6, 5, 4, 3))
    made = image(values)
    made.header["pixdim"][4] = 0.04
    planes, pixels = planes_of(made.to_bytes()), pixels_of(made.to_bytes())
    assert [plane.place for plane in planes] == [(t, z) for t in range(3) for z in range(4)]
    assert planes[0].step_ms == pytest.approx(40.0)
    for plane, found in zip(planes, pixels, strict=True):
        t, z = plane.place or (0, 0)
        assert np.array_equal(found[0], values[:, :, z, t].T)


def test_what_is_assumed_or_left_out_is_said() -> None:
    (plane, *_) = planes_of(image(volume(), unit="unknown").to_bytes())
    assert (plane.spacing_um, plane.findings) == ((1000.0, 1000.0), ("unit_assumed",))
    (plane, *_) = planes_of(patched(image(volume()).to_bytes(), CODES, [0, 0]))
    assert (plane.affine, plane.findings) == (None, ())
    # An sform to a template of another size gives way to the scanner's qform.
    template = image(volume(), LEFT_HANDED)
    template.set_sform(LEFT_HANDED @ np.diag([1.2, 0.9, 1.1, 1.0]), 4)
    (plane, *_) = planes_of(template.to_bytes())
    assert plane.affine is not None
    assert plane.affine[0][0] == pytest.approx(2.0)
    (plane, *_) = planes_of(patched(template.to_bytes(), CODES, [0]))
    assert (plane.affine, plane.findings) == (None, ("orientation_invalid",))
    (plane, *_) = planes_of(patched(image(volume()).to_bytes(), 80, [np.nan], "<f4"))  # pixdim[1]
    assert plane.spacing_um is None
    assert "spacing_invalid" in plane.findings


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    assert reason_of(image(volume("complex64")).to_bytes()) == "unsupported"
    assert reason_of(image(volume("float32", (3, 3, 2, 1, 6))).to_bytes()) == "unsupported"
    assert pixels_of(image(volume("float32", (3, 3, 2, 1, 1))).to_bytes())
    quad = patched(image(volume("float64")).to_bytes(), TYPE, [1536, 128])
    assert reason_of(quad) == "unsupported"
    pair = nibabel.Nifti1Pair(volume(), np.eye(4))
    pair.to_filename(tmp_path / "a.hdr")
    assert reason_of((tmp_path / "a.hdr").read_bytes(), "a.hdr") == "unsupported"
    assert detect_format("a.img", (tmp_path / "a.img").read_bytes()[:512]) is None
    assert reason_of(gzip.compress(b"a text, not an image"), "a.nii.gz") == "not_an_image"
    assert detect_format("a.txt.gz", gzip.compress(b"a text, not an image")) is None


def test_a_bomb_is_refused_before_it_is_inflated() -> None:
    small = image(volume("uint8", (8, 8, 1))).to_bytes()
    zipped = gzip.compress(patched(small, DIMENSIONS, [20_000, 20_000]))
    assert reason_of(zipped, max_decoded_bytes=10**8) == "too_large"
    assert reason_of(zipped) == "truncated"  # no file of this size can hold as much
    assert reason_of(gzip.compress(small + bytes(10**8), 9)) == "corrupt"
    assert reason_of(gzip.compress(small + bytes(10**6), 9)) is None


def test_a_large_file_is_inflated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "HELD_BYTES", 100)
    values = volume("int32", (40, 50, 6))
    content = gzip.compress(image(values).to_bytes())
    with open_source(io.BytesIO(content), "a") as source:
        for z in (3, 4, 1, 5, 0):
            assert np.array_equal(source.read(z)[0], values[:, :, z].T)
    flipped = bytearray(content)
    flipped[-6] ^= 1  # the checksum
    assert reason_of(bytes(flipped)) == "corrupt"
    assert reason_of(content[: len(content) // 2]) == "truncated"


def test_the_header_alone_is_inflated() -> None:
    content = gzip.compress(image(volume("uint8", (100, 100, 100))).to_bytes(), 0)
    read = []

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            found = super().read(size)
            read.append(len(found))
            return found

    with open_source(Counting(content), "a") as source:
        assert len(source.planes) == 100
        assert sum(read) < 300_000
        source.read(7)
        assert sum(read) > len(content)


@pytest.mark.parametrize("affine", [OBLIQUE, LEFT_HANDED])
def test_geometry_reaches_the_catalog_and_the_pixels(
    tmp_path: Path, client: Client, affine: NDArray[Any]
) -> None:
    values = volume("int16", (16, 12, 4))
    data = tmp_path / "data"
    data.mkdir()
    made = image(values, affine)
    made.header.set_slope_inter(2.0, -1000.0)
    made.to_filename(data / "brain.nii.gz")
    there = sitk.ReadImage(str(data / "brain.nii.gz"))
    cohort = engine.create(tmp_path / "cohort")
    report = cohort.ingest(data, client=client)
    assert (report.new, report.failed, report.findings) == (4, 0, {})
    frame = cohort.images().frame.sort_values("z")
    for z, row in enumerate(frame.itertuples()):
        assert (row.z, row.image_id) == (z, f"data/brain.nii.gz#{z}")
        np.testing.assert_allclose(
            row.position_mm, there.TransformIndexToPhysicalPoint((0, 0, z)), atol=1e-4
        )
        axes = np.array(there.GetDirection()).reshape(3, 3)
        np.testing.assert_allclose(row.orientation, [*axes[:, 0], *axes[:, 1]], atol=1e-5)
        sides = (row.spacing_x_um, row.spacing_y_um, row.spacing_z_um)
        np.testing.assert_allclose(sides, np.array(there.GetSpacing()) * 1000.0, rtol=1e-6)
        found = cohort.images(f"z == {z}")[0]
        np.testing.assert_allclose(found.values[0], values[:, :, z].T * 2.0 - 1000.0)
    said = zarr.open_group(tmp_path / "cohort" / stack_path(row.stack), mode="r").attrs
    matrix = np.array(said["voxel_to_patient_mm"])
    for index in ((0, 0, 0), (15, 11, 3)):
        np.testing.assert_allclose(
            (matrix @ (*index, 1))[:3], there.TransformIndexToPhysicalPoint(index), atol=1e-3
        )
    np.testing.assert_allclose(said["dicom"]["ImagePositionPatient"], frame.position_mm.iloc[0])
