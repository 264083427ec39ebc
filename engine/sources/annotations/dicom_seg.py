"""DICOM Segmentation (PS3.3, A.51): masks of structures, each on a grid of its own.

A mask becomes the rings around its pixels (`trace_mask`), in patient coordinates if the frame
states its position. So it is placed on an image by position, not by index; position also takes
precedence over a contradicting reference. A pixel of the image is inside if its centre is: on
another grid in the same plane this corresponds to the nearest pixel of the mask. pydicom reads,
since files of other programs contain less than highdicom requires.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels

from engine.errors import SourceUnreadable
from engine.kernels.contours.trace import trace_mask
from engine.sources.annotations.base import Drawing, PlaneGeometry, Target, usable
from engine.sources.annotations.dicom_common import (
    DicomReader,
    noted_uids,
    read_dataset,
    refuse_options,
)
from engine.sources.dicom.header import UM_PER_MM, read_headers

MOST_PIXELS = 2**31
"""Maximum number of pixels in all frames of a SEG."""

RULE = 2
"""Version of the rules for reading; 1 placed masks on images by index."""

BACKGROUND = ("125040", "DCM")
"""Code of the background in a label map (PS3.16, Background)."""


class SegReader(DicomReader):
    """Reader of segments, each on the image in its plane; segments of one name are merged."""

    @property
    def context(self) -> str:
        """Version of the rules."""
        return repr(RULE)

    def read(self, path: str, data: bytes) -> list[Drawing]:
        """Read the structures of a SEG.

        Raises
        ------
        SourceUnreadable
        """
        with read_dataset(data, "SEG") as dataset:
            count = int(dataset.get("NumberOfFrames") or 1)
            size = int(dataset.Rows) * int(dataset.Columns) * count
            if size > MOST_PIXELS:
                raise SourceUnreadable("too_large", f"{size} pixels in its frames")
            if "TotalPixelMatrixColumns" in dataset:
                raise SourceUnreadable("unsupported", "segments of a slide in tiles are not read")
            drawings = list(_drawings(dataset, count))
        return usable(drawings)


def _drawings(dataset: Dataset, count: int) -> Iterator[Drawing]:
    """Yield the segments of all frames."""
    labels = _labels(dataset)
    full = _full_value(dataset)
    places = _Places(dataset, count)
    grid = (int(dataset.Rows), int(dataset.Columns))
    for n, pixels in enumerate(iter_pixels(dataset)):
        if full > 1 and not np.isin(pixels, (0, full)).all():
            raise SourceUnreadable("fractional", "shares of pixels have no outline")
        number = places.segment(n)
        # A frame of a label map holds all segments, by their numbers.
        found = labels if number is None else {number: labels[number]} if number in labels else {}
        for label, name in found.items():
            rings = trace_mask(pixels == label if number is None else pixels > 0)
            if rings:
                yield places.drawing(n, name, rings, grid)


def _labels(dataset: Dataset) -> dict[int, str]:
    """Return the names of segments by number, without the background."""
    labels = {}
    for segment in dataset.get("SegmentSequence") or ():
        kind = (segment.get("SegmentedPropertyTypeCodeSequence") or [Dataset()])[0]
        if (kind.get("CodeValue"), kind.get("CodingSchemeDesignator")) != BACKGROUND:
            number = int(segment.SegmentNumber)
            labels[number] = str(segment.get("SegmentLabel") or f"segment-{number}")
    if dataset.get("SegmentationType") == "LABELMAP":
        for background in (0, dataset.get("PixelPaddingValue")):
            labels.pop(background, None)
    return labels


def _full_value(dataset: Dataset) -> int:
    """Return the full value of a pixel of a fractional segment; 1 for other kinds."""
    if dataset.get("SegmentationType") != "FRACTIONAL":
        return 1
    return int(dataset.get("MaximumFractionalValue") or 255)


class _Places:
    """Positions of a SEG's frames, and the image of each."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self._originals = noted_uids(dataset)
        self._labelmap = dataset.get("SegmentationType") == "LABELMAP"
        self._space = str(dataset.get("FrameOfReferenceUID") or "") or None
        self._shared = _first(dataset, "SharedFunctionalGroupsSequence")
        self._frames = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
        self._headers = list(read_headers(dataset, count))
        self._listed = tuple(
            self._uid(image)
            for series in dataset.get("ReferencedSeriesSequence") or ()
            for image in series.get("ReferencedInstanceSequence") or ()
        )

    def segment(self, n: int) -> int | None:
        """Return the number of a frame's segment; None in a label map."""
        if self._labelmap:
            return None
        return int(self._group(n, "SegmentIdentificationSequence").ReferencedSegmentNumber)

    def drawing(
        self, n: int, name: str, rings: list[NDArray[np.float64]], grid: tuple[int, int]
    ) -> Drawing:
        """Return the rings of a segment in a frame, pixels, as a drawing."""
        header, spacing = self._headers[n]
        target = self._target(n)
        if header.position_mm is None or header.orientation is None or spacing is None:
            if target.instance is None:
                return Drawing(target, name, (), reason="no_reference")
            return Drawing(target, name, tuple(rings), grid=grid)
        plane = PlaneGeometry(
            header.position_mm,
            header.orientation,  # type: ignore[arg-type]
            (spacing[0] / UM_PER_MM, spacing[1] / UM_PER_MM),
        )
        placed = tuple(plane.to_patient(ring) for ring in rings)
        if target == Target():
            return Drawing(target, name, (), reason="no_reference")
        return Drawing(target, name, placed, in_patient=True)

    def _target(self, n: int) -> Target:
        images = [
            image
            for derived in self._group(n, "DerivationImageSequence", every=True)
            for image in derived.get("SourceImageSequence") or ()
        ]
        if len(images) == 1:
            frame = images[0].get("ReferencedFrameNumber")
            known = isinstance(frame, (int, str))  # else none, or several
            frame = int(frame) if known else None
            return Target((), self._uid(images[0]), frame, self._listed, self._space)
        among = tuple(dict.fromkeys(map(self._uid, images))) or self._listed
        return Target(among=among, frame_of_reference=self._space)

    def _uid(self, image: Dataset) -> str:
        uid = str(image.ReferencedSOPInstanceUID)
        return self._originals.get(uid, uid)

    def _group(self, n: int, name: str, *, every: bool = False) -> Any:
        """Return a frame's own functional group, or else the shared one."""
        own = self._frames[n] if n < len(self._frames) else Dataset()
        items = list(own.get(name) or self._shared.get(name) or ())
        return items if every else (items or [Dataset()])[0]


def _first(dataset: Dataset, name: str) -> Dataset:
    return next(iter(dataset.get(name) or ()), Dataset())


def create(folder: Path, options: Mapping[str, object]) -> SegReader:
    """Return a reader; there are no options.

    Raises
    ------
    ParameterError
    """
    refuse_options(options)
    return SegReader()
