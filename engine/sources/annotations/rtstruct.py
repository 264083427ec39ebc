"""RT Structure Set (DICOM PS3.3, A.19): closed outlines in the patient, in millimetres.

Text of 16 characters per coordinate holds fewer digits than a float; points are rounded on reading
(see `PlaneGeometry.to_pixels`), which is the only loss of a round trip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from engine.kernels.contours.layers import Rings, split_layers
from engine.kernels.contours.union import union_of
from engine.sources.annotations.base import (
    OFF_PLANE_MM,
    Drawing,
    Target,
    checked_ring,
    usable,
)
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

PLANAR, XOR = CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

OPEN = ("OPEN_PLANAR", "OPEN_NONPLANAR")

NO_AREA = ("empty", "too_few_points")
"""Defects of closed contours without an area: some planning systems leave such contours."""


RULE = 2
"""Version of the rules for reading; 1 combined all contours by even-odd."""

EVEN_ODD_WRITER = ("Cohort", "1")
"""Manufacturer and version that wrote holes as closed planar contours, too."""


class RtStructReader(DicomReader):
    """Reader of the closed outlines of a structure set.

    A structure on an image is the union of its closed planar contours and of the area that its XOR
    contours enclose together (PS3.3, C.8.8.6.3); a keyhole is one contour. Structures of one name
    are merged.
    """

    @property
    def context(self) -> str:
        """Version of the rules."""
        return repr(RULE)

    def read(self, path: str, data: bytes) -> list[Drawing]:
        """Read the structures; rings are in patient coordinates, see `Drawing.on`.

        A contour of another kind is reported and rejected alone; with a broken contour, its
        structure is rejected on that image. A contour without an image is assigned to the image in
        its plane.

        Raises
        ------
        SourceUnreadable
        """
        drawings: list[Drawing] = []
        exclusive: dict[tuple[int, Target], list[NDArray[np.float64]]] = {}
        names: dict[int, str] = {}
        with read_dataset(data, "RTSTRUCT") as dataset:
            writer = (dataset.get("Manufacturer"), dataset.get("SoftwareVersions"))
            spaces = _Spaces(dataset)
            for roi in dataset.get("StructureSetROISequence") or ():
                names[int(roi.ROINumber)] = str(roi.get("ROIName") or f"roi-{roi.ROINumber}")
            for roi in dataset.get("ROIContourSequence") or ():
                number = int(roi.ReferencedROINumber)
                if number not in names:
                    raise SourceUnreadable("corrupt", "contours are of a structure without a name")
                for contour in roi.get("ContourSequence") or ():
                    target = spaces.target(number, contour)
                    drawing = _drawing(target, names[number], contour)
                    xor = contour.get("ContourGeometricType") == XOR or writer == EVEN_ODD_WRITER
                    if xor and drawing.reason is None:
                        exclusive.setdefault((number, target), []).extend(drawing.rings)
                    else:
                        drawings.append(drawing)
        drawings += _exclusive(names, exclusive)
        return usable(drawings)


class _Spaces:
    """Candidate images of the contours of a structure set."""

    def __init__(self, dataset: Dataset) -> None:
        self._originals = noted_uids(dataset)
        self._of_roi = {
            int(roi.ROINumber): str(roi.get("ReferencedFrameOfReferenceUID") or "")
            for roi in dataset.get("StructureSetROISequence") or ()
        }
        self._space = str(dataset.get("FrameOfReferenceUID") or "")
        self._listed: dict[str, tuple[str, ...]] = {}
        for space in dataset.get("ReferencedFrameOfReferenceSequence") or ():
            uid = str(space.get("FrameOfReferenceUID") or "")
            self._space = self._space or uid
            self._listed[uid] = tuple(
                self._uid(image)
                for study in space.get("RTReferencedStudySequence") or ()
                for series in study.get("RTReferencedSeriesSequence") or ()
                for image in series.get("ContourImageSequence") or ()
            )

    def target(self, number: int, contour: Dataset) -> Target:
        """Return the image of a contour, or its candidates."""
        images = list(contour.get("ContourImageSequence") or ())
        if len(images) == 1:
            frame = images[0].get("ReferencedFrameNumber")
            known = isinstance(frame, (int, str))  # else none, or several
            return Target(instance=self._uid(images[0]), frame=int(frame) if known else None)
        space = self._of_roi.get(number) or self._space
        among = tuple(map(self._uid, images)) or self._listed.get(space, ())
        return Target(among=among, frame_of_reference=space or None)

    def _uid(self, image: Dataset) -> str:
        uid = str(image.ReferencedSOPInstanceUID)
        return self._originals.get(uid, uid)


def _drawing(target: Target, name: str, contour: Dataset) -> Drawing:
    """Return a contour, or the reason to reject it."""
    try:
        ring = _ring(contour)
    except SourceUnreadable as error:
        encloses = contour.get("ContourGeometricType") in CLOSED and error.reason not in NO_AREA
        return Drawing(target, name, (), True, reason=error.reason, encloses=encloses)
    if target == Target():
        return Drawing(target, name, (), True, reason="no_reference")
    return Drawing(target, name, (ring,), in_patient=True)


def _exclusive(
    names: Mapping[int, str],
    contours: Mapping[tuple[int, Target], Sequence[NDArray[np.float64]]],
) -> Iterator[Drawing]:
    """Yield the areas that XOR contours of a structure enclose together, plane by plane."""
    for (number, target), rings in contours.items():
        planes: list[list[NDArray[np.float64]]] = []
        for ring in rings:
            for plane in planes:
                if target.instance is not None or _coplanar(plane[0], ring):
                    plane.append(ring)
                    break
            else:
                planes.append([ring])
        for plane in planes:
            yield Drawing(target, names[number], tuple(plane), in_patient=True)


def _coplanar(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Return True if a ring is in the plane of another, both in millimetres."""
    away = one - one.mean(axis=0)
    normal = np.linalg.svd(away)[2][-1]
    return bool(np.abs((other - one.mean(axis=0)) @ normal).max() <= OFF_PLANE_MM)


def _ring(contour: Dataset) -> NDArray[np.float64]:
    kind = str(contour.get("ContourGeometricType", ""))
    if kind not in CLOSED:
        reason = "unclosed" if kind in OPEN else "unsupported"
        raise SourceUnreadable(reason, "only closed planar contours are read")
    raw = contour.get_item("ContourData")
    value = None if raw is None else raw.value
    # unparsed: pydicom's conversion of single values takes most of the time
    if isinstance(value, bytes):
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
        raise SourceUnreadable(
            "odd_count", f"{len(numbers)} numbers are not triples of coordinates"
        )
    return checked_ring(numbers.reshape(-1, 3))


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


def create(folder: Path, options: Mapping[str, object]) -> RtStructReader:
    """Return a reader; there are no options.

    Raises
    ------
    ParameterError
    """
    refuse_options(options)
    return RtStructReader()
