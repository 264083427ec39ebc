"""What `contours` and `bloodpool` say of an image, and what tables make of many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import engine
from engine.errors import ParameterError
from engine.geometry import plan_tiles
from engine.kernels.contours.union import union_of
from engine.kernels.contours.ventricle import MYOCARDIUM_G_ML
from engine.kernels.segmentation.bloodpool import segment_bloodpool
from engine.operations.base import Image, ImageFailed, Operation
from engine.operations.cardiac.findings import CHECKS
from engine.operations.cardiac.tables import REASONS
from engine.store.catalog.annotations import Contour
from engine.store.catalog.tables import READY, ImageRow, image_table
from engine.store.results import result_schema

SHAPE = (100, 120)


def circle(radius: float, y: float = 50.0, x: float = 60.0, count: int = 200) -> NDArray[Any]:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([y + radius * np.sin(angle), x + radius * np.cos(angle)], axis=1)


def drawn(annotation: str = "a", **structures: NDArray[Any]) -> tuple[Contour, ...]:
    return tuple(Contour(annotation, name, (ring,)) for name, ring in structures.items())


def nested(*rings: NDArray[Any]) -> tuple[Contour, ...]:
    return (Contour("a", "inner", union_of([[ring] for ring in rings])),)


def image(*contours: Contour, plane: NDArray[Any] | None = None, um: float | None = 2000) -> Image:
    pixels = np.zeros(SHAPE, np.uint16) if plane is None else plane
    spacing = None if um is None else (um, um)
    return Image(pixels[None], spacing_um=spacing, annotations=contours)


def rows(operation: Operation, one: Image) -> list[dict[str, Any]]:
    """Return the objects found, after they passed through the ledger's types."""
    found = operation.measure(one)
    columns = {f.name: pa.array(found[f.name], f.type) for f in operation.object_schema}
    return pa.table(columns).to_pylist()


Plane = tuple[Mapping[str, Any], Image]


def tables(operation: Operation, planes: Sequence[Plane]) -> dict[str, pd.DataFrame]:
    """Return the summaries of some images, reduced in slices of three."""
    from engine.tables.build import TableContext, build_slice

    catalog, results = [], []
    for n, (about, one) in enumerate(planes):
        row = {"state": READY, "source": f"root/s/{n:03d}", "content": f"{n}", "shard": 0,
               "channels": 1, "height": SHAPE[0], "width": SHAPE[1], "dtype": "uint16",
               "spacing_y_um": 2000.0, "spacing_x_um": 2000.0, "spacing_z_um": 1e4}  # fmt: skip
        catalog.append(ImageRow(image_id=f"i{n:03d}", **{**row, **about}))
        results.append({"image_id": f"i{n:03d}", "status": "done", "key": "k",
                        "objects": rows(operation, one)})  # fmt: skip
    images = image_table(catalog).append_column("annotation", pa.nulls(len(catalog), pa.string()))
    from engine.runs.input_digests import image_inputs

    inputs = image_inputs(operation, images)
    schema = result_schema(operation.object_schema)
    table = pa.Table.from_pylist(
        [{**row, "inputs": of} for row, of in zip(results, inputs, strict=True)], schema=schema
    )
    parts = [
        build_slice(operation, images.slice(start, 3), table, TableContext())["summaries"]
        for start in range(0, len(planes), 3)
    ]
    left = operation.merge_summaries([operation.merge_summaries(parts[:2]), *parts[2:]])
    whole = operation.merge_summaries(parts)
    assert left.equals(whole)
    return {name: t.to_pandas() for name, t in operation.finish_summaries(whole).items()}


def findings(operation: Operation, planes: Sequence[Plane]) -> list[tuple[str, str, str]]:
    found = tables(operation, planes)["contour_findings"]
    assert set(found["check"]) <= set(CHECKS)
    assert found["means"].str.len().min() > 20 or found.empty
    return list(zip(found["check"], found["severity"], found["image_id"], strict=True))


def of(stack: str | None = None, t: int = 0, z: int | None = None, subject: str = "s") -> Any:
    return {"stack": stack, "t": t, "z": z, "fields": {"subject": subject}}


# one image


