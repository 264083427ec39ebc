"""Facts from DICOM headers, by an allow-list (PS3.3, PS3.6); all other elements are not read.

A fact is a number, or a term that the standard enumerates; text with any other content is dropped,
in every element. So no free text gets past this module, except the identifiers in
`PatientIdentity`, which become pseudonyms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from types import MappingProxyType
from typing import Any

import numpy as np
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from engine.header import Header, PatientIdentity
from engine.sources.dicom.calibration import CALIBRATION, find_rescale, find_spacing
from engine.sources.dicom.values import NOTHING, first_item, items, number, numbers, text, whole

# ruff: noqa: SIM905 - long lists of words read better as such

UM_PER_MM = 1000.0

RIGHT_ANGLE = 1e-2
"""Tolerance of an orientation's vectors in length and in their scalar product."""

MODALITIES = frozenset(
    "AR ASMT AU BDUS BI BMD CR CT CTPROTOCOL DG DOC DX ECG EPS ES FID GM HC HD IO IOL IVOCT IVUS "
    "KER KO LEN LS MG MR M3D NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX "
    "REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR "
    "SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC".split()
)  # PS3.3, C.7.3.1.1.1
_TERMS: Mapping[str, tuple[str, frozenset[str]]] = MappingProxyType(
    {
        "modality": ("Modality", MODALITIES),
        "photometric": (
            "PhotometricInterpretation",
            frozenset(
                {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422",
                 "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB"}
            ),
        ),
        "patient_position": (
            "PatientPosition",
            frozenset("HFP HFS HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL PFDR".split()),
        ),
        "units": ("RescaleType", frozenset("OD HU US MGML Z_EFF ED EDW HU_MOD PCT".split())),
    }
)  # fmt: skip
_NUMBERS = MappingProxyType(
    {
        "field_t": "MagneticFieldStrength",
        "echo_ms": "EchoTime",
        "repetition_ms": "RepetitionTime",
        "flip_deg": "FlipAngle",
        "kvp": "KVP",
        "beat_ms": "NominalInterval",
        "bits_stored": "BitsStored",
        "window_center": "WindowCenter",
        "window_width": "WindowWidth",
    }
)
_KEYWORDS = (
    "SOPClassUID SOPInstanceUID StudyDate Modality PatientID SliceThickness SpacingBetweenSlices "
    "PatientPosition TriggerTime FrameTime StudyInstanceUID SeriesInstanceUID InstanceNumber "
    "TemporalPositionIdentifier ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID "
    "SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns "
    "PixelSpacing BitsAllocated BitsStored HighBit PixelRepresentation RescaleIntercept "
    "RescaleSlope RescaleType ModalityLUTSequence GridFrameOffsetVector "
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence "
    "RedPaletteColorLookupTableDescriptor "
    "GreenPaletteColorLookupTableDescriptor BluePaletteColorLookupTableDescriptor "
    "RedPaletteColorLookupTableData GreenPaletteColorLookupTableData "
    "BluePaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData "
    "SegmentedGreenPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData "
    "ExtendedOffsetTable ExtendedOffsetTableLengths PixelDataProviderURL ImageType "
    "TotalPixelMatrixRows TotalPixelMatrixColumns TotalPixelMatrixFocalPlanes ConcatenationUID "
    "DimensionOrganizationType NumberOfOpticalPaths OpticalPathSequence PyramidUID"
).split()

SIEMENS = [
    *(group << 16 | 0x10 + n for group in (0x0019, 0x0029) for n in range(3)),
    *(0x0019100A, 0x00291010, 0x00291110, 0x00291210),
]
"""Private elements of mosaics, see `engine.sources.dicom.mosaic`, and those that name their
owner."""

TAGS = [
    *(tag_for_keyword(name) for name in (*_KEYWORDS, *CALIBRATION, *_NUMBERS.values())),
    *SIEMENS,
]
"""Elements to read."""

_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")  # also in the notation of ACR-NEMA


