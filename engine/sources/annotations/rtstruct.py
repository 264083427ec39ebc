"""RT Structure Set (DICOM PS3.3, A.19): closed outlines in the patient, in millimetres.

Text of 16 characters per coordinate holds fewer digits than a float; points are rounded on reading
(see `PlaneGeometry.to_pixels`), which is the only loss of a round trip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from engine.errors import SourceUnreadable
from engine.sources.annotations.base import (
    OFF_PLANE_MM,
    Drawing,
    Target,
    checked_ring,
    usable,
)
from engine.sources.annotations.dicom_common import (
    DicomReader,
    noted_uids,
    read_dataset,
    refuse_options,
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


def create(folder: Path, options: Mapping[str, object]) -> RtStructReader:
    """Return a reader; there are no options.

    Raises
    ------
    ParameterError
    """
    refuse_options(options)
    return RtStructReader()
