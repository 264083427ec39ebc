"""DICOM Segmentation (PS3.3, A.51), by highdicom: masks of structures, on the grid of an image.

A mask becomes the rings around its pixels (`trace_mask`), so nothing is lost either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from engine.errors import ParameterError, SourceUnreadable
from engine.kernels.contour_trace import trace_mask
from engine.sources.annotations.base import Drawing, Target
from engine.sources.annotations.dicom_common import (
    DicomReader,
    as_bytes,
    legal_source,
    note_uids,
    noted_uids,
    read_dataset,
    refuse_options,
    same,
)

MOST_PIXELS = 2**31
"""Pixels of all frames of a SEG that is read."""


class SegReader(DicomReader):
    """Reads segments, each on the images that it was made from."""

    def read(self, path: str, data: bytes) -> list[Drawing]:
        """Read the structures of a SEG.

        Raises
        ------
        SourceUnreadable
        """
        with read_dataset(data, "SEG") as dataset:
            if dataset.get("SegmentationType") == "FRACTIONAL":
                raise SourceUnreadable("unsupported", "fractional segments have no outline")
            size = int(dataset.Rows) * int(dataset.Columns) * int(dataset.NumberOfFrames)
            if size > MOST_PIXELS:
                raise SourceUnreadable("too_large", f"{size} pixels in its frames")
            originals = noted_uids(dataset)
            segmentation = hd.seg.Segmentation.from_dataset(dataset, copy=False)
            drawings = _drawings(segmentation, originals)
        if not drawings:
            raise SourceUnreadable("empty", "no pixel is in a segment")
        return drawings


def _drawings(segmentation: Any, originals: Mapping[str, str]) -> list[Drawing]:
    try:
        referenced = [uids[2] for uids in segmentation.get_source_image_uids()]
    except AttributeError:
        raise SourceUnreadable("no_reference", "its frames name no image") from None
    numbers = list(segmentation.segment_numbers)
    labels = {
        number: str(segmentation.get_segment_description(number).segment_label)
        for number in numbers
    }
    drawings = []
    for uid in referenced:
        masks = segmentation.get_pixels_by_source_instance(
            [uid], assert_missing_frames_are_empty=True, ignore_spatial_locations=True
        )
        target = Target(instance=originals.get(str(uid), str(uid)))
        for n, number in enumerate(numbers):
            rings = trace_mask(masks[0, :, :, n] > 0)
            if rings:
                drawings.append(Drawing(target, labels[number], tuple(rings)))
    return drawings


def write_seg(
    sources: Sequence[Dataset],
    masks: Sequence[Mapping[str, NDArray[np.bool_]]],
    *,
    label: str = "CONTOURS",
    manual: bool = True,
) -> bytes:
    """Return masks as one DICOM Segmentation of the images that they are of.

    It carries the patient and study of those images: it belongs where they are, and not into a
    cohort. UIDs and dates that the standard forbids are replaced (see `dicom_common`).

    Parameters
    ----------
    sources
        Headers of the images, of one series and one frame of reference.
    masks
        For each image, masks (y, x) by structure; an absent structure is empty there.
    label
        Content label: capitals, digits, spaces and underscores.
    manual
        Whether people drew them.

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


def create(folder: Path, options: Mapping[str, object]) -> SegReader:
    """Return a reader; there are no options.

    Raises
    ------
    ParameterError
    """
    refuse_options(options)
    return SegReader()