def test_areas_and_walls_are_in_physical_units() -> None:
    inner, outer = rows(
        engine.contours(), image(*drawn(inner=circle(20), outer=circle(30)), um=1500)
    )
    assert inner["area_mm2"] == pytest.approx(math.pi * 30**2, rel=1e-3)
    assert outer["area_mm2"] == pytest.approx(math.pi * 45**2, rel=1e-3)
    assert (inner["inside_share"], outer["inside_share"]) == (1.0, None)
    assert outer["thickness_mean_mm"] == pytest.approx(15.0, rel=1e-2)
    assert abs(inner["mask_gap"]) < 0.01
    assert (inner["y"], inner["x"]) == pytest.approx((50.0, 60.0))
    assert (inner["crossings"], inner["outside_share"], inner["rings"]) == (0, 0.0, 1)
    without = rows(engine.contours(), image(*drawn(inner=circle(20), outer=circle(30)), um=None))
    assert without[0]["area_mm2"] is None
    assert without[0]["area_px"] == pytest.approx(math.pi * 400, rel=1e-3)
    assert rows(engine.contours(), image()) == []


def test_a_contour_on_a_giant_image_belongs_to_one_block() -> None:
    """Each block gets all that is drawn; the one that holds the centre answers, of the whole."""
    contours = drawn(one=circle(20, y=50, x=60), beyond=circle(9, y=-3, x=99))
    whole = rows(engine.contours(), image(*contours))
    found = []
    for tile in plan_tiles(SHAPE, (40, 50), 0):
        part = np.zeros(tile.read.shape, np.uint16)
        block = Image(
            part[None],
            spacing_um=(2000, 2000),
            origin=tile.read.start,
            core_region=tile.write,
            annotations=contours,
            full_shape=SHAPE,
        )
        found += rows(engine.contours(), block)
    assert sorted(found, key=str) == sorted(whole, key=str)
    with pytest.raises(ImageFailed, match="giant_image"):
        engine.bloodpool(outer="one").measure(block)


def test_a_set_is_chosen_where_several_draw_the_same() -> None:
    both = image(*drawn("a", inner=circle(20)), *drawn("b", inner=circle(22)))
    with pytest.raises(ImageFailed, match="several_annotations"):
        engine.contours().measure(both)
    with pytest.raises(ImageFailed, match="several_annotations"):
        engine.bloodpool().measure(both)
    (row,) = rows(engine.contours(annotations="b"), both)
    assert row["area_px"] == pytest.approx(math.pi * 22**2, rel=1e-2)
    with pytest.raises(ParameterError):
        engine.contours(least_inside=1.5)


def test_outlines_are_as_drawn() -> None:
    operation = engine.contours()
    found = rows(operation, image(*drawn(inner=circle(20), outer=circle(30))))
    columns = {name: np.array([row[name] for row in found], object) for name in found[0]}
    outlines = operation.outlines(columns)
    assert [outline.label for outline in outlines] == ["inner", "outer"]
    assert np.allclose(outlines[0].points, circle(20), atol=1e-5)
    assert "outline" not in operation.frame({k: list(v) for k, v in columns.items()}).columns


def test_the_blood_pool_is_found_by_its_brightness() -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    plane = np.full(SHAPE, 900, np.uint16)  # bright fat all around
    plane[(y - 50) ** 2 + (x - 60) ** 2 <= 30**2] = 150
    plane[(y - 50) ** 2 + (x - 60) ** 2 <= 20**2] = 600
    plane[45:50, 55:59] = 160  # a papillary muscle, that people draw around
    heart = drawn(inner=circle(20), outer=circle(29))
    operation = engine.bloodpool()
    (row,) = rows(operation, image(*heart, plane=plane))
    assert row["dice"] > 0.97
    assert 160 <= row["threshold"] < 600
    assert row["area_ratio"] == pytest.approx(1.0, abs=0.05)
    (unscored,) = rows(operation, image(*drawn(outer=circle(29)), plane=plane))
    assert (unscored["dice"], unscored["area_px"]) == (None, row["area_px"])
    assert rows(operation, image(*drawn(inner=circle(20)), plane=plane)) == []
    with pytest.raises(ImageFailed, match="one_grey_level"):
        operation.measure(image(*heart))
    with pytest.raises(ImageFailed, match="no_such_channel"):
        engine.bloodpool(channel=1).measure(image(*heart, plane=plane))
    assert math.isnan(segment_bloodpool(plane, np.zeros(SHAPE, bool))[1])
    (outline,) = operation.outlines({"outline": np.array([row["outline"]], object)})
    assert outline.points[:, 0].mean() == pytest.approx(50.0, abs=2)
    scores = tables(operation, [(of(subject=s), image(*heart, plane=plane)) for s in "aab"])
    table = scores["bloodpool_by_subject"].set_index("subject")
    assert table.loc["a", ["images", "scored"]].tolist() == [2, 2]
    assert table.loc["b", "dice_min"] == pytest.approx(row["dice"])


