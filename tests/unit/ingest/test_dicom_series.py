"""DICOM series in a cohort: places, units, nights, odd series, copies; circles on their planes."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pydicom
import pytest
import yaozarrs
import zarr
from distributed import Client

import engine
from engine.header import FINDINGS, Header, PatientIdentity
from engine.ingest.series.dicom_series import assign_series_positions
from engine.phantoms import CineOptions, write_cine
from engine.privacy import KEY, read_key
from engine.store.pixels.layout import IncomingPlane
from tests.support.dicom import DATA, needs_sunnybrook, put_dicom, put_series, uid
from tests.support.dicom import KEY as SECRET
from tests.support.images import Counting, catalog, computed, discs


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)


def revealed(cohort: engine.Cohort, place: Path) -> dict[str, dict[str, Any]]:
    """Return the catalog's rows by the path that only the key leads to."""
    rows = catalog(cohort)
    return {r["path"]: rows[r["image_id"]] for r in cohort.reveal(place) if r["image_id"]}


# a whole cine


@pytest.fixture(scope="module")
def cine(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Iterator[Any]:
    place = tmp_path_factory.mktemp("cine")
    write_cine(
        place / "cine", CineOptions(patients=2, slices=3, phases=4, size_px=120, spacing_mm=1.6)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, SECRET)
        cohort = engine.create(place / "cohort")
        report = cohort.ingest(place / "cine", client=client)
        yield cohort, place / "cine", report


def test_a_cine_is_a_series_whose_planes_are_where_truth_says(cine: Any) -> None:
    cohort, place, report = cine
    assert (report.new, report.failed) == (24, 0)
    assert report.findings == {}
    rows = revealed(cohort, place)
    truth = pd.read_parquet(place / "truth.parquet")
    for row in truth.itertuples():
        found = rows[str(place / row.path)]
        assert (found["t"], found["z"]) == (row.phase, row.slice)
        assert found["time_ms"] == pytest.approx(row.time_ms)
        assert found["instance"] == row.instance
        assert (found["spacing_y_um"], found["spacing_z_um"]) == (1600.0, pytest.approx(10_000))
    assert (
        len({r["stack"] for r in rows.values()}) == len({r["series"] for r in rows.values()}) == 2
    )
    images = cohort.images()
    for row in truth.iloc[::5].itertuples():
        pixels = pydicom.dcmread(place / row.path).pixel_array
        image = images.by_id(rows[str(place / row.path)]["image_id"])
        assert np.array_equal(image.values[0], pixels)
        assert image.dtype == pixels.dtype == np.int16


def test_circles_run_on_planes_of_a_series(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    for z in range(3):  # of a type that other tests compile the kernel for, too
        put_dicom(tmp_path / "data" / str(z), discs(z), InstanceNumber=z,
                  ImagePositionPatient=[0, 0, z])  # fmt: skip
    cohort.ingest(tmp_path / "data", client=client)
    cohort.run(engine.circles(radius_px=(8, 24)), client=client)
    table = cohort.table("circles_by_image")
    assert list(table["count"]) == [2, 2, 2]
    assert {row["z"] for row in catalog(cohort).values()} == {0, 1, 2}
    assert set(table.subject) == {read_key().of("patient", "CANARY1")}


def test_ome_zarr_has_units_and_place(cine: Any) -> None:
    cohort = cine[0]
    for path in sorted((Path(cohort.store.url) / "pixels").glob("*.zarr")):
        yaozarrs.validate_zarr_store(str(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from ome_zarr_models import open_ome_zarr

            image = open_ome_zarr(zarr.open_group(path, mode="r"))
        multiscale = image.attributes.ome.multiscales[0]
        assert [(a.name, a.unit) for a in multiscale.axes] == [
            ("t", "millisecond"),
            ("c", None),
            ("z", "micrometer"),
            ("y", "micrometer"),
            ("x", "micrometer"),
        ]
        scale, shift = multiscale.datasets[0].coordinateTransformations
        assert scale.scale[2:] == pytest.approx([10_000, 1600, 1600])
        # Image axes and orientation lead back to ImagePositionPatient.
        said = json.loads((path / "zarr.json").read_text())["attributes"]["dicom"]
        row, column = np.reshape(said["ImageOrientationPatient"], (2, 3))
        z, y, x = np.asarray(shift.translation[2:]) / 1000
        back = z * np.cross(row, column) + y * column + x * row
        assert back == pytest.approx(said["ImagePositionPatient"], abs=1e-6)
        assert zarr.open_array(path / "0", mode="r").shape == (4, 1, 3, 120, 120)


def test_the_next_night_opens_no_file(
    cine: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = cine[0]
    import engine.ingest.worker as intake

    opened: list[str] = []
    monkeypatch.setattr(intake, "open_source", lambda file, name, **_: opened.append(name))
    report = cohort.ingest(client=client)
    assert (report.new, report.changed, report.unchanged) == (0, 0, 24)
    assert opened == []
    assert cohort.verify().ok


# odd series, each as values


IDENTITY = PatientIdentity("p", "s", "series", "i", "f")


def arrival(n: int, **facts: Any) -> IncomingPlane:
    shape, spacing = facts.pop("shape", (1, 8, 8)), facts.pop("spacing", (500.0, 500.0))
    frame = facts.pop("frame_of_reference", "f")
    identity = PatientIdentity("p", "s", facts.pop("series", "series"), f"i{n}", frame)
    known = {"position_mm": (0.0, 0.0, 0.0), "orientation": (1.0, 0, 0, 0, 1.0, 0)}
    header = Header(identity, pseudonymised=True, instance=n, **{**known, **facts})
    return IncomingPlane(f"r/{n:04d}", "", shape, "int16", spacing, header=header)


def places(found: list[IncomingPlane]) -> list[tuple[int, int] | None]:
    return [a.place for a in found]


def codes(found: list[IncomingPlane]) -> set[str]:
    return {code for a in found for code in a.header.findings if a.header}


def at(*heights: float, **facts: Any) -> list[IncomingPlane]:
    return [arrival(n, position_mm=(0.0, 0.0, z), **facts) for n, z in enumerate(heights)]


def test_slices_ascend_by_position_whatever_their_numbers() -> None:
    found = assign_series_positions(at(30.0, 10.0, 20.0, 0.0))
    assert places(found) == [(0, 3), (0, 1), (0, 2), (0, 0)]
    assert codes(found) == set()
    assert found[0].lattice is not None
    assert found[0].lattice.distance_um == 10_000


def test_oddities_are_named() -> None:
    assert codes(assign_series_positions(at(0, 10, 20, 40))) == {"slice_gap"}
    assert codes(assign_series_positions(at(0, 10, 30))) == {"slice_gap"}  # of few, too
    assert codes(assign_series_positions(at(0, 10, 21, 31))) == {"uneven_slices"}
    shifted = [arrival(n, position_mm=(n * 1.0, 0.0, n * 5.0)) for n in range(3)]
    assert codes(assign_series_positions(shifted)) == {"shifted_slices"}
    frames = [arrival(n, position_mm=(0, 0, n), frame_of_reference=f"f{n}") for n in range(3)]
    found = assign_series_positions(frames)
    assert codes(found) == {"frame_of_reference_differs"}
    assert places(found) == [(0, 0), (0, 1), (0, 2)]
    assert set(FINDINGS) >= codes(found)


@pytest.mark.parametrize(
    ("heights", "stated", "thickness", "expected"),
    [
        ((0, 16), 8.0, 8.0, {"slice_gap"}),
        ((0, 16, 32), 8.0, None, {"slice_gap"}),
        ((0, 16, 32), -8.0, 8.0, {"slice_gap"}),  # of nuclear medicine
        ((0, 3, 6), 1.0, 5.0, {"slice_gap"}),  # slices that overlap
        ((0, 16), None, 8.0, {"slice_gap_by_thickness"}),
        ((0, 16), 0.0, 8.0, {"slice_gap_by_thickness"}),
        ((0, 15), None, 8.0, set()),
        ((0, 10, 20), 2.0, 8.0, set()),  # states what lies between
        ((0, 10, 20), 10.0, 3.0, set()),  # a gap that was planned
        ((0, 8, 16), 8.0, 8.0, set()),
        ((0, 16), None, None, set()),
        ((0,), 8.0, 8.0, set()),
    ],
)
def test_distances_are_compared_with_what_the_header_says(
    heights: tuple[float, ...], stated: float | None, thickness: float | None, expected: set[str]
) -> None:
    found = assign_series_positions(at(*heights, distance_mm=stated, thickness_mm=thickness))
    assert codes(found) == expected


def test_planes_that_do_not_fit_are_parts_of_their_own_and_none_is_lost() -> None:
    turned = [
        arrival(n, position_mm=(n, 0.0, 0.0), orientation=(0, 1.0, 0, 0, 0, 1.0)) for n in (7, 8)
    ]
    alone = arrival(9, shape=(1, 8, 9))
    found = assign_series_positions([*at(0, 10, 20), *turned, alone])
    assert places(found) == [(0, 0), (0, 1), (0, 2), (0, 0), (0, 1), None]
    assert len({a.series for a in found[:5]}) == 2
    assert codes(found) == {"mixed_geometry"}


def test_doubles_go_to_a_further_part() -> None:
    once = [arrival(n, position_mm=(0, 0, n // 2), time_ms=float(n % 2)) for n in range(4)]
    again = [arrival(10 + n, position_mm=(0, 0, n // 2), time_ms=float(n % 2)) for n in range(4)]
    found = assign_series_positions([*once, *again])
    assert places(found) == [(0, 0), (1, 0), (0, 1), (1, 1)] * 2
    assert [a.series for a in found] == ["series/0"] * 4 + ["series/1"] * 4
    assert codes(found[4:]) == {"duplicate_plane"}
    assert codes(found[:4]) == set()


def test_a_missing_phase_leaves_its_place_blank() -> None:
    times = [(0, 0.0), (0, 50.0), (0, 100.0), (1, 1.0), (1, 99.0), (2, 49.0)]
    found = assign_series_positions(
        [arrival(n, position_mm=(0, 0, z * 8.0), time_ms=t) for n, (z, t) in enumerate(times)]
    )
    assert places(found) == [(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (1, 2)]
    assert codes(found) == {"missing_planes"}


def test_without_positions_files_are_images_and_frames_are_phases() -> None:
    flat = [arrival(n, position_mm=None) for n in range(3)]
    assert places(assign_series_positions(flat)) == [None] * 3
    frames = [
        IncomingPlane("r/f", f"#{n}", (1, 8, 8), "uint8", None, header=Header(IDENTITY, frame=n))
        for n in range(3)
    ]
    assert places(assign_series_positions(frames)) == [(0, 0), (1, 0), (2, 0)]


# nights, copies, rescale


def test_late_planes_make_a_stack_of_their_own(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    folder = tmp_path / "data"
    put_series(folder, [0.0, 5.0, 10.0])
    cohort.ingest(folder, client=client)
    before = catalog(cohort)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "cohort/pixels").rglob("*")}
    for path in put_series(tmp_path / "more", [0.0, 5.0, 10.0, 15.0, 20.0])[3:]:
        shutil.copy(path, folder / path.name)
    assert cohort.ingest(client=client).new == 2
    after = catalog(cohort)
    assert {k: after[k] for k in before} == before
    assert all(p.stat().st_mtime_ns == t for p, t in files.items() if p.is_file())
    assert len({row["series"] for row in after.values()}) == 1
    assert len({row["stack"] for row in after.values()}) == 2
    assert cohort.verify().ok


def test_a_copy_of_a_file_has_a_name_of_its_own_and_no_pixels(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    folder = tmp_path / "data"
    paths = put_series(folder / "a", [0.0, 5.0, 10.0])
    shutil.copytree(folder / "a", folder / "b")
    report = cohort.ingest(folder, client=client)
    assert (report.new, report.duplicates) == (6, 3)
    rows = catalog(cohort)
    assert sum("~" in name for name in rows) == 3
    assert len({row["stack"] for row in rows.values()}) == 1
    again = cohort.ingest(client=client, rehash=True)  # and each keeps its name
    assert (again.new, again.changed, again.touched) == (0, 0, 6)
    assert {k: r["source"] for k, r in catalog(cohort).items()} == {
        k: r["source"] for k, r in rows.items()
    }
    # An instance whose file is gone belongs to the file that brings it next.
    # A file that moved is the same image.
    moved = folder / "z"
    held = {p: row for p, row in revealed(cohort, folder).items() if "~" not in row["image_id"]}
    shutil.move(Path(next(iter(held))).parent, moved)
    report = cohort.ingest(client=client)
    assert (report.touched, report.orphaned) == (3, 0)
    assert {row["image_id"] for row in revealed(cohort, moved).values()} == {
        row["image_id"] for row in held.values()
    }
    first = next(p for p, row in revealed(cohort, folder).items() if "~" not in row["image_id"])
    shutil.move(Path(first).parent, tmp_path / "gone")
    assert cohort.ingest(client=client).orphaned == 3
    (folder / "c").mkdir()
    shutil.copy(tmp_path / "gone" / paths[0].name, folder / "c")
    cohort.ingest(client=client)
    back = revealed(cohort, folder / "c")[str(folder / "c" / paths[0].name)]
    assert "~" not in back["image_id"]
    assert (back["state"], back["version"]) == ("ready", 5)
    assert cohort.verify().ok


def test_blank_planes_of_two_series_keep_their_places(
    cohort: engine.Cohort, tmp_path: Path, client: Client
) -> None:
    for name in ("one", "two"):
        for z in range(3):
            put_dicom(tmp_path / "data" / name / str(z), np.zeros((8, 8), "<i2"), InstanceNumber=z,
                      SeriesInstanceUID=uid(name), ImagePositionPatient=[0, 0, z])  # fmt: skip
    cohort.ingest(tmp_path / "data", client=client)
    rows = catalog(cohort).values()
    assert len({(r["stack"], r["z"]) for r in rows}) == 6
    assert sum(r["duplicate_of"] is not None for r in rows) == 5


class Rescaled(Counting):
    """An operation that reads slope and intercept."""

    name: ClassVar[str] = "rescaled"
    inputs: ClassVar[tuple[str, ...]] = ("content", "rescale")


def test_units_and_a_changed_slope(cohort: engine.Cohort, tmp_path: Path, client: Client) -> None:
    folder = tmp_path / "data"
    pixels = np.arange(64, dtype="<u2").reshape(8, 8)
    both = {"RescaleSlope": 2, "RescaleIntercept": -1024}
    put_dicom(folder / "both", pixels, SeriesInstanceUID=uid(1), **both)
    put_dicom(folder / "none", pixels, SeriesInstanceUID=uid(2))
    cohort.ingest(folder, client=client)
    rows = revealed(cohort, folder)
    both_id, none_id = (rows[str(folder / name)]["image_id"] for name in ("both", "none"))
    images, stored = cohort.images(), cohort.images(stored=True)
    assert np.array_equal(images.by_id(both_id).values[0], pixels * 2.0 - 1024)
    assert np.array_equal(stored.by_id(both_id).values[0], pixels)
    assert images.by_id(none_id).dtype == np.uint16
    operation = Rescaled(log=str(tmp_path / "log"))
    cohort.run(operation, client=client)
    assert len(computed(operation.log)) == 2  # the same pixels, but other inputs
    put_dicom(folder / "both", pixels, SeriesInstanceUID=uid(1), **{**both, "RescaleSlope": 3})
    cohort.ingest(client=client)
    assert cohort.plan(operation).causes == {"inputs": 1}


@needs_sunnybrook
def test_sunnybrook(cohort: engine.Cohort, client: Client) -> None:
    report = cohort.ingest(DATA / "sunnybrook", client=client)
    assert (report.new, report.failed) == (54, 0)
    assert report.findings == {"study_date_invalid": 54, "frame_of_reference_differs": 54}
    stacks = {row["stack"] for row in catalog(cohort).values()}
    shapes = [cohort.stacks()[f"/{name}/0"]["pixels"].shape for name in stacks]
    assert shapes == [(2, 1, 9, 256, 256)] * 3
    rows = revealed(cohort, DATA / "sunnybrook" / "dicoms")
    images = cohort.images()
    for path, row in rows.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = pydicom.dcmread(path).pixel_array
        assert np.array_equal(images.by_id(row["image_id"]).values[0], pixels)
