"""DICOM (PS3.3, PS3.5, PS3.10): single and multi-frame, read by pydicom, GDCM and imagecodecs.

Frames are images; their positions in a series are determined later, from all of its files. Pixels
are as pydicom returns them: stored values, YBR as RGB, without overlay bits. MONOCHROME1 is not
inverted, rescale is not applied (the header's facts hold both); PALETTE COLOR becomes RGB. Tiles of
a slide are one image, see `engine.sources.dicom.slide`, and the slices of a Siemens mosaic one
each, see `engine.sources.dicom.mosaic`. Objects that are not images (reports, contours,
directories) are ``no_pixels``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, BinaryIO

from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.sources.base import OpenSource, PlanesSource
from engine.sources.dicom.frames import Frames
from engine.sources.dicom.header import read_headers
from engine.sources.dicom.mosaic import DicomMosaicSource, is_mosaic
from engine.sources.dicom.slide import DicomSlideSource, is_slide
from engine.sources.failures import decoder_errors

MOST_IMAGES = 100_000
"""Maximum number of images in one file; each has a row in the catalog."""


class DicomSource(PlanesSource):
    """Open DICOM file; each frame is an image."""

    format = "DICOM"

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        count = frames.count
        if count > MOST_IMAGES:
            raise SourceUnreadable("unsupported", f"{count} frames in a file")
        frames.find()
        syntax = ("syntax", str(frames.syntax))
        super().__init__(
            tuple(
                replace(
                    frames.plane,
                    fragment=f"#{n}" if count > 1 else "",
                    spacing_um=spacing,
                    header=replace(header, terms=(*header.terms, syntax)),
                )
                for n, (header, spacing) in enumerate(read_headers(frames.dataset, count))
            )
        )

    def _decode(self, index: int) -> NDArray[Any]:
        return self._frames.decode(index)


class DicomReader:
    """Reader of DICOM files."""

    def open(
        self, file: BinaryIO, *, max_decoded_bytes: int, spacing_um: float | None = None
    ) -> OpenSource:
        """Read the header up to the pixels. Raises only `SourceUnreadable`.

        Parameters
        ----------
        spacing_um
            Pixel size at which a whole slide is read, micrometres; None means the scanner's own.
        """
        with decoder_errors("DICOM"):
            frames = Frames(file, max_decoded_bytes)
            if is_slide(frames.dataset):
                return DicomSlideSource(frames, spacing_um, max_decoded_bytes)
            if is_mosaic(frames.dataset):
                return DicomMosaicSource(frames)
            return DicomSource(frames)


reader = DicomReader()
