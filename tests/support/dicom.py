"""DICOM files for tests, written by pydicom."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

KEY = "0123456789abcdef0123456789abcdef"

TOP = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("COHORT_TEST_DATA", TOP.parent / "shared" / "data"))

needs_sunnybrook = pytest.mark.skipif(
    not (DATA / "sunnybrook" / "dicoms").is_dir(),
    reason=f"no Sunnybrook data at {DATA / 'sunnybrook'} (COHORT_TEST_DATA names another folder)",
)


def uid(*parts: object) -> UID:
    """Return a UID derived from some values."""
    return generate_uid(entropy_srcs=["test", *map(str, parts)])


def make(pixels: NDArray[Any], *, syntax: str = ExplicitVRLittleEndian, **tags: Any) -> Dataset:
    """Return a CT image of a fictitious patient; tags replace the default elements."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.SOPClassUID = CTImageStorage
    ds.PatientID, ds.PatientName, ds.Modality = "CANARY1", "CANARY^Jane", "CT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid("study"), uid("series")
    ds.FrameOfReferenceUID = uid("frame")
    ds.StudyDate = "20260102"
    ds.InstanceNumber = 1
    ds.PixelSpacing = [0.5, 0.25]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [0, 0, 0]
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.SamplesPerPixel = 1
    ds.Rows, ds.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        ds.NumberOfFrames = len(pixels)
    bits = pixels.dtype.itemsize * 8
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in tags.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    if "SOPInstanceUID" not in ds:
        ds.SOPInstanceUID = uid("instance", ds.SeriesInstanceUID, ds.get("InstanceNumber"))
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def put_dicom(path: Path, pixels: NDArray[Any], **tags: Any) -> Path:
    """Write a DICOM file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    make(pixels, **tags).save_as(path, enforce_file_format=True)
    return path


def put_series(
    folder: Path, positions: list[float], *, times: tuple[float, ...] = (0.0,), **tags: Any
) -> list[Path]:
    """Write a series: one plane for each position along z (mm) and time, with distinct pixels."""
    paths = []
    for z, position in enumerate(positions):
        for t, time in enumerate(times):
            number = z * len(times) + t + 1
            values = np.random.default_rng(number).integers(-50, 900, (24, 32)).astype("<i2")
            named = {
                "InstanceNumber": number,
                "ImagePositionPatient": [0, 0, position],
                "TriggerTime": time,
                **tags,
            }
            paths.append(put_dicom(folder / f"{number:03d}", values, **named))
    return paths
