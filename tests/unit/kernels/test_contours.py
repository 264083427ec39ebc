"""Contours: what a polygon covers, how large it is, what is wrong with it, and the heart's wall."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels.contours.checks import (
    canonical_ring,
    closing_gap_px,
    count_crossings,
    share_inside,
    share_outside_image,
)
from engine.kernels.contours.geometry import (
    area_mm2,
    area_px,
    centroid,
    count_inside,
    edges_of,
    fill_contour,
    holds_point,
    paint_contour,
    ring_area_px,
)
from engine.kernels.contours.trace import trace_mask
from engine.kernels.contours.ventricle import (
    ejection_fraction,
    myocardial_mass_g,
    volume_ml,
    wall_thickness_mm,
)


def box(top: float, left: float, bottom: float, right: float) -> NDArray[np.float64]:
    return np.array([[top, left], [top, right], [bottom, right], [bottom, left]], np.float64)


def circle(radius: float, y: float = 0.0, x: float = 0.0, count: int = 400) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([y + radius * np.sin(angle), x + radius * np.cos(angle)], axis=1)


def test_small_masks_follow_the_rule_for_centres_on_the_outline() -> None:
    # Left and top are inside, right and bottom are not: 2 x 3 of the 3 x 4 centres that it meets.
    assert np.argwhere(fill_contour([box(1, 1, 3, 4)], (5, 6))).tolist() == [
        [y, x] for y in (1, 2) for x in (1, 2, 3)
    ]
    halves = fill_contour([box(0, 0, 2, 2)], (2, 4)) ^ fill_contour([box(0, 2, 2, 4)], (2, 4))
    assert halves.all()  # no pixel twice, none left out


def test_small_parts_are_painted_as_the_whole_is() -> None:
    rings = [circle(4.3, 5.2, 6.1, 30), circle(1.7, 5.0, 6.0, 9)]
    whole = fill_contour(rings, (12, 12))
    for top, left, bottom, right in ((0, 0, 12, 12), (3, 5, 9, 12), (6, 0, 7, 1), (0, 0, 1, 1)):
        labels = np.full((bottom - top, right - left), 9, np.uint8)
        paint_contour(labels, rings, 2, corner=(top, left))
        expected = np.where(whole[top:bottom, left:right], 2, 9)
        np.testing.assert_array_equal(labels, expected)
    labels = np.ones((3, 3), np.uint8)
    paint_contour(labels, [], 2)
    assert labels.all()


def test_small_holes_and_islands_are_even_odd() -> None:
    rings = [box(-0.5, -0.5, 8.5, 8.5), box(1.5, 1.5, 6.5, 6.5), box(3.5, 3.5, 4.5, 4.5)]
    mask = fill_contour(rings, (9, 9))
    assert (mask[0, 0], mask[2, 2], mask[4, 4]) == (True, False, True)
    assert area_px(rings) == 81 - 25 + 1 == mask.sum()
    assert centroid(rings) == (4.0, 4.0)
    assert centroid([box(0, 0, 4, 8), box(1, 1, 3, 3)]) == pytest.approx((2.0, 120 / 28))
    assert holds_point(rings, 4.0, 4.0)
    assert not holds_point(rings, 2.0, 2.0)


def test_small_origins_and_borders_are_as_stated() -> None:
    ring = circle(6.0, 10.0, 12.0)
    for origin in (0.0, 0.5, 1.0):
        moved = fill_contour([ring + origin], (24, 24), origin=origin)
        assert (moved == fill_contour([ring], (24, 24))).all()
    whole = np.zeros((40, 40), bool)
    whole[8:32, 8:32] = fill_contour([ring], (24, 24))
    beyond = fill_contour([ring - 10.0], (9, 40))
    assert (beyond == fill_contour([ring], (19, 50))[10:, 10:]).all()
    assert not fill_contour([ring - 100.0], (9, 9)).any()
    assert fill_contour([box(-50, -50, 50, 50)], (9, 9)).all()
    for shift in (0.0, -10.0, -100.0, 15.25):
        rings = [ring + shift]
        assert count_inside(rings, (24, 30)) == fill_contour(rings, (24, 30)).sum()
    assert not fill_contour([], (3, 3)).any()


def test_what_is_no_ring_or_no_shape_is_refused() -> None:
    with pytest.raises(ParameterError, match="shape"):
        fill_contour([np.zeros((3, 3))], (4, 4))
    with pytest.raises(ParameterError, match="finite"):
        edges_of([np.array([[0.0, np.nan]])])
    with pytest.raises(ParameterError, match="positive"):
        fill_contour([], (0, 4))
    with pytest.raises(ParameterError, match="bool"):
        trace_mask(np.zeros((2, 2)))


def test_areas_are_in_square_millimetres_of_rows_and_columns() -> None:
    assert area_mm2([box(0, 0, 10, 4)], (2.0, 0.5)) == 40.0
    assert ring_area_px(np.zeros((2, 2))) == 0.0
    assert centroid([np.array([[1.0, 1.0], [3.0, 5.0]])]) == (2.0, 3.0)


def test_small_shares_of_areas() -> None:
    inner, outer = [circle(20.0, 40, 40)], [circle(30.0, 40, 40)]
    assert share_inside(inner, inner) == share_inside(inner, outer) == 1.0
    assert share_inside(outer, inner) == pytest.approx(4 / 9, rel=2e-4)
    assert share_inside([box(0, 0, 10, 10)], [box(0, 0, 10, 10), box(2, 2, 8, 8)]) == 0.64
    assert math.isnan(share_inside([], outer))
    assert math.isnan(share_inside([np.array([[0.0, 0.0], [0.0, 9.0]])], outer))
    assert share_outside_image(inner, (100, 100)) == 0.0
    assert share_outside_image([circle(20.0, -0.5, 50)], (100, 100)) == pytest.approx(0.5, abs=1e-3)
    assert share_outside_image([np.array([[3.0, 3.0], [3.0, 200.0]])], (100, 100)) == 1.0


def test_small_crossings_are_counted_and_touches_are_not() -> None:
    eight = np.array([[0.0, 0.0], [4.0, 4.0], [4.0, 0.0], [0.0, 4.0]])
    assert count_crossings([eight]) == 1
    assert count_crossings([box(0, 0, 4, 4)]) == 0
    assert count_crossings([box(0, 0, 4, 4), box(2, 2, 6, 6)]) == 2
    spike = np.array([[0.0, 0.0], [0.0, 4.0], [0.0, 6.0], [0.0, 4.0], [4.0, 4.0], [4.0, 0.0]])
    assert count_crossings([spike]) == 0


def test_gaps_of_closed_and_open_rings() -> None:
    ring = circle(20.0)
    gap, longest = closing_gap_px(ring)
    assert gap == pytest.approx(longest)
    assert closing_gap_px(np.vstack([ring, ring[:1]]))[0] == 0.0
    assert closing_gap_px(ring[:300])[0] > 20.0
    assert closing_gap_px(ring[:1]) == (0.0, 0.0)


def test_a_ring_is_known_again_wherever_it_begins() -> None:
    ring = circle(20.0, count=37)
    for other in (np.roll(ring, 11, axis=0), ring[::-1], np.vstack([ring, ring[:1]])):
        assert (canonical_ring(other) == canonical_ring(ring)).all()
    assert canonical_ring(np.ones((4, 2))).tolist() == [[1.0, 1.0]]


def test_small_masks_are_traced_exactly() -> None:
    mask = np.array([[1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], bool)
    rings = trace_mask(mask)
    assert (fill_contour(rings, mask.shape) == mask).all()
    assert sum(map(ring_area_px, rings)) == mask.sum()
    assert trace_mask(np.zeros((3, 3), bool)) == []


def test_the_thickness_of_a_wall_is_known_for_circles() -> None:
    inner, outer = [circle(20.0, 50, 50)], [circle(28.0, 50, 50)]
    thickness = wall_thickness_mm(inner, outer, (1.5, 1.5))
    assert thickness == pytest.approx(np.full(100, 12.0), rel=2e-3)
    # Pixels twice as high as wide: the same circles, drawn in those pixels.
    squeezed = [ring * (0.5, 1.0) for ring in (*inner, *outer)]
    assert wall_thickness_mm(squeezed[:1], squeezed[1:], (2.0, 1.0)).mean() == pytest.approx(
        8.0, rel=2e-3
    )
    off = wall_thickness_mm([circle(20.0, 50, 53)], outer, (1.0, 1.0))
    assert (off.min(), off.max()) == pytest.approx((5.0, 11.0), rel=0.02)


def test_a_wall_that_is_not_there_is_not_made_up() -> None:
    inner, outer = [circle(20.0, 50, 50)], [circle(22.0, 50, 53)]  # beyond it at the left
    thickness = wall_thickness_mm(inner, outer, (1.0, 1.0))
    assert np.nanmax(thickness) < 5.5
    assert (thickness == 0.0).sum() > 10
    apart = wall_thickness_mm(inner, [circle(5.0, 200, 200)], (1.0, 1.0))
    assert np.isnan(apart).all()


def test_volumes_are_sums_of_discs() -> None:
    assert volume_ml([500.0, 300.0], 10.0) == 8.0
    assert volume_ml([], 10.0) == 0.0
    assert ejection_fraction(100.0, 40.0) == 60.0
    assert myocardial_mass_g(80.0, 180.0) == pytest.approx(105.0)