def read_headers(dataset: Dataset, count: int) -> Iterator[tuple[Header, Any]]:
    """Yield the header and the pixel spacing (y, x; micrometres or None) of each frame."""
    shared = first_item(dataset, "SharedFunctionalGroupsSequence")
    frames = items(dataset, "PerFrameFunctionalGroupsSequence")
    offsets = numbers(dataset, "GridFrameOffsetVector") or ()
    step = number(dataset, "FrameTime")
    common = _read_frame(dataset, shared, NOTHING)
    for n in range(count):
        own = frames[n] if n < len(frames) else NOTHING
        header, spacing = common if own is NOTHING else _read_frame(dataset, shared, own)
        if count > 1:
            time = header.time_ms
            if time is None and step is not None:
                time = n * step
            position = header.position_mm
            if len(offsets) == count and position and header.orientation:
                # Frames of a dose are spaced along the normal (PS3.3, C.8.8.3.2).
                reach = offsets[n] - offsets[0]
                way = [reach * v for v in _normal(header.orientation)]
                position = (position[0] + way[0], position[1] + way[1], position[2] + way[2])
            header = replace(header, frame=n, time_ms=time, position_mm=position)
        yield header, spacing


def _read_frame(
    dataset: Dataset, shared: Dataset, own: Dataset
) -> tuple[Header, tuple[float, float] | None]:
    """Return a frame's header and spacing: its own groups take precedence over shared ones."""
    identity = PatientIdentity(
        patient=text(dataset, "PatientID"),
        study=text(dataset, "StudyInstanceUID"),
        series=text(dataset, "SeriesInstanceUID"),
        instance=text(dataset, "SOPInstanceUID"),
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
    )
    findings = list(_findings(dataset, identity))
    position = _group(dataset, shared, own, "PlanePositionSequence", "ImagePositionPatient", 3)
    orientation = _group(
        dataset, shared, own, "PlaneOrientationSequence", "ImageOrientationPatient", 6
    )
    if orientation is not None and not _is_orientation(orientation):
        orientation = None
        findings.append("orientation_invalid")
    measures = first_item(own, "PixelMeasuresSequence") or first_item(
        shared, "PixelMeasuresSequence"
    )
    spacing, odd = find_spacing(dataset, shared, own)
    rescale, problems = find_rescale(dataset, shared, own)
    findings += [*odd, *problems]
    beat = first_item(own, "CardiacSynchronizationSequence")
    time = number(beat, "NominalCardiacTriggerDelayTime")
    order = whole(first_item(own, "FrameContentSequence"), "TemporalPositionIndex")
    header = Header(
        identity,
        instance=whole(dataset, "InstanceNumber"),
        position_mm=None if position is None else (position[0], position[1], position[2]),
        orientation=orientation,
        thickness_mm=number(measures, "SliceThickness") or number(dataset, "SliceThickness"),
        distance_mm=number(measures, "SpacingBetweenSlices")
        or number(dataset, "SpacingBetweenSlices"),
        time_ms=time if time is not None else number(dataset, "TriggerTime"),
        order=order if order is not None else whole(dataset, "TemporalPositionIdentifier"),
        rescale=rescale,
        terms=tuple(_terms(dataset)),
        findings=tuple(findings),
    )
    return header, spacing


def _normal(orientation: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(v) for v in np.cross(orientation[:3], orientation[3:]))


def _group(
    dataset: Dataset, shared: Dataset, own: Dataset, group: str, keyword: str, count: int
) -> tuple[float, ...] | None:
    for place in (first_item(own, group), first_item(shared, group), dataset):
        found = numbers(place, keyword)
        if found is not None and len(found) == count:
            return found
    return None


def _is_orientation(values: tuple[float, ...]) -> bool:
    row, column = np.asarray(values[:3]), np.asarray(values[3:])
    lengths = [abs(float(np.linalg.norm(v)) - 1) for v in (row, column)]
    return max(*lengths, abs(float(row @ column))) < RIGHT_ANGLE


def _terms(dataset: Dataset) -> Iterator[tuple[str, str]]:
    for name, (keyword, allowed) in _TERMS.items():
        found = text(dataset, keyword)
        if found in allowed:
            yield name, found
    for name, keyword in (("sop_class", "SOPClassUID"),):
        found = text(dataset, keyword)
        if found in UID_dictionary:
            yield name, found
    for name, keyword in _NUMBERS.items():
        value = number(dataset, keyword)
        if value is not None:
            yield name, f"{value:g}"


def _findings(dataset: Dataset, identity: PatientIdentity) -> Iterator[str]:
    if not identity.patient:
        yield "no_patient_id"
    day = text(dataset, "StudyDate")
    if day and not _is_date(day):
        yield "study_date_invalid"


def _is_date(value: str) -> bool:
    match = _DATE.fullmatch(value)
    try:
        return match is not None and bool(date(*map(int, match.groups())))
    except ValueError:
        return False