# findings


def test_each_check_finds_what_it_is_for_and_nothing_else() -> None:
    operation = engine.contours()
    eight = np.array([[30.0, 30], [60, 60], [60, 30], [30, 60]])
    cases: list[tuple[tuple[Contour, ...], str | None, str]] = [
        (drawn(inner=circle(20), outer=circle(30)), None, ""),
        (drawn(inner=circle(20), outer=circle(20)), None, ""),
        (drawn(inner=circle(20), outer=circle(30, y=66)), "not_contained", "error"),
        (drawn(inner=eight), "self_intersection", "error"),
        (nested(circle(20), circle(9)), "nested", "warning"),
        (nested(circle(20), circle(9, x=85)), None, ""),  # overlaps
        (drawn(inner=circle(20)[:150]), "unclosed", "error"),
        (drawn(inner=circle(20, x=110)), "outside_image", "error"),
        (drawn(inner=circle(1.2, count=12)), "mask_area", "warning"),
        (drawn(inner=circle(0.3)), "no_area", "error"),
        (drawn(inner=np.array([[40.0, 40], [40, 60], [60, 60], [60, 40]])), None, ""),
    ]
    planes = [(of(), image(*contours)) for contours, _, _ in cases]
    expected = [(c, s, f"i{n:03d}") for n, (_, c, s) in enumerate(cases) if c is not None]
    found = findings(operation, planes)
    assert [f for f in found if f[:3:2] != ("mask_area", "i009")] == expected
    loose = engine.contours(least_inside=0.3, mask_tolerance=0.9)
    assert "not_contained" not in {check for check, _, _ in findings(loose, planes)}


def test_jumps_between_slices_are_found_where_they_are() -> None:
    """Two phases of five slices, 2 mm pixels; in one, the fourth slice is 5.5 pixels off."""
    planes = [
        (of("k", t, z), image(*drawn(inner=circle(20 - z, y=50.0 + z + 5.5 * ((t, z) == (1, 3))))))
        for t in (0, 1)
        for z in range(5)
    ]
    assert findings(engine.contours(), planes) == [
        ("centroid_jump", "warning", "i008"),  # from 52 to 58.5: 13 mm; back to 54 is 9
    ]
    assert findings(engine.contours(jump_mm=15.0), planes) == []
    shuffled = [planes[n] for n in (4, 9, 0, 7, 2, 8, 1, 5, 6, 3)]
    assert [f[0] for f in findings(engine.contours(), shuffled)] == ["centroid_jump"]


def test_the_same_contour_under_two_patients_is_found_in_both() -> None:
    ring = circle(20, count=60)
    planes = [
        (of(subject="a"), image(*drawn(inner=ring))),
        (of(subject="b"), image(*drawn(outer=np.roll(ring, 7, axis=0)[::-1]))),
        (of(subject="a"), image(*drawn(inner=ring))),
        (of(subject="c"), image(*drawn(inner=ring + 0.5))),
    ]
    found = tables(engine.contours(), planes)["contour_findings"]
    assert found["image_id"].tolist() == ["i000", "i001", "i002"]
    assert found["figure"].tolist() == [1.0, 2.0, 1.0]
    assert set(found["check"]) == {"duplicate"}
    # Within one patient a contour may well stay as it is.
    assert findings(engine.contours(), [planes[0], planes[2]]) == []


# volumes


