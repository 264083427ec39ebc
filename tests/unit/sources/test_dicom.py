"""DICOM: what pydicom's own files decode to, and what is said of those that can't be."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import data_store
import numpy as np
import pydicom
import pydicom.data
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.uid import DeflatedExplicitVRLittleEndian

from engine.errors import SourceUnreadable
from engine.header import Header
from engine.sources import REASONS, detect_format, open_source
from tests.support.dicom import make

BUNDLED = Path(pydicom.data.__file__).parent / "test_files"
LARGER = Path(data_store.__file__).parent / "data"
PLANES = 3
"""Planes of a file that are compared."""


def files() -> list[Path]:
    return sorted(p for top in (BUNDLED, LARGER) for p in top.rglob("*") if p.is_file())


def of_pydicom(path: Path) -> list[np.ndarray] | None:
    """Return the planes (c, y, x) that pydicom gives, or None where it gives none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ds = pydicom.dcmread(path, force=True)
            pixels = ds.pixel_array
            if ds.PhotometricInterpretation == "PALETTE COLOR":
                pixels = apply_color_lut(pixels, ds)
            frames = pixels if int(ds.get("NumberOfFrames") or 1) > 1 else pixels[None]
        except Exception:
            return None
    native = frames.astype(frames.dtype.newbyteorder("="))
    return [p[None] if p.ndim == 2 else np.moveaxis(p, -1, 0) for p in native]


def attempt(content: bytes, name: str) -> tuple[list[np.ndarray], int, str | None]:
    """Return the first planes, how many there are, and the reason of a failure."""
    planes: list[np.ndarray] = []
    count = 0
    try:
        with open_source(io.BytesIO(content), name) as source:
            count = len(source.planes)
            for n in range(min(count, PLANES)):
                planes.append(source.read(n))
    except SourceUnreadable as error:
        return planes, count, error.reason
    return planes, count, None


def test_each_of_pydicoms_files_is_equal_or_a_named_failure() -> None:
    equal, named = 0, {}
    for path in files():
        planes, count, reason = attempt(path.read_bytes(), path.name)
        due = of_pydicom(path)
        if reason is not None:
            assert reason in REASONS
            assert due is None, f"{path.name} decodes, but here it is {reason}"
            named[path.name] = reason
            continue
        if due is None:  # pydicom wants a transfer syntax, the element shows which it is
            assert path.name == "OT-PAL-8-face.dcm"
            continue
        assert count == len(due), path.name
        for mine, theirs in zip(planes, due, strict=False):
            assert mine.dtype == theirs.dtype, path.name
            assert np.array_equal(mine, theirs), path.name
        equal += 1
    print(f"{equal} equal, {len(named)} named")
    assert equal >= 150
    assert named["MR_truncated.dcm"] == "truncated"
    assert named["rtstruct.dcm"] == "no_pixels"


def many() -> Iterator[tuple[str, bytes]]:
    for name in ("CT_small.dcm", "examples_jpeg2k.dcm", "SC_rgb_rle_2frame.dcm", "JPEG-lossy.dcm"):
        yield name, (BUNDLED / name).read_bytes()
    squeezed = io.BytesIO()
    make(
        np.random.default_rng(0).integers(0, 999, (64, 64)).astype("<u2"),
        syntax=DeflatedExplicitVRLittleEndian,
    ).save_as(squeezed, enforce_file_format=True)
    yield "deflated.dcm", squeezed.getvalue()


@pytest.mark.parametrize(
    ("name", "content"), [*many()], ids=lambda v: v if isinstance(v, str) else ""
)
def test_a_cut_file_is_a_named_failure_or_equal(name: str, content: bytes) -> None:
    whole = attempt(content, name)[0]
    reasons = []
    for cut in np.linspace(0, len(content) - 1, 20).astype(int):
        planes, _, reason = attempt(content[:cut], name)
        if reason is None:
            assert len(planes) == len(whole)
            assert all(np.array_equal(a, b) for a, b in zip(planes, whole, strict=True))
        reasons.append(reason)
    assert set(reasons) <= {*REASONS, None}
    assert reasons.count(None) <= 1  # cut within padding


def written(**tags: object) -> bytes:
    out = io.BytesIO()
    make(np.arange(64, dtype="<i2").reshape(8, 8), **tags).save_as(out, enforce_file_format=True)
    return out.getvalue()


def header(content: bytes) -> Header:
    with open_source(io.BytesIO(content), "x") as source:
        found = source.planes[0].header
    assert found is not None
    return found


def test_a_file_is_known_by_its_bytes_whatever_its_name() -> None:
    content = written()
    assert detect_format("noname", content[:512]) == "dicom"
    assert detect_format("looks.png", content[:512]) == "dicom"
    bare = content[content.index(b"\x08\0\x16\0") :]  # without preamble and meta information
    assert detect_format("noname", bare[:512]) == "dicom"
    assert np.array_equal(attempt(bare, "noname")[0][0], attempt(content, "x.dcm")[0][0])
    assert detect_format("noname", b"\x08\0 once upon a time") is None


@given(
    slope=st.none() | st.floats(-9, 9).map(lambda v: round(v, 3)),
    intercept=st.none() | st.integers(-2000, 2000),
)
@settings(max_examples=40, deadline=None)
def test_rescale_is_that_of_pydicom(slope: float | None, intercept: int | None) -> None:
    given_tags = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    content = written(**{name: value for name, value in given_tags.items() if value is not None})
    found = header(content)
    pixels, ds = attempt(content, "x")[0][0][0], pydicom.dcmread(io.BytesIO(content))
    a, b = found.rescale or (1.0, 0.0)
    if slope is None and intercept is None:
        assert found.rescale is None
    elif None in (slope, intercept):
        # pydicom 3 wants both; one alone counts here, as PS3.3 C.11.1 means it.
        assert found.findings == ("rescale_partial",)
        assert (a, b) == (1.0 if slope is None else slope, intercept or 0.0)
    else:
        assert np.array_equal(pixels * a + b, apply_modality_lut(ds.pixel_array, ds))


def test_facts_are_numbers_and_terms_and_no_text() -> None:
    found = header(
        written(
            StudyDate="20120000",
            PatientID="",
            RescaleType="CANARY",
            PatientPosition="CANARY",
            Manufacturer="CANARY",
            EchoTime="1.5",
            ImageOrientationPatient=[1, 0, 0, 1, 0, 0],
        )
    )
    assert found.findings == ("no_patient_id", "study_date_invalid", "orientation_invalid")
    assert dict(found.terms)["echo_ms"] == "1.5"
    assert dict(found.terms)["modality"] == "CT"
    assert "CANARY" not in repr(found)
    with open_source(io.BytesIO(written(PixelSpacing=[0.5, 0.25])), "x") as source:
        assert source.planes[0].spacing_um == (500.0, 250.0)
    with open_source(io.BytesIO(written(PixelSpacing=[0, 0.25])), "x") as source:
        assert source.planes[0].spacing_um is None


def test_without_the_extra_a_file_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith("engine.sources.dicom")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(SourceUnreadable, match=r"cohort-engine\[dicom\]") as caught:
        open_source(io.BytesIO(CONTENT), "x.dcm")
    assert caught.value.reason == "not_installed"


CONTENT = written()
