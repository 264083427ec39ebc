"""A made cine: real DICOM files whose contours and truth agree, and the same every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from engine.errors import ParameterError
from engine.phantoms import CineOptions, write_cine
from engine.phantoms.cine.frames import polygon_area

OPTIONS = CineOptions(patients=1, slices=3, phases=4, size_px=120, spacing_mm=1.6, seed=3, origin=1)


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cine")
    write_cine(place, OPTIONS)
    return place


def test_truth_is_that_of_the_contour_files(cine: Path) -> None:
    truth = pd.read_parquet(cine / "truth.parquet")
    assert len(truth) == len(list(cine.glob("dicoms/*/*.dcm"))) == 12
    for row in truth.itertuples():
        for letter, area in (("i", row.endo_area_mm2), ("o", row.epi_area_mm2)):
            name = f"IM-0001-{row.instance:04d}-{letter}contour-manual.txt"
            points = np.loadtxt(
                cine / "contourfiles" / row.original_id / f"{letter}-contours" / name
            )
            assert polygon_area(points) * 1.6**2 == pytest.approx(area, rel=1e-12)
    first = truth.groupby("phase").endo_area_mm2.sum() * 10 / 1000
    assert np.allclose(truth.groupby("phase").volume_ml.first(), first)
    assert (truth.ejection_fraction == 1 - first.min() / first.max()).all()


def test_files_are_dicom_and_show_blood_inside_the_contour(cine: Path) -> None:
    for row in pd.read_parquet(cine / "truth.parquet").itertuples():
        ds = pydicom.dcmread(cine / row.path)
        assert ds.PatientID == row.patient_id
        assert str(ds.PatientName).startswith("CANARY")
        assert float(ds.TriggerTime) == pytest.approx(row.time_ms)
        name = f"IM-0001-{row.instance:04d}-icontour-manual.txt"
        points = np.loadtxt(cine / "contourfiles" / row.original_id / "i-contours" / name) - 1
        x, y = np.rint(points.mean(0)).astype(int)
        assert ds.pixel_array[y - 2 : y + 3, x - 2 : x + 3].mean() > 450
        assert ds.pixel_array[:5, :5].mean() < 40


def test_the_same_options_leave_the_files_alone_and_others_are_refused(cine: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in cine.rglob("*")}
    write_cine(cine, OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in cine.rglob("*")} == before
    with pytest.raises(ParameterError):
        write_cine(cine, CineOptions(seed=4))
    with pytest.raises(ParameterError):
        CineOptions(size_px=40)
