"""Contours in foreign formats: what is read, what is written, and what is refused by name."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from skimage.draw import disk

from engine.errors import NoSource, ParameterError, SourceUnreadable
from engine.kernels.contours.geometry import area_px, fill_contour
from engine.kernels.contours.trace import trace_mask
from engine.kernels.contours.union import union_of
from engine.sources.annotations import DRAWING_REASONS, Drawing, Target, create_reader
from engine.sources.annotations.base import PlaneGeometry
from engine.sources.annotations.dicom_seg import SegReader
from engine.sources.annotations.geojson import GeoJsonReader
from engine.sources.annotations.rtstruct import RtStructReader
from engine.sources.annotations.sunnybrook import SunnybrookReader, read_link
from tests.support.data import shared_data
from tests.support.drawing_files import legal_uid, plane_geometry, write_rtstruct, write_seg
from tests.support.geojson_files import write_geojson

TEXT = "IM-0001-0048-icontour-manual.txt"
GEOMETRY = PlaneGeometry((-90.0, 12.5, 7.0), (0.8, 0.6, 0.0, -0.36, 0.48, -0.8), (1.4, 1.3))


def ring(seed: int = 0) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 30, endpoint=False) + random.uniform(0, 0.1, 30)
    points = 30 + 14 * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return np.round(points * 2) / 2


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Let pydicom say what it thinks of the UIDs of real files."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        yield


def header(instance: str = "1.2.3.4", **values: Any) -> Dataset:
    """Return the header of a made MR image."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", instance
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.5", "1.2.6", "1.2.7"
    ds.Modality, ds.PatientID, ds.PatientName, ds.SeriesNumber = "MR", "p", "p^", 3
    ds.Rows, ds.Columns = 64, 64
    ds.ImagePositionPatient = list(GEOMETRY.position_mm)
    ds.ImageOrientationPatient = list(GEOMETRY.orientation)
    ds.PixelSpacing, ds.SliceThickness = list(GEOMETRY.spacing_mm), "8"
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


# texts


def test_a_text_contour_says_whose_it_is_and_where() -> None:
    reader = SunnybrookReader({"SC-1": "SCD01"}, origin=1.0)
    path = f"contourfiles/SC-1/i-contours/{TEXT}"
    assert reader.claims(path)
    assert not reader.claims("dicoms/SCD01/48.dcm")
    (drawing,) = reader.read(path, b"1 2\n3 2\r\n3.5 4\n1 2\n")
    assert drawing.structure == "inner"
    assert drawing.target.paths[:2] == ("SCD01/48.dcm", "SCD01/IM-0001-0048.dcm")
    assert drawing.rings[0].tolist() == [[1, 0], [1, 2], [3, 2.5]]  # closing point left out
    assert reader.context != SunnybrookReader({"SC-1": "SCD01"}).context
    (outer,) = SunnybrookReader().read("SC/x/IM-0001-0003-p1contour-manual.txt", b"1 1 2 2 3 1")
    assert (outer.structure, outer.target.paths[0]) == ("papillary1", "SC/3.dcm")


def test_a_list_of_patients_is_read_or_refused(tmp_path: Path) -> None:
    (tmp_path / "link.csv").write_text("patient_id,original_id\r\nA, B \n")
    reader = create_reader("sunnybrook", tmp_path, {"origin": 1})
    assert isinstance(reader, SunnybrookReader)
    assert (reader.patients, reader.origin) == ({"B": "A"}, 1.0)
    for options in ({"link": "none.csv"}, {"origin": "one"}, {"orgin": 1}):
        with pytest.raises((NoSource, ParameterError)):
            create_reader("sunnybrook", tmp_path, options)
    for data in (b"a,b\n1,2\n", b"\xff\xfe", b"patient_id,original_id\nonly\n"):
        with pytest.raises(ParameterError, match="link"):
            read_link(data)
    for name in ("geojson", "seg", "rtstruct", "none"):
        with pytest.raises(ParameterError):
            create_reader(name, tmp_path, {"option": 1})


