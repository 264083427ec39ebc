"""Drawings as DICOM objects: RT Structure Set, and Segmentation by highdicom.

Real headers hold values that the standard forbids (UIDs with leading zeros, a birth date of
``00000000``), and validators refuse an object that copies them. So written objects get legal
values, and a private text (block ``COHORT UIDS``) maps each one to its original UID, by which the
readers find the image again.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from engine.errors import ParameterError, SourceUnreadable
from engine.kernels.contours.layers import Rings, split_layers
from engine.kernels.contours.union import union_of
from engine.sources.annotations.base import PlaneGeometry
from engine.sources.annotations.dicom_common import BLOCK, BLOCK_GROUP
from engine.sources.annotations.rtstruct import PLANAR, XOR

LEGAL_UID = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+")
"""DICOM PS3.5, 9.1: no component has a leading zero, unless it is zero."""


MOST_UID_CHARS = 64


LEGAL = {"DA": re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
         "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")}  # fmt: skip
"""Dates and times (PS3.5, 6.2)."""


PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip
"""Type 2 and required attributes of the Patient and General Study modules (PS3.3, C.7.1-2)."""


def legal_uid(uid: str) -> str:
    """Return a UID, or a legal one made of its digest if the standard forbids it (PS3.5, B.2).

    Examples
    --------
    >>> legal_uid("1.2.840.10008.1.1"), legal_uid("1.2.03")[:5]
    ('1.2.840.10008.1.1', '2.25.')
    """
    if LEGAL_UID.fullmatch(uid) and len(uid) <= MOST_UID_CHARS:
        return uid
    return f"2.25.{int.from_bytes(hashlib.sha256(uid.encode()).digest()[:16], 'big')}"


def note_uids(dataset: Dataset, originals: Sequence[str]) -> None:
    """Record the replaced UIDs in an object."""
    changed = sorted({uid for uid in originals if legal_uid(uid) != uid})
    if changed:
        block = dataset.private_block(BLOCK_GROUP, BLOCK, create=True)
        block.add_new(1, "UT", "\n".join(f"{legal_uid(uid)} {uid}" for uid in changed))


def legal_source(source: Dataset) -> Dataset:
    """Return an image's header with legal UIDs, dates and times."""
    copy = Dataset()
    with pydicom.config.disable_value_validation():
        for element in source:
            if element.tag.element == 0 or element.tag.group == 0x7FE0:  # group lengths; pixels
                continue
            if element.VR == "UI" and element.VM == 1:
                copy.add_new(element.tag, "UI", legal_uid(str(element.value)))
            elif element.VR in LEGAL and not _is_legal(element.VR, element.value):
                copy.add_new(element.tag, element.VR, None)
            elif element.VR != "SQ":
                copy.add(element)
    for name in PATIENT_AND_STUDY:
        if name not in copy:
            setattr(copy, name, "")
    return copy


def _is_legal(vr: str, value: Any) -> bool:
    return value in (None, "") or LEGAL[vr].fullmatch(str(value)) is not None


def plane_geometry(source: Dataset) -> PlaneGeometry:
    """Return the geometry of a single-frame image from its header.

    Raises
    ------
    SourceUnreadable
        ``no_geometry`` if the header does not state it.
    """
    try:
        position = [float(v) for v in source.ImagePositionPatient]
        orientation = [float(v) for v in source.ImageOrientationPatient]
        spacing = [float(v) for v in source.PixelSpacing]
        if (len(position), len(orientation), len(spacing)) != (3, 6, 2):
            raise ValueError
    except (AttributeError, TypeError, ValueError):
        raise SourceUnreadable("no_geometry", "the image does not state its position") from None
    return PlaneGeometry(tuple(position), tuple(orientation), tuple(spacing))  # type: ignore[arg-type]


