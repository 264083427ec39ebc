"""RT Structure Set (DICOM PS3.3, A.19): closed outlines in the patient, in millimetres.

Text of 16 characters a coordinate holds a few digits less than a number does; points that are read
are rounded (see `PlaneGeometry.to_pixels`), which is the only loss of the way there and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from engine.errors import ParameterError, SourceUnreadable
from engine.kernels.contours import Rings
from engine.sources.annotations.base import Drawing, Target, checked_ring
from engine.sources.annotations.dicom_common import (
    PATIENT_AND_STUDY,
    DicomReader,
    as_bytes,
    legal_source,
    note_uids,
    noted_uids,
    plane_geometry,
    read_dataset,
    refuse_options,
    same,
)

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


class RtStructReader(DicomReader):
    """Reads the outlines of a structure set; several of one structure on an image are even-odd."""

    def read(self, path: str, data: bytes) -> list[Drawing]:
        """Read the structures; rings are in the patient, see `Drawing.on`.

        Raises
        ------
        SourceUnreadable
        """
        found: dict[tuple[Target, str], list[NDArray[np.float64]]] = {}
        with read_dataset(data, "RTSTRUCT") as dataset:
            originals = noted_uids(dataset)
            names = {
                int(roi.ROINumber): str(roi.get("ROIName") or f"roi-{roi.ROINumber}")
                for roi in dataset.get("StructureSetROISequence") or ()
            }
            for roi in dataset.get("ROIContourSequence") or ():
                name = names.get(int(roi.ReferencedROINumber))
                if name is None:
                    raise SourceUnreadable("corrupt", "contours are of a structure without a name")
                for contour in roi.get("ContourSequence") or ():
                    target = _image_of(contour, originals)
                    found.setdefault((target, name), []).append(_ring(contour))
        if not found:
            raise SourceUnreadable("empty", "there is no contour in it")
        return [
            Drawing(target, name, tuple(rings), in_patient=True)
            for (target, name), rings in found.items()
        ]


def _image_of(contour: Dataset, originals: Mapping[str, str]) -> Target:
    images = list(contour.get("ContourImageSequence") or ())
    if len(images) != 1:
        raise SourceUnreadable("no_reference", "a contour does not name its image")
    frame = images[0].get("ReferencedFrameNumber")
    uid = str(images[0].ReferencedSOPInstanceUID)
    return Target(instance=originals.get(uid, uid), frame=None if frame is None else int(frame))


def _ring(contour: Dataset) -> NDArray[np.float64]:
    kind = str(contour.get("ContourGeometricType", ""))
    if kind not in CLOSED:
        open_ones = ("OPEN_PLANAR", "OPEN_NONPLANAR")
        reason = "unclosed" if kind in open_ones else "unsupported"
        raise SourceUnreadable(reason, "only closed planar contours are read")
    raw = contour.get_item("ContourData")
    value = None if raw is None else raw.value
    if isinstance(value, bytes):  # not parsed one by one, which takes most of the time
        words: Sequence[Any] = value.strip(b" \0").split(b"\\")
    else:
        words = [] if value is None else list(np.atleast_1d(np.asarray(value, object)))
    if not words or words == [b""]:
        raise SourceUnreadable("empty", "a contour has no points")
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        raise SourceUnreadable("not_numbers", "there is text where numbers should be") from None
    if len(numbers) % 3:
        raise SourceUnreadable("odd_count", f"{len(numbers)} numbers are no points in space")
    return checked_ring(numbers.reshape(-1, 3))


def write_rtstruct(
    sources: Sequence[Dataset],
    contours: Sequence[Mapping[str, Rings]],
    *,
    label: str = "CONTOURS",
) -> bytes:
    """Return contours as one RT Structure Set of the images that they are of.

    It carries the patient and study of those images; see `write_seg`.

    Parameters
    ----------
    sources
        Headers of the images, of one series and one frame of reference.
    contours
        For each image, rings by structure, pixels.
    label
        Structure set label, at most 16 characters.

    Raises
    ------
    ParameterError
        If the sources can't share a structure set.
    SourceUnreadable
        ``no_geometry`` if an image does not say where it lies.
    """
    structures = sorted({name for by_name in contours for name in by_name})
    if not sources or len(sources) != len(contours) or not structures:
        raise ParameterError("contours", len(contours), "one set for each of at least one source")
    differing = same(sources, ("SeriesInstanceUID", "FrameOfReferenceUID"))
    if differing:
        raise ParameterError("sources", dict(differing), "of one series and space")
    legal = [legal_source(source) for source in sources]
    dataset = _frame(legal[0], label)
    frame_of_reference = legal[0].FrameOfReferenceUID
    dataset.ReferencedFrameOfReferenceSequence = Items([_referenced(legal, frame_of_reference)])
    dataset.StructureSetROISequence = Items(
        _items({"ROINumber": n + 1, "ReferencedFrameOfReferenceUID": frame_of_reference,
                "ROIName": name, "ROIGenerationAlgorithm": "MANUAL"}
               for n, name in enumerate(structures))
    )  # fmt: skip
    dataset.ROIContourSequence = Items(
        _items({"ReferencedROINumber": n + 1,
                "ContourSequence": Items(_contours(sources, legal, contours, name))}
               for n, name in enumerate(structures))
    )  # fmt: skip
    dataset.RTROIObservationsSequence = Items(
        _items({"ObservationNumber": n + 1, "ReferencedROINumber": n + 1,
                "RTROIInterpretedType": "", "ROIInterpreter": ""}
               for n in range(len(structures)))
    )  # fmt: skip
    note_uids(dataset, [str(source.SOPInstanceUID) for source in sources])
    return as_bytes(dataset)


def _items(rows: Any) -> list[Dataset]:
    made = []
    for row in rows:
        item = Dataset()
        for name, value in row.items():
            setattr(item, name, value)
        made.append(item)
    return made


def _frame(source: Dataset, label: str) -> Dataset:
    now = datetime.now(UTC)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SpecificCharacterSet = source.get("SpecificCharacterSet", "ISO_IR 192")
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    for name in PATIENT_AND_STUDY:
        setattr(dataset, name, source.get(name, ""))
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SeriesNumber = int(source.get("SeriesNumber") or 0) + 1000
    dataset.OperatorsName = ""
    dataset.Manufacturer = dataset.ManufacturerModelName = "Cohort"
    dataset.DeviceSerialNumber = dataset.SoftwareVersions = "1"
    dataset.FrameOfReferenceUID = source.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = ""
    dataset.InstanceNumber = 1
    dataset.StructureSetLabel = label
    dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.StructureSetTime = now.strftime("%H%M%S")
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _referenced(sources: Sequence[Dataset], frame_of_reference: str) -> Dataset:
    images = _items(
        {"ReferencedSOPClassUID": s.SOPClassUID, "ReferencedSOPInstanceUID": s.SOPInstanceUID}
        for s in sources
    )
    (series,) = _items(
        [{"SeriesInstanceUID": sources[0].SeriesInstanceUID, "ContourImageSequence": Items(images)}]
    )
    (study,) = _items(
        [{"ReferencedSOPClassUID": "1.2.840.10008.3.1.2.3.1",  # Detached Study, as PS3.3 asks
          "ReferencedSOPInstanceUID": sources[0].StudyInstanceUID,
          "RTReferencedSeriesSequence": Items([series])}]
    )  # fmt: skip
    (space,) = _items(
        [{"FrameOfReferenceUID": frame_of_reference,
          "RTReferencedStudySequence": Items([study])}]
    )  # fmt: skip
    return space


def _contours(
    sources: Sequence[Dataset],
    legal: Sequence[Dataset],
    contours: Sequence[Mapping[str, Rings]],
    name: str,
) -> list[Dataset]:
    found: list[Dataset] = []
    for source, clean, by_name in zip(sources, legal, contours, strict=True):
        for ring in by_name.get(name, ()):
            points = plane_geometry(source).to_patient(np.asarray(ring, np.float64))
            image = _items([{"ReferencedSOPClassUID": clean.SOPClassUID,
                             "ReferencedSOPInstanceUID": clean.SOPInstanceUID}])  # fmt: skip
            found += _items(
                [{"ContourNumber": len(found) + 1,
                  "ContourImageSequence": Items(image),
                  "ContourGeometricType": "CLOSED_PLANAR",
                  "NumberOfContourPoints": len(points),
                  "ContourData": [format_number_as_ds(float(v)) for v in points.ravel()]}]
            )  # fmt: skip
    return found


def create(folder: Path, options: Mapping[str, object]) -> RtStructReader:
    """Return a reader; there are no options.

    Raises
    ------
    ParameterError
    """
    refuse_options(options)
    return RtStructReader()