# what is malformed


def polygon(*positions: Any, kind: str = "Polygon") -> bytes:
    geometry = {"type": kind, "coordinates": [list(positions)]}
    return json.dumps({"type": "Feature", "geometry": geometry, "properties": {}}).encode()


def rt(change: Callable[[Dataset], None]) -> bytes:
    """Return a structure set in which a contour was changed."""
    ds = pydicom.dcmread(io.BytesIO(write_rtstruct([header()], [{"inner": [ring()]}])))
    change(ds.ROIContourSequence[0].ContourSequence[0])
    buffer = io.BytesIO()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(buffer, ds)
    return buffer.getvalue()


def setting(name: str, value: Any) -> Callable[[Dataset], None]:
    def change(contour: Dataset) -> None:
        with pydicom.config.disable_value_validation():
            setattr(contour, name, value)

    return change


TRIANGLE = ([0, 0], [0, 4], [4, 4])
MALFORMED: list[tuple[Any, bytes, str]] = [
    (SunnybrookReader(), b"", "empty"),
    (SunnybrookReader(), b" \n", "empty"),
    (SunnybrookReader(), b"1 2 3", "odd_count"),
    (SunnybrookReader(), b"1 2 nan 4 5 6", "not_finite"),
    (SunnybrookReader(), b"1 2 3 inf 5 6", "not_finite"),
    (SunnybrookReader(), b"x y\n1 2\n", "not_numbers"),
    (SunnybrookReader(), b"\x00\xff\xfe", "not_numbers"),
    (SunnybrookReader(), b"1 2\n3 4\n1 2", "too_few_points"),
    (SunnybrookReader({"B": "A"}), b"1 2\n3 4\n5 2", "no_link"),
    (GeoJsonReader(), b"", "empty"),
    (GeoJsonReader(), b'{"type": "FeatureCollection", "features": []}', "empty"),
    (GeoJsonReader(), b"{not json", "not_numbers"),
    (GeoJsonReader(), b"[" * 100_000, "not_numbers"),
    (GeoJsonReader(), b'{"type": "Feature"}', "corrupt"),
    (GeoJsonReader(), b"7", "corrupt"),
    (GeoJsonReader(), polygon(*TRIANGLE), "unclosed"),
    (GeoJsonReader(), polygon(*TRIANGLE, kind="LineString"), "unclosed"),
    (GeoJsonReader(), polygon(*TRIANGLE, kind="Point"), "unsupported"),
    (GeoJsonReader(), polygon([0], [1, 2], [0]), "odd_count"),
    (GeoJsonReader(), polygon([0, "a"], [1, 2], [0, 0]), "not_numbers"),
    (GeoJsonReader(), polygon([0, float("nan")], [1, 2], [0, 0]), "not_finite"),
    (GeoJsonReader(), polygon([0, 0], [1, 2], [0, 0]), "too_few_points"),
    (GeoJsonReader(), polygon(), "too_few_points"),
    (GeoJsonReader(), polygon(0, 1), "corrupt"),
    (RtStructReader(), b"", "empty"),
    (RtStructReader(), b"no DICOM at all", "corrupt"),
    (RtStructReader(), rt(setting("ContourData", ["1", "2"])), "odd_count"),
    (RtStructReader(), rt(setting("ContourData", None)), "empty"),
    (RtStructReader(), rt(setting("ContourData", ["1", "2", "3"])), "too_few_points"),
    (RtStructReader(), rt(setting("ContourGeometricType", "OPEN_PLANAR")), "unclosed"),
    (RtStructReader(), rt(setting("ContourGeometricType", "POINT")), "unsupported"),
    (RtStructReader(), write_seg([header()], [{"a": np.eye(64, dtype=bool)}]), "unsupported"),
    (SegReader(), write_rtstruct([header()], [{"a": [ring()]}]), "unsupported"),
    (SegReader(), b"\0" * 200, "corrupt"),
]