def as_bytes(dataset: Dataset) -> bytes:
    """Return an object as the bytes of a DICOM file."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def same(sources: Sequence[Dataset], names: Sequence[str]) -> Mapping[str, Any]:
    """Return the attributes that differ between sources, with the number of values of each."""
    differing = {}
    for name in names:
        values = {str(source.get(name, "")) for source in sources}
        if len(values) > 1:
            differing[name] = len(values)
    return differing


def write_seg(
    sources: Sequence[Dataset],
    masks: Sequence[Mapping[str, NDArray[np.bool_]]],
    *,
    label: str = "CONTOURS",
    manual: bool = True,
) -> bytes:
    """Encode masks as one DICOM Segmentation of their images.

    It contains the patient and study of those images: keep it with them, not in a cohort. UIDs and
    dates that the standard forbids are replaced (see `dicom_common`).

    Parameters
    ----------
    sources
        Headers of the images, of one series and one frame of reference.
    masks
        Masks (y, x) by structure for each image; an absent structure is empty.
    label
        Content label: capitals, digits, spaces and underscores.
    manual
        True if people drew them.

    Raises
    ------
    ParameterError
        If the sources can't share a SEG.
    """
    structures = sorted({name for by_name in masks for name in by_name})
    if not sources or len(sources) != len(masks) or not structures:
        raise ParameterError("masks", len(masks), "one set for each of at least one source")
    differing = same(sources, ("SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"))
    if differing:
        raise ParameterError("sources", dict(differing), "of one series, space and shape")
    shape = (int(sources[0].Rows), int(sources[0].Columns))
    planes = np.zeros((len(sources), *shape, len(structures)), np.uint8)
    for n, by_name in enumerate(masks):
        for k, name in enumerate(structures):
            if name in by_name:
                planes[n, :, :, k] = by_name[name]
    algorithm = {} if manual else {"algorithm_identification": _algorithm()}
    described = [
        hd.seg.SegmentDescription(
            segment_number=k + 1,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.LeftVentricle,
            algorithm_type="MANUAL" if manual else "AUTOMATIC",
            **algorithm,
        )
        for k, name in enumerate(structures)
    ]
    # Sources may hold values that the standard forbids: `legal_source` replaces them.
    with pydicom.config.disable_value_validation():
        segmentation = hd.seg.Segmentation(
            source_images=[legal_source(source) for source in sources],
            pixel_array=planes,
            segmentation_type="BINARY",
            segment_descriptions=described,
            series_instance_uid=generate_uid(),
            series_number=int(sources[0].get("SeriesNumber") or 0) + 1000,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="Cohort",
            manufacturer_model_name="Cohort",
            software_versions="1",
            device_serial_number="1",
            content_label=label,
            omit_empty_frames=True,
        )
        note_uids(segmentation, [str(source.SOPInstanceUID) for source in sources])
    return as_bytes(segmentation)


def _algorithm() -> Any:
    return hd.AlgorithmIdentificationSequence(
        name="cohort", version="1", family=codes.DCM.ArtificialIntelligence
    )


def write_rtstruct(
    sources: Sequence[Dataset],
    contours: Sequence[Mapping[str, Rings]],
    *,
    label: str = "CONTOURS",
) -> bytes:
    """Encode contours as one RT Structure Set of their images.

    It contains the patient and study of those images; see `write_seg`.

    Parameters
    ----------
    sources
        Headers of the images, of one series and one frame of reference.
    contours
        Rings by structure for each image, pixels.
    label
        Structure set label, at most 16 characters.

    Raises
    ------
    ParameterError
        If the sources can't share a structure set.
    SourceUnreadable
        ``no_geometry`` if an image does not state its position.
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
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "1", "2"
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
        for ring, kind in _kinds(by_name.get(name, ())):
            points = plane_geometry(source).to_patient(np.asarray(ring, np.float64))
            image = _items([{"ReferencedSOPClassUID": clean.SOPClassUID,
                             "ReferencedSOPInstanceUID": clean.SOPInstanceUID}])  # fmt: skip
            found += _items(
                [{"ContourNumber": len(found) + 1,
                  "ContourImageSequence": Items(image),
                  "ContourGeometricType": kind,
                  "NumberOfContourPoints": len(points),
                  "ContourData": [format_number_as_ds(float(v)) for v in points.ravel()]}]
            )  # fmt: skip
    return found


def _kinds(rings: Rings) -> Iterator[tuple[NDArray[np.float64], str]]:
    """Yield rings and their kinds: XOR for layers with nested or crossing rings.

    Raises
    ------
    ParameterError
        If several layers have such rings: a structure set would combine all of them.
    """
    layers = split_layers(rings)
    kinds = [PLANAR if _apart(layer) else XOR for layer in layers]
    if kinds.count(XOR) > 1:
        raise ParameterError("contours", "holes in several layers", "of holes in one layer")
    for layer, kind in zip(layers, kinds, strict=True):
        for ring in layer:
            yield ring, kind


def _apart(layer: Rings) -> bool:
    return len(split_layers(union_of([[np.asarray(ring, np.float64)] for ring in layer]))) == 1
