"""Drawings of other programs: how several become one, and where they lie on an image."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from engine.errors import SourceUnreadable
from engine.ingest.annotations.matching import ImageIndex
from engine.ingest.annotations.worker import (
    AnnotationIndex,
    Changes,
    DrawingFile,
    DrawingFileResult,
    merge_file,
)
from engine.ingest.tasks import FileStamp
from engine.kernels.contours.geometry import area_px, fill_contour
from engine.sources.annotations import DrawingReader
from engine.sources.annotations.dicom_seg import SegReader
from engine.sources.annotations.geojson import GeoJsonReader
from engine.sources.annotations.rtstruct import RtStructReader
from engine.store.catalog.annotations import AnnotationRow
from engine.store.catalog.tables import READY, ImageRow, image_table
from tests.support.dicom import make
from tests.support.drawing_files import write_rtstruct

SIDE = 64
SPACING = 1.5
ORIGIN = (-20.0, 30.0)
ROWS = (slice(30, 40), slice(20, 32))
"""Where the structure is, in pixels of the image: 120 of them, 270 mm2."""


def series(heights: Sequence[float] = (0.0, 8.0, 16.0), **tags: Any) -> list[Dataset]:
    planes = [
        make(
            np.zeros((SIDE, SIDE), np.uint16),
            InstanceNumber=n + 1,
            PixelSpacing=[SPACING, SPACING],
            ImagePositionPatient=[*ORIGIN, z],
            PositionReferenceIndicator="",
            SliceThickness="8",
            PatientBirthDate="",
            PatientSex="",
            StudyTime="",
            StudyID="",
            AccessionNumber="",
            ReferringPhysicianName="",
            SeriesNumber=1,
            **tags,
        )
        for n, z in enumerate(heights)
    ]
    for plane in planes:  # which `make` writes down with the file only
        plane.file_meta.MediaStorageSOPClassUID = plane.SOPClassUID
        plane.file_meta.MediaStorageSOPInstanceUID = plane.SOPInstanceUID
    return planes


def catalogued(sources: Sequence[Dataset]) -> list[ImageRow]:
    """Return the images as the catalog has them, by their plain UIDs."""
    return [
        ImageRow(
            image_id=str(ds.SOPInstanceUID),
            state=READY,
            source=f"in/{n}.dcm",
            height=SIDE,
            width=SIDE,
            spacing_y_um=SPACING * 1000,
            spacing_x_um=SPACING * 1000,
            position_mm=tuple(map(float, ds.ImagePositionPatient)),
            orientation=tuple(map(float, ds.ImageOrientationPatient)),
            header={"frame_of_reference": str(ds.FrameOfReferenceUID)},
        )
        for n, ds in enumerate(sources)
    ]


def index_of(sources: Sequence[Dataset]) -> ImageIndex:
    return ImageIndex(image_table(catalogued(sources)))


def as_file(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(buffer, ds)
    return buffer.getvalue()


def taken(reader: DrawingReader, data: bytes, index: ImageIndex) -> list[AnnotationRow]:
    """Return the rows that a file becomes."""
    stat = FileStamp(1, 1, 1)
    file = DrawingFile("a", "", "x.dcm", "a/x.dcm", stat, "")
    changes = Changes()
    read = DrawingFileResult(file, tuple(reader.read("x.geojson", data)))
    merge_file(read, AnnotationIndex([]), lambda: index, "i", changes)
    return changes.rows


def masks(rows: Sequence[AnnotationRow]) -> dict[tuple[str, str], NDArray[np.bool_]]:
    found = {}
    for row in rows:
        if row.state == READY:
            rings = [np.array(ring).reshape(-1, 2) for ring in row.rings]
            found[row.image_id, row.structure] = fill_contour(rings, (SIDE, SIDE))
    return found


def troubles(rows: Sequence[AnnotationRow]) -> set[tuple[str, str | None]]:
    return {(row.structure, row.reason) for row in rows if row.state != READY}


# SEG


def seg(
    sources: Sequence[Dataset],
    pixels: NDArray[np.uint8],
    corner: tuple[float, float] = ORIGIN,
    spacing: float = SPACING,
    heights: Sequence[float] = (0.0, 8.0, 16.0),
    kind: str = "BINARY",
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    names: Sequence[str] = ("inner",),
) -> Dataset:
    """Return a SEG as highdicom makes it, on a grid of its own."""
    return hd.seg.Segmentation(
        source_images=list(sources),
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[
            hd.seg.SegmentDescription(
                n + 1, name, codes.SCT.AnatomicalStructure, codes.SCT.LeftVentricle, "MANUAL"
            )
            for n, name in enumerate(names)
        ],
        series_instance_uid=generate_uid(),
        series_number=5,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
        plane_positions=[hd.PlanePositionSequence("PATIENT", (*corner, z)) for z in heights],
        plane_orientation=hd.PlaneOrientationSequence("PATIENT", list(orientation)),
        pixel_measures=hd.PixelMeasuresSequence([spacing, spacing], 8.0),
    )


def boxed(side: int, *where: slice, count: int = 3) -> NDArray[np.uint8]:
    pixels = np.zeros((count, side, side), np.uint8)
    pixels[(slice(None), *where)] = 1
    return pixels


def naming(ds: Dataset, sources: Sequence[Dataset]) -> Dataset:
    """Say of each frame which image it was drawn on, as many programs do."""
    for frame, source in zip(ds.PerFrameFunctionalGroupsSequence, sources, strict=True):
        image = Dataset()
        image.ReferencedSOPClassUID = source.SOPClassUID
        image.ReferencedSOPInstanceUID = source.SOPInstanceUID
        derived = Dataset()
        derived.SourceImageSequence = [image]
        frame.DerivationImageSequence = [derived]
    return ds


CORNER = (ORIGIN[0] + 16 * SPACING, ORIGIN[1] + 25 * SPACING)
GRIDS: dict[str, Callable[[list[Dataset]], Dataset]] = {
    "the same": lambda s: seg(s, boxed(64, *ROWS)),
    "a cropped one": lambda s: seg(s, boxed(24, slice(5, 15), slice(4, 16)), CORNER),
    "half the pixels": lambda s: seg(
        s,
        boxed(128, slice(60, 80), slice(40, 64)),
        (ORIGIN[0] - SPACING / 4, ORIGIN[1] - SPACING / 4),
        SPACING / 2,
    ),
    "twice the pixels": lambda s: seg(
        s,
        boxed(32, slice(15, 20), slice(10, 16)),
        (ORIGIN[0] + SPACING / 2, ORIGIN[1] + SPACING / 2),
        SPACING * 2,
    ),
    "turned in the plane": lambda s: seg(
        s,
        boxed(64, slice(63 - 31, 63 - 19), slice(30, 40)),
        (ORIGIN[0] + 63 * SPACING, ORIGIN[1]),
        orientation=(0, 1, 0, -1, 0, 0),
    ),
    "a larger one": lambda s: seg(
        s,
        boxed(80, slice(38, 48), slice(28, 40)),
        (ORIGIN[0] - 8 * SPACING, ORIGIN[1] - 8 * SPACING),
    ),
}


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_seg_lies_where_its_own_geometry_says(grid: str, named: bool) -> None:
    sources = series()
    made = GRIDS[grid](sources)
    if named:  # in an order that is not that of the frames: the place counts
        naming(made, sources)
    rows = taken(SegReader(), as_file(made), index_of(sources))
    assert troubles(rows) == set()
    expected = np.zeros((SIDE, SIDE), bool)
    expected[ROWS] = True
    found = masks(rows)
    assert set(found) == {(str(ds.SOPInstanceUID), "inner") for ds in sources}
    for row in rows:
        assert (found[row.image_id, "inner"] == expected).all()
        assert area_px([np.array(r).reshape(-1, 2) for r in row.rings]) == pytest.approx(120)


def test_a_seg_in_no_plane_of_the_images_is_refused_by_name() -> None:
    sources = series()
    pixels = boxed(64, *ROWS)
    between = seg(sources, pixels, heights=(4.0, 12.0, 20.0))
    rows = taken(SegReader(), as_file(between), index_of(sources))
    assert [(row.image_id, row.state, row.reason) for row in rows] == [
        ("", "unmatched", "other_plane")
    ]
    upright = seg(sources, pixels[:1], heights=(0.0,), orientation=(1, 0, 0, 0, 0, -1))
    assert troubles(taken(SegReader(), as_file(upright), index_of(sources))) == {
        ("inner", "other_plane")
    }
    # Slices between those of the images are named, and the others are taken.
    finer = seg(sources, boxed(64, *ROWS, count=5), heights=(0.0, 4.0, 8.0, 12.0, 16.0))
    rows = taken(SegReader(), as_file(finer), index_of(sources))
    assert len(masks(rows)) == 3
    assert troubles(rows) == {("inner", "other_plane")}
    # Another space, and none of its images are here.
    new = {"FrameOfReferenceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    other = seg(series(**new), pixels)
    assert troubles(taken(SegReader(), as_file(other), index_of(sources))) == {
        ("inner", "no_image")
    }
    # Two images at one place: which was meant is not known.
    twice = [*sources, *series(SeriesInstanceUID=generate_uid())]
    made = seg(sources, pixels)
    del made.ReferencedSeriesSequence
    for frame in made.PerFrameFunctionalGroupsSequence:
        frame.pop("DerivationImageSequence", None)
    assert troubles(taken(SegReader(), as_file(made), index_of(twice))) == {("inner", "ambiguous")}
    assert len(masks(taken(SegReader(), as_file(made), index_of(sources)))) == 3


def test_a_seg_without_a_place_fits_its_image_or_is_refused() -> None:
    (source,) = series((0.0,))
    made = naming(seg([source], boxed(64, *ROWS, count=1), heights=(0.0,)), [source])
    for frame in made.PerFrameFunctionalGroupsSequence:
        frame.pop("PlanePositionSequence", None)
    (row,) = taken(SegReader(), as_file(made), index_of([source]))
    assert (row.state, masks([row])[row.image_id, "inner"].sum()) == (READY, 120)
    made = naming(
        seg([source], boxed(24, slice(5, 15), slice(4, 16), count=1), heights=(0.0,)), [source]
    )
    for frame in made.PerFrameFunctionalGroupsSequence:
        frame.pop("PlanePositionSequence", None)
    rows = taken(SegReader(), as_file(made), index_of([source]))
    assert troubles(rows) == {("inner", "other_grid")}
    for frame in made.PerFrameFunctionalGroupsSequence:
        frame.pop("DerivationImageSequence", None)
    with pytest.raises(SourceUnreadable, match="no_reference"):
        SegReader().read("a.dcm", as_file(made))


def test_segments_of_every_kind_are_read_or_refused_as_what_they_are() -> None:
    sources = series()
    index = index_of(sources)
    labels = np.zeros((3, 64, 64), np.uint8)
    labels[:, 5:15, 5:15], labels[:, 20:25, 5:15] = 1, 2
    found = masks(
        taken(SegReader(), as_file(seg(sources, labels, kind="LABELMAP", names="ab")), index)
    )
    assert {name: mask.sum() for (_, name), mask in found.items()} == {"a": 100, "b": 50}
    background = seg(sources, labels, kind="LABELMAP", names="ab")
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel = 0, "Background"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "125040", "DCM", "Background"
    item.SegmentedPropertyTypeCodeSequence = [code]
    background.SegmentSequence.insert(0, item)
    assert {name for _, name in masks(taken(SegReader(), as_file(background), index))} == {"a", "b"}
    background.SegmentSequence[0].SegmentedPropertyTypeCodeSequence = []
    assert {name for _, name in masks(taken(SegReader(), as_file(background), index))} == {"a", "b"}

    shares = np.where(labels == 1, 0.5, 0.0)
    with pytest.raises(SourceUnreadable, match="fractional"):
        SegReader().read("a.dcm", as_file(seg(sources, shares, kind="FRACTIONAL")))
    whole = seg(sources, (labels == 1).astype(float), kind="FRACTIONAL")
    found = masks(taken(SegReader(), as_file(whole), index))
    assert {mask.sum() for mask in found.values()} == {100}

    # Two segments of one name are one structure.
    two = np.stack([labels == 1, labels == 2], axis=-1).astype(np.uint8)
    found = masks(taken(SegReader(), as_file(seg(sources, two, names=("GTV", "GTV"))), index))
    assert {(name, mask.sum()) for (_, name), mask in found.items()} == {("GTV", 150)}
    two[..., 1] = two[..., 0]
    found = masks(taken(SegReader(), as_file(seg(sources, two, names=("GTV", "GTV"))), index))
    assert {mask.sum() for mask in found.values()} == {100}

    tiled = seg(sources, boxed(64, *ROWS))
    tiled.TotalPixelMatrixColumns = 640
    with pytest.raises(SourceUnreadable, match="unsupported"):
        SegReader().read("a.dcm", as_file(tiled))


def test_frames_of_one_instance_are_told_apart_by_number_or_place() -> None:
    sources = series()
    made = naming(seg(sources, boxed(64, *ROWS)), [sources[0]] * 3)
    rows = [
        replace(row, image_id=f"{sources[0].SOPInstanceUID}#{n}", source=f"in/0.dcm#{n}")
        for n, row in enumerate(catalogued(sources))
    ]
    index = ImageIndex(image_table(rows))
    by_place = masks(taken(SegReader(), as_file(made), index))
    assert {name[-2:] for name, _ in by_place} == {"#0", "#1", "#2"}
    # Phases at one place: only the number tells them apart.
    phases = [replace(row, position_mm=(*ORIGIN, 0.0)) for row in rows]
    one = seg(sources, boxed(64, *ROWS, count=1), heights=(0.0,))
    naming(one, [sources[0]])
    image = one.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    found = taken(SegReader(), as_file(one), ImageIndex(image_table(phases)))
    assert troubles(found) == {("inner", "ambiguous")}
    image.SourceImageSequence[0].ReferencedFrameNumber = 2
    (row,) = taken(SegReader(), as_file(one), ImageIndex(image_table(phases)))
    assert row.image_id.endswith("#1")
    # Where an image lies must be known: nothing is laid on it by index.
    lost = [replace(row, position_mm=None) for row in catalogued(sources)]
    made = naming(seg(sources, boxed(64, *ROWS)), sources)
    found = taken(SegReader(), as_file(made), ImageIndex(image_table(lost)))
    assert {row.reason for row in found} == {"no_geometry"}


# RTSTRUCT


def box(top: float, left: float, bottom: float, right: float) -> NDArray[np.float64]:
    return np.array([[top, left], [top, right], [bottom, right], [bottom, left]])


CLOSED, XOR = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"
KEYHOLE = np.array(
    [(9.5, 9.5), (9.5, 39.5), (39.5, 39.5), (39.5, 9.5), (24.5, 9.5), (24.5, 19.5), (29.5, 19.5),
     (29.5, 29.5), (19.5, 29.5), (19.5, 19.5), (24.5, 19.5), (24.5, 9.5)]
)  # fmt: skip


def rtstruct(
    sources: Sequence[Dataset],
    rois: Sequence[tuple[str, Sequence[tuple[int, str, Any]]]],
    named: bool = True,
    listed: bool = True,
) -> Dataset:
    """Return a structure set: names, and for each contour its slice, kind and points (y, x)."""
    ds = pydicom.dcmread(io.BytesIO(write_rtstruct(sources[:1], [{"a": [box(0, 0, 1, 1)]}])))
    ds.Manufacturer = "x"
    images = ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    images = images.RTReferencedSeriesSequence[0].ContourImageSequence
    del images[:]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for source in sources if listed else ():
        image = Dataset()
        image.ReferencedSOPClassUID = source.SOPClassUID
        image.ReferencedSOPInstanceUID = source.SOPInstanceUID
        images.append(image)
    for number, (name, contours) in enumerate(rois, 1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber = drawn.ReferencedROINumber = number
        roi.ROIName, roi.ReferencedFrameOfReferenceUID = name, sources[0].FrameOfReferenceUID
        drawn.ContourSequence = []
        for n, kind, points in contours:
            contour = Dataset()
            contour.ContourGeometricType = kind
            z = float(sources[n].ImagePositionPatient[2])
            contour.ContourData = [
                f"{v:.3f}"
                for y, x in np.asarray(points).tolist()
                for v in (ORIGIN[0] + x * SPACING, ORIGIN[1] + y * SPACING, z)
            ]
            if named:
                image = Dataset()
                image.ReferencedSOPClassUID = sources[n].SOPClassUID
                image.ReferencedSOPInstanceUID = sources[n].SOPInstanceUID
                contour.ContourImageSequence = [image]
            drawn.ContourSequence.append(contour)
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(drawn)
    return ds


BIG, SMALL = box(9.5, 9.5, 39.5, 39.5), box(19.5, 19.5, 29.5, 29.5)
LEFT, RIGHT = box(9.5, 9.5, 29.5, 29.5), box(19.5, 19.5, 39.5, 39.5)
FILLS = box(19.5, 19.5, 24.5, 29.5)
TOGETHER: dict[str, tuple[list[tuple[str, Any]], int]] = {
    "overlap in part": ([(CLOSED, LEFT), (CLOSED, RIGHT)], 700),
    "one in the other": ([(CLOSED, BIG), (CLOSED, SMALL)], 900),
    "the same twice": ([(CLOSED, SMALL), (CLOSED, SMALL)], 100),
    "apart": ([(CLOSED, SMALL), (CLOSED, SMALL + 20)], 200),
    "exclusive": ([(XOR, BIG), (XOR, SMALL)], 800),
    "exclusive, three": ([(XOR, BIG), (XOR, SMALL), (XOR, box(21.5, 21.5, 25.5, 25.5))], 816),
    "keyhole": ([(CLOSED, KEYHOLE)], 800),
    "keyhole and what fills it": ([(CLOSED, KEYHOLE), (CLOSED, box(19.5, 19.5, 29.5, 24.5))], 850),
    "exclusive and closed": ([(XOR, BIG), (XOR, SMALL), (CLOSED, FILLS)], 850),
}  # fmt: skip


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("case", TOGETHER)
def test_contours_of_one_structure_are_joined_as_the_standard_says(case: str, named: bool) -> None:
    contours, count = TOGETHER[case]
    sources = series()
    data = as_file(rtstruct(sources, [("a", [(0, *one) for one in contours])], named))
    (row,) = taken(RtStructReader(), data, index_of(sources))
    assert masks([row])[str(sources[0].SOPInstanceUID), "a"].sum() == count
    assert area_px([np.array(r).reshape(-1, 2) for r in row.rings]) == pytest.approx(count)
    # Two structures of one name are one, however their contours are shared out.
    halves = [("a", [(0, *one)]) for one in contours]
    if XOR not in dict(contours):
        (row,) = taken(
            RtStructReader(), as_file(rtstruct(sources, halves, named)), index_of(sources)
        )
        assert masks([row])[row.image_id, "a"].sum() == count


def test_what_is_written_comes_back_with_its_holes() -> None:
    (source,) = series((0.0,))
    for rings in ([BIG, SMALL], [SMALL, SMALL + 20], [BIG, SMALL, np.empty((0, 2)), SMALL + 5]):
        data = write_rtstruct([source], [{"a": rings}])
        (row,) = taken(RtStructReader(), data, index_of([source]))
        expected = fill_contour(rings, (SIDE, SIDE))
        assert (masks([row])[row.image_id, "a"] == expected).all()
    # Version 1 wrote holes as closed planar contours.
    old = pydicom.dcmread(io.BytesIO(write_rtstruct([source], [{"a": [BIG, SMALL]}])))
    for contour in old.ROIContourSequence[0].ContourSequence:
        contour.ContourGeometricType = CLOSED
    assert (
        masks(taken(RtStructReader(), as_file(old), index_of([source]))).popitem()[1].sum() == 900
    )
    old.SoftwareVersions = "1"
    assert (
        masks(taken(RtStructReader(), as_file(old), index_of([source]))).popitem()[1].sum() == 800
    )


def test_contours_without_an_image_go_where_they_lie() -> None:
    sources = series()
    drawn = [(n, CLOSED, box(29.5, 19.5, 39.5, 31.5)) for n in range(3)]
    for listed in (True, False):
        data = as_file(rtstruct(sources, [("inner", drawn)], named=False, listed=listed))
        rows = taken(RtStructReader(), data, index_of(sources))
        assert [mask.sum() for mask in masks(rows).values()] == [120] * 3
    # Of two series at one place it is that which the file lists.
    twin = series()
    for ds in twin:
        ds.SOPInstanceUID = generate_uid()
    both = index_of([*sources, *twin])
    data = as_file(rtstruct(sources, [("inner", drawn)], named=False))
    found = masks(taken(RtStructReader(), data, both))
    assert {image_id for image_id, _ in found} == {str(ds.SOPInstanceUID) for ds in sources}
    data = as_file(rtstruct(sources, [("inner", drawn)], named=False, listed=False))
    assert troubles(taken(RtStructReader(), data, both)) == {("inner", "ambiguous")}
    # Between slices it costs itself.
    between = series((0.0, 4.0, 8.0))
    data = as_file(rtstruct(between, [("inner", drawn)], named=False, listed=False))
    rows = taken(RtStructReader(), data, index_of(series((0.0, 8.0, 16.0))))
    assert len(masks(rows)) == 2
    assert troubles(rows) == {("inner", "other_plane")}
    nowhere = rtstruct(sources, [("inner", drawn)], named=False, listed=False)
    del nowhere.FrameOfReferenceUID, nowhere.ReferencedFrameOfReferenceSequence
    for roi in nowhere.StructureSetROISequence:
        del roi.ReferencedFrameOfReferenceUID
    with pytest.raises(SourceUnreadable, match="no_reference"):
        RtStructReader().read("a.dcm", as_file(nowhere))


def test_a_contour_of_another_kind_costs_itself_and_a_broken_one_its_structure() -> None:
    sources = series()
    good = box(29.5, 19.5, 39.5, 31.5)
    rois = [
        ("inner", [(0, CLOSED, good), (0, "POINT", good[:1]), (1, CLOSED, good)]),
        ("line", [(0, "OPEN_PLANAR", good)]),
        ("curve", [(0, "OPEN_NONPLANAR", good)]),
        ("other", [(0, "INTERPOLATED_PLANAR", good)]),
        ("speck", [(0, CLOSED, good[:2]), (0, CLOSED, good)]),
        ("broken", [(0, CLOSED, good), (0, CLOSED, good * np.nan), (1, CLOSED, good)]),
    ]
    rows = taken(RtStructReader(), as_file(rtstruct(sources, rois)), index_of(sources))
    counts = {(name, image_id): mask.sum() for (image_id, name), mask in masks(rows).items()}
    first, second = (str(ds.SOPInstanceUID) for ds in sources[:2])
    assert counts == {
        ("inner", first): 120, ("inner", second): 120, ("speck", first): 120,
        ("broken", second): 120,
    }  # fmt: skip
    assert troubles(rows) == {
        ("inner", "unsupported"), ("line", "unclosed"), ("curve", "unclosed"),
        ("other", "unsupported"), ("speck", "too_few_points"), ("broken", "not_finite"),
    }  # fmt: skip


# GeoJSON


def feature(geometry: Any, classified: Any = None, **properties: Any) -> dict[str, Any]:
    kind = {} if classified is None else {"classification": classified}
    return {"type": "Feature", "geometry": geometry, "properties": {**properties, **kind}}


def shape(*boxes: tuple[float, float, float, float], kind: str = "Polygon") -> dict[str, Any]:
    rings = [[*[[x, y] for y, x in box(*b).tolist()], [b[1], b[0]]] for b in boxes]
    return {"type": kind, "coordinates": rings if kind == "Polygon" else [[ring] for ring in rings]}


def slide(*features: dict[str, Any]) -> list[AnnotationRow]:
    data = json.dumps({"type": "FeatureCollection", "features": list(features)}).encode()
    row = ImageRow(image_id="in/x.tif", state=READY, source="in/x.tif", height=SIDE, width=SIDE)
    return taken(GeoJsonReader(), data, ImageIndex(image_table([row])))


def counts(rows: Sequence[AnnotationRow]) -> dict[str, int]:
    return {name: int(mask.sum()) for (_, name), mask in masks(rows).items()}


def test_all_polygons_of_a_class_belong_to_it() -> None:
    a, b, c = (0, 0, 10, 10), (5, 5, 15, 15), (30, 30, 40, 40)
    tumor = {"name": "Tumor", "color": [1, 2, 3]}
    assert counts(slide(*(feature(shape(x), tumor) for x in (a, b, c)))) == {"Tumor": 275}
    assert counts(slide(feature(shape(a, b, c, kind="MultiPolygon"), tumor))) == {"Tumor": 275}
    ring = shape((20, 20, 50, 50), (25, 25, 45, 45))
    assert counts(slide(feature(ring, tumor))) == {"Tumor": 500}
    assert counts(slide(feature(ring, tumor), feature(shape(c), tumor))) == {"Tumor": 600}
    collection = {
        "type": "GeometryCollection",
        "geometries": [shape(a), shape(b, c, kind="MultiPolygon")],
    }
    assert counts(slide(feature(collection, tumor))) == {"Tumor": 275}


def test_classes_are_called_as_they_are_shown() -> None:
    a = shape((0, 0, 10, 10))
    named = [
        ({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, {}, "Tumor: Positive"),
        ({"names": ["Tumor"]}, {}, "Tumor"),
        ({"name": "Stroma", "colorRGB": -1}, {}, "Stroma"),
        ("Necrosis", {}, "Necrosis"),
        (["CD3", "CD8"], {}, "CD3: CD8"),
        ({"names": []}, {"name": "Field 1"}, "Field 1"),
        (None, {"objectType": "annotation"}, "annotation"),
        (None, {"objectType": "cell"}, "cell"),
        (None, {"object_type": "detection"}, "detection"),
        (None, {}, "annotation"),
    ]  # fmt: skip
    for classified, properties, name in named:
        assert counts(slide(feature(a, classified, **properties))) == {name: 100}


def test_points_and_lines_cost_themselves() -> None:
    a = shape((0, 0, 10, 10))
    others = {
        "Count": ({"type": "MultiPoint", "coordinates": [[5, 5], [7, 7]]}, "unsupported"),
        "Spot": ({"type": "Point", "coordinates": [5, 5]}, "unsupported"),
        "Ruler": ({"type": "LineString", "coordinates": [[0, 0], [9, 9]]}, "unclosed"),
        "Rulers": ({"type": "MultiLineString", "coordinates": [[[0, 0], [9, 9]]]}, "unclosed"),
        "Nowhere": (None, "empty"),
        "Speck": ({"type": "Polygon", "coordinates": [[[1, 1], [2, 2], [1, 1]]]}, "too_few_points"),
        "Open": ({"type": "Polygon", "coordinates": [[[1, 1], [2, 2], [1, 9]]]}, "unclosed"),
        "Text": ({"type": "Polygon", "coordinates": [[["a", 1], [2, 2], [1, 9]]]}, "not_numbers"),
    }
    rows = slide(
        feature(a, {"name": "Bone"}),
        *(feature(geometry, {"name": name}) for name, (geometry, _) in others.items()),
        feature({"type": "Point", "coordinates": [5, 5]}, {"name": "Bone"}),
    )
    assert counts(rows) == {"Bone": 100}
    expected = {(name, reason) for name, (_, reason) in others.items()}
    assert troubles(rows) == expected | {("Bone", "unsupported")}
    # A broken polygon costs its class: a part of the mask would be missing.
    open_one = {"type": "Polygon", "coordinates": [[[1, 1], [2, 2], [1, 9]]]}
    rows = slide(feature(a, {"name": "Bone"}), feature(open_one, {"name": "Bone"}),
                 feature(a, {"name": "Fat"}))  # fmt: skip
    assert counts(rows) == {"Fat": 100}
    assert troubles(rows) == {("Bone", "unclosed")}