@pytest.mark.parametrize(("reader", "data", "reason"), MALFORMED)
def test_what_is_malformed_has_a_name(reader: Any, data: bytes, reason: str) -> None:
    path = f"B1/i-contours/{TEXT}" if isinstance(reader, SunnybrookReader) else "a.geojson"
    with pytest.raises(SourceUnreadable) as raised:
        reader.read(path, data)
    assert raised.value.reason == reason
    assert reason in DRAWING_REASONS


def test_a_file_cut_anywhere_is_a_failure_or_the_same_contours() -> None:
    mask = fill_contour([ring()], (64, 64))
    whole: list[tuple[Any, bytes]] = [
        (SunnybrookReader(), b"".join(b"%.2f %.2f\n" % (x, y) for y, x in ring().tolist())),
        (GeoJsonReader(), write_geojson({"inner": [ring()]})),
        (RtStructReader(), write_rtstruct([header()], [{"inner": [ring()]}])),
        (SegReader(), write_seg([header()], [{"inner": mask}])),
    ]
    for reader, data in whole:
        path = TEXT if isinstance(reader, SunnybrookReader) else "a.geojson"
        for cut in np.linspace(0, len(data) - 1, 20).astype(int):
            reason, drawings = None, []
            try:
                drawings = reader.read(path, data[:cut])
            except SourceUnreadable as error:
                reason = error.reason
            # A text that ends after a whole pair says nothing of what is missing.
            assert (reason in DRAWING_REASONS) != bool(drawings)


# there and back


def test_geojson_comes_back_bit_by_bit() -> None:
    mask = np.zeros((64, 64), bool)
    mask[disk((30, 30), 20)] = True
    mask[disk((30, 30), 8)] = False
    mask[disk((30, 30), 3)] = True
    mask[2:5, 50:60] = True
    contours = {"tumour": trace_mask(mask), "inner": union_of([[ring()], [ring(1)]])}
    data = write_geojson(contours)
    collection = json.loads(data)
    kinds = [feature["geometry"]["type"] for feature in collection["features"]]
    assert kinds == ["MultiPolygon", "MultiPolygon"]
    first = collection["features"][0]["geometry"]["coordinates"]
    assert sorted(len(polygon) for polygon in first) == [1, 1, 2]
    drawings = GeoJsonReader().read("slides/a.tif.geojson", data)
    assert drawings[0].target == Target(("slides/a.tif", "slides/a.tif.*", "slides/a.tif.ome.*"))
    tumour, inner = (
        union_of([d.rings for d in drawings if d.structure == name]) for name in contours
    )
    assert (fill_contour(tumour, mask.shape) == mask).all()
    assert area_px(tumour) == mask.sum()
    assert [one.tolist() for one in inner] == [ring().tolist(), [], ring(1).tolist()]
    # The first pixel covers 0 to 1 there: a box around it has the corners 0 and 1.
    box = json.loads(write_geojson({"a": trace_mask(np.eye(1, dtype=bool))}))
    corners = box["features"][0]["geometry"]["coordinates"][0]
    assert sorted(map(tuple, corners[:-1])) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_seg_comes_back_bit_by_bit() -> None:
    masks = [
        {"inner": fill_contour([ring(n)], (64, 64)), "ragged": np.eye(64, dtype=bool)}
        for n in range(2)
    ]
    masks[1].pop("ragged")
    sources = [header("1.2.3.1"), header("1.2.3.02")]  # the second UID is illegal
    sources[1].ImagePositionPatient = [-90.0, 12.5, 17.0]
    data = write_seg(sources, masks)
    drawings = SegReader().read("a.dcm", data)
    assert {(d.target.instance, d.structure) for d in drawings} == {
        ("1.2.3.1", "inner"), ("1.2.3.1", "ragged"), ("1.2.3.02", "inner"),
    }  # fmt: skip
    for drawing in drawings:
        n = drawing.target.instance == "1.2.3.02"
        mask = masks[n][drawing.structure]
        assert (fill_contour(drawing.on(plane_geometry(sources[n])), mask.shape) == mask).all()
    with pytest.raises(ParameterError, match="one series"):
        write_seg([header(), header(SeriesInstanceUID="1.9")], masks)
    with pytest.raises(ParameterError, match="masks"):
        write_seg([header()], masks)


