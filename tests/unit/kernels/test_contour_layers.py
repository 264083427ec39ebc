"""Many polygons of one structure: their union, against masks of each and areas that are known."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import points_in_poly

from engine.kernels.contours.checks import (
    count_crossings,
    share_inside,
    share_outside_image,
)
from engine.kernels.contours.geometry import (
    area_px,
    centroid,
    count_inside,
    fill_contour,
    holds_point,
    paint_contour,
)
from engine.kernels.contours.layers import join_layers, split_layers
from engine.kernels.contours.union import outline_edges, union_of
from engine.kernels.contours.ventricle import wall_thickness_mm
from engine.sources.annotations.geojson import GeoJsonReader
from tests.support.geojson_files import write_geojson

SHAPE = (41, 53)
FINE = 8


def box(top: float, left: float, bottom: float, right: float) -> NDArray[np.float64]:
    return np.array([[top, left], [top, right], [bottom, right], [bottom, left]], float)


def star(random: np.random.Generator) -> NDArray[np.float64]:
    count = int(random.integers(3, 20))
    angle = (np.arange(count) + random.uniform(0, 0.9, count)) * (2 * np.pi / count)
    radius = random.uniform(0.4, 1.0, count) * random.uniform(3, 18)
    return random.uniform(8, 34, 2) + np.stack([np.sin(angle), np.cos(angle)], 1) * radius[:, None]


def inside_any(polygons: list[NDArray[np.float64]], factor: int) -> NDArray[np.bool_]:
    """Return which pixels of a grid so many times finer are in one, as scikit-image says."""
    height, width = SHAPE[0] * factor, SHAPE[1] * factor
    centres = np.stack(np.mgrid[:height, :width], axis=-1).reshape(-1, 2)
    found = np.zeros(len(centres), bool)
    for polygon in polygons:
        found |= points_in_poly(centres, (polygon + 0.5) * factor - 0.5)
    return found.reshape(height, width)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_a_union_holds_what_any_of_its_polygons_holds(seed: int) -> None:
    random = np.random.default_rng(seed)
    polygons = [star(random) for _ in range(int(random.integers(1, 6)))]
    union = union_of([[polygon] for polygon in polygons])
    mask = fill_contour(union, SHAPE)
    assert (mask == inside_any(polygons, 1)).all()
    assert count_inside(union, SHAPE) == mask.sum()
    painted = np.zeros((20, 30), np.uint8)
    paint_contour(painted, union, 3, corner=(11, 13))
    assert (painted == 3 * mask[11:31, 13:43]).all()
    assert holds_point(union, 20.0, 25.0) == mask[20, 25]
    # Nothing is moved, and every polygon is there.
    there = sorted(ring.tobytes() for ring in union if len(ring))
    assert there == sorted(polygon.tobytes() for polygon in polygons)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_its_area_and_centre_are_those_of_a_finer_grid(seed: int) -> None:
    random = np.random.default_rng(seed)
    polygons = [star(random) for _ in range(3)]
    union = union_of([[polygon] for polygon in polygons])
    fine = inside_any(polygons, FINE)
    inner = [p for p in polygons if (p > 0).all() and (p < np.array(SHAPE) - 1).all()]
    if len(inner) < 3:
        return
    length = np.hypot(*(outline_edges(union)[:, 2:] - outline_edges(union)[:, :2]).T).sum()
    area = fine.sum() / FINE**2
    assert area_px(union) == pytest.approx(area, abs=0.3 * length / FINE)
    y, x = np.argwhere(fine).mean(axis=0) / FINE - 0.5 + 0.5 / FINE
    assert centroid(union) == pytest.approx((y, x), abs=0.1)
    assert share_inside(union, union) == 1.0
    one = union_of([[polygons[0]]])
    assert share_inside(one, union) == pytest.approx(1.0, abs=2e-3)
    share = inside_any(polygons[:1], FINE).sum() / fine.sum()
    assert share_inside(union, one) == pytest.approx(share, abs=0.02)


AREAS = {
    "overlap": ([box(0, 0, 20, 20), box(10, 10, 30, 30)], 700, 2),
    "apart": ([box(0, 0, 20, 20), box(0, 40, 20, 60), box(40, 0, 60, 20)], 1200, 1),
    "twice the same": ([box(0, 0, 20, 20), box(0, 0, 20, 20)[::-1]], 400, 2),
    "one in the other": ([box(0, 0, 20, 20), box(5, 5, 10, 10)], 400, 2),
    "an edge in common": ([box(0, 0, 20, 20), box(0, 20, 20, 40)], 800, 2),
    "a part of an edge": ([box(0, 0, 20, 20), box(5, 20, 30, 40)], 900, 2),
    "a corner in common": ([box(0, 0, 20, 20), box(20, 20, 30, 30)], 500, 2),
    "a cross": ([box(10, 0, 20, 30), box(0, 10, 30, 20)], 500, 2),
    "in its hole": ([[box(0, 0, 30, 30), box(5, 5, 25, 25)], box(10, 10, 20, 20)], 600, 1),
    "three": ([box(0, 0, 20, 20), box(10, 0, 30, 20), box(20, 0, 40, 20)], 800, 3),
}


@pytest.mark.parametrize("case", AREAS)
def test_areas_that_are_known(case: str) -> None:
    polygons, area, layers = AREAS[case]
    for moved in (0.5, 1e5 + 0.5):  # far out on a slide
        union = union_of(
            [[r + moved for r in (p if isinstance(p, list) else [p])] for p in polygons]
        )
        assert area_px(union) == area
        assert len(split_layers(union)) == layers
        assert count_crossings(union) == 0
        assert count_inside(union, (200_000, 200_000)) == area
    if case == "apart":  # as if it had been drawn at once
        union = union_of([[polygon] for polygon in polygons])
        assert [ring.tolist() for ring in union] == [ring.tolist() for ring in polygons]


def test_holes_are_those_of_their_own_polygon() -> None:
    ring = [box(0, 0, 30, 30), box(10, 10, 20, 20)]
    assert area_px(union_of([ring])) == 800
    # Another polygon fills a part of the hole, and a third lies in what is left of it.
    filled = union_of([ring, [box(5, 5, 15, 15)], [box(16, 16, 18, 18)]])
    assert area_px(filled) == 800 + 25 + 4
    assert fill_contour([r + 0.5 for r in filled], (40, 40)).sum() == 829
    assert share_outside_image([r + 0.5 for r in filled], (10**4, 10**4)) == 0.0
    assert centroid(union_of([[box(0, 0, 20, 20)], [box(10, 0, 30, 20)]])) == (15.0, 10.0)
    # What was stored before there were layers keeps its meaning: rings that overlap, even-odd.
    assert fill_contour([box(0, 0, 20, 20), box(10, 10, 30, 30)], (40, 40)).sum() == 600
    assert area_px(join_layers([[box(0, 0, 2, 2)], [box(0, 0, 2, 2)]])) == 4.0


def test_a_wall_is_as_thick_around_an_inside_of_many_polygons() -> None:
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    circle = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    inner, outer = circle * 20 + 50, circle * 30 + 50
    whole = wall_thickness_mm([inner], [outer], (1.5, 1.5))
    upper = np.vstack([inner[:91]])
    lower = np.vstack([inner[90:], inner[:1]])
    cuts = {
        "halves": union_of([[upper], [lower]]),
        "a copy": union_of([[inner], [inner]]),
        "a part again": union_of([[inner], [circle * 7 + 55]]),
        "overlapping halves": union_of([[np.vstack([inner[:120]])], [lower]]),
    }
    for name, parts in cuts.items():
        thickness = wall_thickness_mm(parts, [outer], (1.5, 1.5))
        assert thickness == pytest.approx(whole, abs=0.02), name
        assert area_px(parts) == pytest.approx(area_px([inner])), name
    outside = union_of([[outer], [circle * 4 + (78, 50)]])
    assert wall_thickness_mm([inner], outside, (1.5, 1.5)).max() > whole.max()


def test_thousands_of_cells_are_one_structure_in_seconds() -> None:
    """A slide's detections, some of which overlap: quadratic work would take minutes."""
    random = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    cell = np.stack([np.sin(angle), np.cos(angle)], axis=1) * 6
    polygons = [cell + place for place in random.uniform(10, 4000, (5_000, 2))]
    (drawing, *_others) = GeoJsonReader().read("a.geojson", write_geojson({"cell": [polygons[0]]}))
    assert drawing.structure == "cell"
    union_of([[polygon] for polygon in polygons[:10]])  # compiled
    area_px(union_of([[polygon] for polygon in polygons[:10]]))
    share_outside_image(polygons[:2], (4100, 4100))
    began = time.process_time()
    union = union_of([[polygon] for polygon in polygons])
    area = area_px(union)
    outside = share_outside_image(union, (4100, 4100))
    spent = time.process_time() - began
    mask = fill_contour(union, (4100, 4100))
    print(f"{len(split_layers(union))} layers, {spent:.1f} s")
    assert mask.sum() == count_inside(union, mask.shape)
    assert mask.sum() == pytest.approx(area, rel=1e-3)
    assert outside == 0.0
    assert spent < 60
