"""Common part of SEG and RTSTRUCT: robust reading, and sources with legal identifiers.

Real files hold values that the standard forbids (UIDs with leading zeros, a birth date of
``00000000``), and validators refuse an object that copies them. So written objects get legal
values, and a private text (block ``COHORT UIDS``) maps each one to its original UID, by which our
readers find the image again.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from engine.errors import ParameterError, SourceUnreadable
from engine.sources.annotations.base import PlaneGeometry

LEGAL_UID = re.compile(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*))+")
"""DICOM PS3.5, 9.1: no component has a leading zero, unless it is zero."""

MOST_UID_CHARS = 64

LEGAL = {"DA": re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
         "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")}  # fmt: skip
"""Dates and times (PS3.5, 6.2)."""

BLOCK_GROUP, BLOCK = 0x0099, "COHORT UIDS"

DEFLATED = b"1.2.840.10008.1.2.1.99"
"""Transfer syntax with a few bytes that may inflate to gigabytes before the first element."""

PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip
"""Type 2 and required attributes of the Patient and General Study modules (PS3.3, C.7.1-2)."""


SUFFIXES = (".dcm", ".dicom", ".seg", "")
"""Suffixes of candidate DICOM files; the content decides."""


@dataclass(frozen=True)
class DicomReader:
    """Base of the readers of DICOM objects: they depend only on the file, and have no options."""

    @property
    def context(self) -> str:
        """Empty: the result depends only on the file."""
        return ""

    def claims(self, path: str) -> bool:
        """Return True for candidates by suffix; other objects fail with a reason."""
        return Path(path).suffix.lower() in SUFFIXES


def refuse_options(options: Mapping[str, object]) -> None:
    """Raise `ParameterError` for options of a format that has none."""
    if options:
        name = min(options)
        raise ParameterError(name, options[name], "left out: this format has no options")


@contextmanager
def read_dataset(data: bytes, modality: str) -> Iterator[Dataset]:
    """Parse a DICOM object; translate all errors of the block.

    Raises
    ------
    SourceUnreadable
        ``empty``, ``unsupported`` (another modality, or deflated) or ``corrupt``.
    """
    if not data:
        raise SourceUnreadable("empty", "the file has no bytes")
    if DEFLATED in data[:4096]:
        raise SourceUnreadable("unsupported", "deflated objects are not read as drawings")
    try:
        with pydicom.config.disable_value_validation():
            dataset = pydicom.dcmread(io.BytesIO(data))
            if dataset.get("Modality") != modality:
                raise SourceUnreadable("unsupported", f"it is not a {modality} object")
            yield dataset
    except SourceUnreadable:
        raise
    except InvalidDicomError:
        raise SourceUnreadable("corrupt", "it is not a DICOM file") from None
    except Exception as error:  # broken bytes make parsers raise anything
        kind = type(error).__name__
        raise SourceUnreadable("corrupt", f"the {modality} can't be parsed ({kind})") from None


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


def noted_uids(dataset: Dataset) -> dict[str, str]:
    """Return the original of each replacement UID."""
    try:
        text = str(dataset.private_block(BLOCK_GROUP, BLOCK)[1].value)
    except KeyError:
        return {}
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


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