def test_an_rtstruct_comes_back_within_half_a_ten_thousandth_of_a_pixel() -> None:
    data = write_rtstruct([header()], [{"inner": [ring(), ring(1) + 0.123456]}])
    (drawing,) = RtStructReader().read("a.dcm", data)
    rings = drawing.on(GEOMETRY)
    assert (rings[0] == ring()).all()
    assert np.abs(rings[1] - ring(1) - 0.123456).max() <= 0.5e-4
    assert (drawing.target.instance, drawing.structure) == ("1.2.3.4", "inner")
    with pytest.raises(SourceUnreadable, match="no_geometry"):
        drawing.on(None)
    away = PlaneGeometry((-90.0, 12.5, 9.0), GEOMETRY.orientation, GEOMETRY.spacing_mm)
    with pytest.raises(SourceUnreadable, match="off_plane"):
        drawing.on(away)
    lost = header()
    del lost.ImagePositionPatient
    with pytest.raises(SourceUnreadable, match="no_geometry"):
        write_rtstruct([lost], [{"inner": [ring()]}])
    with pytest.raises(ParameterError):
        write_rtstruct([], [])


def sunnybrook() -> dict[Path, dict[str, Drawing]]:
    """Return the drawings of the Sunnybrook frames, by image."""
    base = shared_data("sunnybrook")
    reader = create_reader("sunnybrook", base, {})
    found: dict[Path, dict[str, Drawing]] = {}
    for path in sorted(base.rglob("*.txt")):
        (drawing,) = reader.read(path.relative_to(base).as_posix(), path.read_bytes())
        image = base / "dicoms" / drawing.target.paths[0]
        found.setdefault(image, {})[drawing.structure] = drawing
    return found


def test_sunnybrook_contours_pass_through_seg_and_rtstruct_to_equal_masks(tmp_path: Path) -> None:
    """The masks that pydicom, highdicom and our readers see are those that were written."""
    found = sunnybrook()
    assert len(found) == 54
    assert [sum(s in by for by in found.values()) for s in ("inner", "outer")] == [54, 27]
    for n, (image, by_name) in enumerate(found.items()):
        if "outer" not in by_name:
            continue
        source = pydicom.dcmread(image, stop_before_pixels=True)
        masks = {name: fill_contour(d.rings, (256, 256)) for name, d in by_name.items()}
        files = tmp_path / f"{n}-seg.dcm", tmp_path / f"{n}-rt.dcm"
        files[0].write_bytes(write_seg([source], [masks]))
        files[1].write_bytes(write_rtstruct([source], [{s: d.rings for s, d in by_name.items()}]))
        plain = pydicom.dcmread(files[0]).pixel_array  # sorted by the structures' names
        assert (plain == np.stack([masks["inner"], masks["outer"]])).all()
        theirs = hd.seg.segread(files[0]).get_pixels_by_source_instance(
            [legal_uid(str(source.SOPInstanceUID))], ignore_spatial_locations=True
        )
        assert (np.moveaxis(theirs[0], -1, 0) == plain).all()
        for reader, file in zip((SegReader(), RtStructReader()), files, strict=True):
            drawings = reader.read(file.name, file.read_bytes())  # type: ignore[attr-defined]
            assert {d.structure for d in drawings} == set(masks)
            for drawing in drawings:
                assert drawing.target.instance == source.SOPInstanceUID
                rings = drawing.on(plane_geometry(source))
                assert (fill_contour(rings, (256, 256)) == masks[drawing.structure]).all()
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian's dicom3tools): the objects are not judged")
    for file in sorted(tmp_path.iterdir()):
        said = subprocess.run(["dciodvfy", file], capture_output=True, text=True, check=False)
        assert "Error" not in said.stdout + said.stderr, said.stderr