def heart(t: int, slices: Sequence[int] = range(5), outer: Sequence[int] = range(5)) -> list[Plane]:
    """Return the slices of a ventricle that is smaller at later phases."""
    planes = []
    for z in sorted({*slices, *outer}):
        shapes = {}
        if z in slices:
            shapes["inner"] = circle(20.0 - 3 * t)
        if z in outer:
            shapes["outer"] = circle(28.0)
        planes.append((of("k", t, z), image(*drawn(**shapes))))
    return planes


def test_volumes_ejection_fraction_and_mass_are_those_of_cylinders() -> None:
    found = tables(engine.contours(), [*heart(0), *heart(1), *heart(2)])
    volumes = found["contour_volumes"].set_index("phase")
    area = 0.5 * 200 * math.sin(2 * math.pi / 200)  # of a circle of radius 1, as a polygon
    expected = [5 * 10 * area * (2.0 * (20 - 3 * t)) ** 2 / 1000 for t in range(3)]
    assert volumes["inner_volume_ml"].tolist() == pytest.approx(expected)
    assert volumes["slices"].tolist() == [5, 5, 5]
    (function,) = found["contour_function"].to_dict("records")
    assert (function["end_diastole"], function["end_systole"]) == (0, 2)
    assert function["ejection_fraction_percent"] == pytest.approx(100 * (1 - (14 / 20) ** 2))
    wall = 5 * 10 * area * 4 * (28**2 - 20**2) / 1000
    assert function["mass_g"] == pytest.approx(wall * MYOCARDIUM_G_ML)
    quantities = found["contour_quantities"]
    assert len(quantities) == 15
    assert quantities["thickness_mean_mm"].iloc[0] == pytest.approx(16.0, rel=1e-2)
    assert (quantities["outer_area_mm2"] > quantities["inner_area_mm2"]).all()


def test_what_can_not_be_said_is_null_with_a_reason() -> None:
    def function(planes: list[Plane]) -> dict[str, Any]:
        found = tables(engine.contours(), planes)
        said = [
            *found["contour_volumes"]["inner_reason"],
            *found["contour_volumes"]["outer_reason"],
        ]
        assert {reason for reason in said if isinstance(reason, str)} <= set(REASONS)
        rows = found["contour_function"].to_dict("records")
        return rows[0] if rows else {}

    one = function(heart(0))
    assert math.isnan(one["ejection_fraction_percent"])
    assert one["ejection_fraction_reason"] == "one_phase"
    assert one["mass_g"] > 0
    gap = function([*heart(0, (0, 1, 3, 4)), *heart(1)])
    assert (gap["phases"], gap["ejection_fraction_reason"]) == (1, "one_phase")
    few = function([*heart(0), *heart(1, (2, 3)), *heart(2)])
    assert (few["phases"], few["end_systole"]) == (2, 2)
    bare = function([*heart(0, outer=()), *heart(1)])
    assert bare["mass_reason"] == "outer_missing"
    assert bare["ejection_fraction_percent"] == pytest.approx(100 * (1 - (17 / 20) ** 2))
    short = function([*heart(0, outer=(1, 2, 3)), *heart(1)])
    assert short["mass_reason"] == "outer_missing"
    flat = [({**about, "spacing_z_um": None}, one) for about, one in heart(0)]
    assert function(flat)["ejection_fraction_reason"] == "no_slice_spacing"
    assert function([({**about, "z": None}, one) for about, one in heart(0)]) == {}
    only_outer = function(heart(0, slices=()))
    assert only_outer["ejection_fraction_reason"] == "inner_missing"


def test_a_slice_that_is_not_drawn_is_found_where_its_volume_is_null() -> None:
    planes = [*heart(0, (0, 1, 4), outer=(0, 1, 2, 3, 4)), *heart(1)]
    made = tables(engine.contours(), planes)
    found = made["contour_findings"]
    assert found["check"].tolist() == ["slice_missing"]
    assert (found["structure"].item(), found["figure"].item()) == ("inner", 2.0)
    assert found["image_id"].item() == "i004"
    volumes = made["contour_volumes"].fillna({"inner_reason": ""})
    assert volumes["inner_reason"].tolist() == ["slice_missing", ""]
    of_others = [
        (about, image(*drawn(lesion=circle(20.0)))) for about, _ in heart(0, (0, 4), outer=())
    ]
    assert findings(engine.contours(), of_others) == []


