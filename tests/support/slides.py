"""DICOM whole slides for tests."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from tests.support.dicom import make, uid

Coder = Callable[[NDArray[Any]], bytes]


def item(**tags: Any) -> Dataset:
    """Return an item of a sequence."""
    found = Dataset()
    for name, value in tags.items():
        setattr(found, name, value)
    return found


def slide(
    planes: Sequence[NDArray[Any]],
    *,
    tile: tuple[int, int] = (32, 40),
    sparse: bool = False,
    leave_out: Sequence[int] = (),
    um: float | None = 0.5,
    code: Coder | None = None,
    **tags: Any,
) -> bytes:
    """Return a slide's file: one plane (y, x) or (y, x, 3) for each optical path."""
    height, width = planes[0].shape[:2]
    frames, places = [], []
    for path, plane in enumerate(planes):
        for top in range(0, height, tile[0]):
            for left in range(0, width, tile[1]):
                frame = np.full((*tile, *plane.shape[2:]), 77, plane.dtype)  # beyond the edge
                inner = plane[top : top + tile[0], left : left + tile[1]]
                frame[: inner.shape[0], : inner.shape[1]] = inner
                frames.append(frame)
                places.append((top + 1, left + 1, path))
    if sparse:
        order = [n for n in np.random.default_rng(3).permutation(len(frames)) if n not in leave_out]
        frames, places = [frames[n] for n in order], [places[n] for n in order]
    ds = make(frames[0][..., 0] if planes[0].ndim == 3 else frames[0])
    for name in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
        delattr(ds, name)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    ds.Modality = "SM"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.NumberOfFrames = len(frames)
    if planes[0].ndim == 3:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.TotalPixelMatrixRows, ds.TotalPixelMatrixColumns = height, width
    ds.DimensionOrganizationType = "TILED_SPARSE" if sparse else "TILED_FULL"
    ds.ImageOrientationSlide = [0, 1, 0, 1, 0, 0]
    ds.TotalPixelMatrixOriginSequence = [
        item(XOffsetInSlideCoordinateSystem=0.0, YOffsetInSlideCoordinateSystem=0.0)
    ]
    ds.OpticalPathSequence = [item(OpticalPathIdentifier=f"CANARY{n}") for n in range(len(planes))]
    ds.NumberOfOpticalPaths, ds.TotalPixelMatrixFocalPlanes = len(planes), 1
    if um is not None:
        measures = item(PixelSpacing=[um / 1000, um / 1000], SliceThickness=0.001)
        ds.SharedFunctionalGroupsSequence = [item(PixelMeasuresSequence=[measures])]
    if sparse:
        organisation = uid("dimensions")
        ds.DimensionOrganizationSequence = [item(DimensionOrganizationUID=organisation)]
        ds.DimensionIndexSequence = [
            item(
                DimensionIndexPointer=tag_for_keyword(f"{axis}PositionInTotalImagePixelMatrix"),
                FunctionalGroupPointer=tag_for_keyword("PlanePositionSlideSequence"),
                DimensionOrganizationUID=organisation,
            )
            for axis in ("Row", "Column")
        ]
        ds.PerFrameFunctionalGroupsSequence = [
            item(
                PlanePositionSlideSequence=[
                    item(
                        RowPositionInTotalImagePixelMatrix=row,
                        ColumnPositionInTotalImagePixelMatrix=column,
                        XOffsetInSlideCoordinateSystem=row * 0.0005,
                        YOffsetInSlideCoordinateSystem=column * 0.0005,
                        ZOffsetInSlideCoordinateSystem=0.0,
                    )
                ],
                FrameContentSequence=[
                    item(DimensionIndexValues=[row // tile[0] + 1, column // tile[1] + 1])
                ],
                OpticalPathIdentificationSequence=[item(OpticalPathIdentifier=f"CANARY{path}")],
            )
            for row, column, path in places
        ]
    for name, value in tags.items():
        if value is None:
            delattr(ds, name)
        else:
            setattr(ds, name, value)
    if "SOPInstanceUID" not in tags:
        ds.SOPInstanceUID = uid("slide", height, width, ds.SeriesInstanceUID, len(planes), sparse)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    if code is None:
        pixels = b"".join(frame.tobytes() for frame in frames)
        ds.PixelData = pixels + b"\0" * (len(pixels) % 2)
    else:
        ds.PixelData = encapsulate([code(frame) for frame in frames])
        ds["PixelData"].is_undefined_length = True
        ds["PixelData"].VR = "OB"
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def put_slide(path: Path, planes: Sequence[NDArray[Any]], **given: Any) -> Path:
    """Write a slide's file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(slide(planes, **given))
    return path
