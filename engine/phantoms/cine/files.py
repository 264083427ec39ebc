"""Synthetic cines as DICOM files, with contours in Sunnybrook's text format and their truth.

```
DIR/dicoms/<patient>/<instance>.dcm
DIR/contourfiles/<original>/{i,o}-contours/IM-0001-<instance>-{i,o}contour-manual.txt
DIR/link.csv             patient_id,original_id
DIR/truth.parquet        one row per frame, see TRUTH_SCHEMA
DIR/phantom.json         the options, and the origin of coordinates
```
Each header names a fictitious patient (`CANARY`), so that tests can search for leaked names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.errors import MissingExtra
from engine.phantoms.cine.frames import (
    MUSCLE_DENSITY_G_PER_ML,
    CineFrame,
    CineOptions,
    Heart,
    draw_cine_frame,
    make_heart,
)
from engine.phantoms.folders import claim_folder, mark_of, write_if_new

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

TRUTH = "truth.parquet"
COMMAND = "cohort phantom cine"

CANARY = "CANARY"
"""Prefix of the name and the id of every synthetic patient."""

ROWS = (0.8, 0.6, 0.0)
COLUMNS = (-0.36, 0.48, -0.8)
"""Directions of a row and of a column of the image in the patient, unit vectors: oblique."""

TRUTH_SCHEMA = pa.schema(
    [
        ("patient_id", pa.string()),
        ("original_id", pa.string()),
        ("path", pa.string()),
        ("instance", pa.int64()),
        ("slice", pa.int64()),
        ("phase", pa.int64()),
        ("time_ms", pa.float64()),
        ("endo_area_mm2", pa.float64()),
        ("epi_area_mm2", pa.float64()),
        ("volume_ml", pa.float64()),
        ("edv_ml", pa.float64()),
        ("esv_ml", pa.float64()),
        ("ejection_fraction", pa.float64()),
        ("mass_g", pa.float64()),
    ]
)
"""One row per frame. Areas are those of the polygons in the contour files. ``volume_ml`` is the
cavity's in that phase: areas times the distance of slices, summed; ``edv_ml`` and ``esv_ml`` are
its maximum and minimum, ``ejection_fraction`` is 1 - esv / edv, ``mass_g`` is (outer - inner area)
times distance and 1.05 g/ml, at phase 0."""


def write_cine(directory: str | Path, options: CineOptions | None = None) -> Path:
    """Write a synthetic cine, its contours and its truth; equal options give equal bytes.

    Parameters
    ----------
    directory
        A new or empty folder, or one written with the same options.
    options
        Parameters of the cine.

    Returns
    -------
    Path of ``truth.parquet``, see `TRUTH_SCHEMA`.

    Raises
    ------
    MissingExtra
        If pydicom is not installed.
    ParameterError
        If the folder holds anything else.
    """
    options = CineOptions() if options is None else options
    try:
        import pydicom  # noqa: F401 - an extra, imported where used
    except ImportError:
        raise MissingExtra("pydicom", "dicom", "to write DICOM files") from None
    root = Path(directory)
    mark = mark_of(
        COMMAND, asdict(options),
        contours="x y in pixels; the first pixel's centre is (origin, origin)",
    )  # fmt: skip
    expected = f"a new or empty folder, or one made by {COMMAND} with the same options"
    claim_folder(root, mark, expected)
    rows: list[dict[str, Any]] = []
    links = ["patient_id,original_id"]
    for patient in range(options.patients):
        heart = make_heart(options, patient)
        patient_id, original = f"{CANARY}{patient + 1:04d}", f"PH-{patient + 1:02d}"
        links.append(f"{patient_id},{original}")
        rows += _with_volumes(
            list(_write_patient(root, options, heart, patient_id, original)), options
        )
    write_if_new(root / "link.csv", ("\n".join(links) + "\n").encode())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema=TRUTH_SCHEMA), sink, compression="zstd")
    write_if_new(root / TRUTH, sink.getvalue().to_pybytes())
    return root / TRUTH


def _write_patient(
    root: Path, options: CineOptions, heart: Heart, patient_id: str, original: str
) -> Iterator[dict[str, Any]]:
    for level in range(options.slices):
        for phase in range(options.phases):
            frame = draw_cine_frame(options, heart, level, phase)
            instance = level * options.phases + phase + 1
            path = f"dicoms/{patient_id}/{instance}.dcm"
            made = _dataset(options, heart, frame, patient_id, (level, phase))
            write_if_new(root / path, _dicom_bytes(made))
            for letter, points in (("i", frame.endo), ("o", frame.epi)):
                name = f"IM-0001-{instance:04d}-{letter}contour-manual.txt"
                place = root / "contourfiles" / original / f"{letter}-contours" / name
                write_if_new(place, _contour_bytes(points + options.origin))
            yield {
                "patient_id": patient_id,
                "original_id": original,
                "path": path,
                "instance": instance,
                "slice": level,
                "phase": phase,
                "time_ms": round(phase * heart.beat_ms / options.phases, 3),
                "endo_area_mm2": frame.endo_area_mm2,
                "epi_area_mm2": frame.epi_area_mm2,
            }


def _with_volumes(rows: list[dict[str, Any]], options: CineOptions) -> list[dict[str, Any]]:
    """Add the values of the whole ventricle."""
    ml = options.distance_mm / 1000
    volumes = [
        ml * sum(row["endo_area_mm2"] for row in rows if row["phase"] == phase)
        for phase in range(options.phases)
    ]
    wall = sum(row["epi_area_mm2"] - row["endo_area_mm2"] for row in rows if row["phase"] == 0)
    whole = {
        "edv_ml": max(volumes),
        "esv_ml": min(volumes),
        "ejection_fraction": 1 - min(volumes) / max(volumes),
        "mass_g": ml * wall * MUSCLE_DENSITY_G_PER_ML,
    }
    return [{**row, "volume_ml": volumes[row["phase"]], **whole} for row in rows]


def _dataset(
    options: CineOptions,
    heart: Heart,
    frame: CineFrame,
    patient_id: str,
    place: tuple[int, int],
) -> Dataset:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

    level, phase = place

    def uid(*parts: object) -> UID:  # derived from the options, so that files are reproducible
        return generate_uid(entropy_srcs=[COMMAND, repr(options), patient_id, *map(str, parts)])

    normal = np.cross(ROWS, COLUMNS)
    position = np.array([-90.0, -110.0, 60.0]) + level * options.distance_mm * normal
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = MRImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = uid("instance", level, phase)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "PRIMARY", "CARDIAC", "NONE"]
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260102"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "030405"
    ds.AccessionNumber = f"{CANARY}-ACC"
    ds.Modality = "MR"
    ds.Manufacturer = "Cohort phantom"
    ds.InstitutionName = f"{CANARY} Hospital"
    ds.ReferringPhysicianName = f"{CANARY}^Doctor"
    ds.StudyDescription = f"{CANARY} heart"
    ds.SeriesDescription = f"{CANARY} short axis"
    ds.PatientName = f"{CANARY}^Phantom^{heart.patient + 1:04d}"
    ds.PatientID = patient_id
    ds.PatientBirthDate = "19000102"
    ds.PatientSex = "O"
    ds.SliceThickness = f"{options.thickness_mm:g}"
    ds.SpacingBetweenSlices = f"{options.distance_mm:g}"
    ds.RepetitionTime, ds.EchoTime, ds.FlipAngle = "3.2", "1.5", "45"
    ds.MRAcquisitionType, ds.ScanningSequence, ds.SequenceVariant = "2D", "GR", "SS"
    ds.ScanOptions = "CG"
    ds.TriggerTime = f"{phase * heart.beat_ms / options.phases:.3f}"
    ds.NominalInterval = round(heart.beat_ms)
    ds.HeartRate = round(60_000 / heart.beat_ms)
    ds.CardiacNumberOfImages = options.phases
    ds.PatientPosition = "FFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid("study"), uid("series")
    ds.StudyID = f"{CANARY}1"
    ds.SeriesNumber, ds.AcquisitionNumber = 1, 1
    ds.InstanceNumber = level * options.phases + phase + 1
    ds.ImagePositionPatient = [f"{value:.6f}" for value in position]
    ds.ImageOrientationPatient = [f"{value:g}" for value in (*ROWS, *COLUMNS)]
    ds.FrameOfReferenceUID = uid("frame of reference")
    ds.SliceLocation = f"{level * options.distance_mm:g}"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = frame.pixels.shape
    ds.PixelSpacing = [f"{options.spacing_mm:g}"] * 2
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.WindowCenter, ds.WindowWidth = "350", "700"
    ds.private_block(0x0019, f"{CANARY} private", create=True).add_new(1, "LO", f"{CANARY} note")
    ds.PixelData = frame.pixels.astype("<i2").tobytes()
    return ds


def _dicom_bytes(ds: Dataset) -> bytes:
    from io import BytesIO

    from pydicom import dcmwrite

    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def _contour_bytes(points: NDArray[np.float64]) -> bytes:
    return "".join(f"{x:.2f} {y:.2f}\n" for x, y in points).encode()