# slices that a series lacks


def prism(places: Sequence[float], t: int = 0, stack: str = "k", **about: Any) -> list[Plane]:
    """Return slices of a cylinder at these places, mm; the usual distance is 8 mm."""
    known = {"orientation": (1.0, 0, 0, 0, 1.0, 0), "series": "a", "spacing_z_um": 8e3, **about}
    return [
        ({**of(stack, t, z), **known, "position_mm": (0.0, 0.0, place)},
         image(*drawn(inner=circle(20.0), outer=circle(28.0))))
        for z, place in enumerate(places)
    ]  # fmt: skip


DISC_ML = 100 * math.sin(2 * math.pi / 200) * 40.0**2 / 1000  # of a slice of 1 mm


@pytest.mark.parametrize(
    ("places", "length_mm", "reason", "found"),
    [
        ((0, 8, 16, 24), 32.0, None, []),
        ((24, 16, 8, 0), 32.0, None, []),  # slices may descend along the normal
        ((0, 8, 24, 32), None, "slice_gap", [("slice_gap", 16.0)]),
        ((0, 16), None, "slice_gap", [("slice_gap", 16.0)]),
        ((0, 8, 18, 26), 34.0, None, [("uneven_slices", 10.0)]),
        ((0, 8, 16.1), 24.0, None, []),
    ],
)
def test_a_volume_that_lacks_a_slice_is_null_and_found(
    places: Sequence[float], length_mm: float | None, reason: str | None, found: list[Any]
) -> None:
    made = tables(engine.contours(), prism(places))
    (volume,) = (
        made["contour_volumes"].fillna({"inner_reason": "", "outer_reason": ""}).to_dict("records")
    )
    for structure in ("inner", "outer"):
        assert volume[f"{structure}_reason"] == (reason or "")
    if length_mm is not None:
        assert volume["inner_volume_ml"] == pytest.approx(length_mm * DISC_ML)
    else:
        assert math.isnan(volume["inner_volume_ml"])
        assert made["contour_function"]["ejection_fraction_reason"].tolist() == [reason]
    findings = made["contour_findings"]
    assert list(zip(findings["check"], findings["figure"], strict=True)) == found
    assert (findings["severity"] == "warning").all()


def test_a_gap_beyond_what_is_drawn_changes_nothing() -> None:
    planes = prism((0, 8, 16, 32))
    planes[3] = (planes[3][0], image())
    made = tables(engine.contours(), planes)
    assert made["contour_volumes"]["inner_volume_ml"].tolist() == pytest.approx([24 * DISC_ML])
    assert made["contour_findings"].empty


def test_a_phase_that_lacks_a_plane_has_no_volume() -> None:
    flagged = {"findings": ("missing_planes",)}
    planes = [*prism((0, 8, 16), **flagged), *prism((0, 8), t=1, **flagged)]
    volumes = tables(engine.contours(), planes)["contour_volumes"].set_index("phase")
    assert volumes["inner_reason"].fillna("").tolist() == ["", "plane_missing"]
    assert volumes["slices"].tolist() == [3, 2]
    # In a plane that is there nothing need be drawn: the base moves away.
    undrawn = [*planes, (prism((0, 8, 16), t=1, **flagged)[2][0], image())]
    made = tables(engine.contours(), undrawn)
    assert made["contour_volumes"]["inner_reason"].isna().all()
    assert made["contour_function"]["ejection_fraction_percent"].tolist() == pytest.approx(
        [100 / 3]
    )
    assert len(made["contour_quantities"]) == 5


def test_slices_that_came_later_are_not_left_out_without_a_word() -> None:
    for late in (prism((24,), stack="later"), prism((24,), stack="flat", z=None)):
        made = tables(engine.contours(), [*prism((0, 8, 16)), *late])
        assert made["contour_volumes"]["inner_reason"].iloc[0] == "in_parts"
    # The same slices twice, as of a second acquisition, are two volumes.
    twice = tables(engine.contours(), [*prism((0, 8, 16)), *prism((0, 8, 16), stack="again")])
    assert twice["contour_volumes"]["inner_volume_ml"].tolist() == pytest.approx([24 * DISC_ML] * 2)
