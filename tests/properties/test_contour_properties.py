"""Properties of contours: masks against an independent rule, areas against each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import points_in_poly

from engine.kernels.contours.checks import canonical_ring, share_inside
from engine.kernels.contours.geometry import area_px, centroid, fill_contour, ring_area_px
from engine.kernels.contours.trace import trace_mask

SEEDS = st.integers(0, 2**32 - 1)
SHAPE = (41, 53)


def star(seed: int, reach: float = 18.0) -> NDArray[np.float64]:
    """Return a ring that does not cross itself: points around a centre, sorted by angle."""
    random = np.random.default_rng(seed)
    count = int(random.integers(5, 40))  # never half a turn without a point
    angle = (np.arange(count) + random.uniform(0, 0.9, count)) * (2 * np.pi / count)
    radius = random.uniform(0.3, 1.0, len(angle)) * reach
    centre = random.uniform(18, 24, 2)
    return centre + np.stack([radius * np.sin(angle), radius * np.cos(angle)], axis=1)


def centres() -> NDArray[np.float64]:
    """Return the centres of all pixels, y and x."""
    return np.stack(np.mgrid[: SHAPE[0], : SHAPE[1]], axis=-1).reshape(-1, 2).astype(float)


@settings(deadline=None)
@given(SEEDS)
def test_a_mask_holds_the_centres_that_another_implementation_finds_inside(seed: int) -> None:
    """Any polygon, crossing itself and leaving the image; no centre lies on an outline."""
    points = np.random.default_rng(seed).uniform(-8, 60, (9, 2))
    inside = points_in_poly(centres(), points).reshape(SHAPE)
    assert (fill_contour([points], SHAPE) == inside).all()


@settings(deadline=None)
@given(SEEDS, SEEDS)
def test_rings_together_are_the_exclusive_or_of_each(first: int, second: int) -> None:
    one, other = star(first), star(second)
    both = fill_contour([one], SHAPE) ^ fill_contour([other], SHAPE)
    assert (fill_contour([one, other], SHAPE) == both).all()


@settings(deadline=None)
@given(SEEDS, st.integers(1, 30))
def test_parts_of_a_polygon_share_no_pixel_and_leave_none_out(seed: int, cut: int) -> None:
    """On a grid of half pixels, where centres lie on outlines all the time."""
    ring = np.round(star(seed) * 2) / 2
    other = cut % (len(ring) - 2) + 1
    parts = ring[: other + 1], np.vstack([ring[other:], ring[:1]])
    filled = [fill_contour([part], SHAPE) for part in parts]
    assert (filled[0] ^ filled[1] == fill_contour([ring], SHAPE)).all()


@settings(deadline=None)
@given(SEEDS)
def test_the_area_of_a_mask_is_that_of_its_polygon_to_within_its_outline(seed: int) -> None:
    ring = star(seed)
    length = np.hypot(*(ring - np.roll(ring, 1, axis=0)).T).sum()
    inside = fill_contour([ring], SHAPE).sum()
    assert abs(inside - area_px([ring])) <= 0.5 * length
    # A grid ten times finer: the difference is that of the outline's pixels, and shrinks with it.
    fine = fill_contour([(ring + 0.5) * 10 - 0.5], (420, 540)).sum() / 100
    assert fine == pytest.approx(area_px([ring]), abs=0.05 * length)


@settings(deadline=None)
@given(SEEDS, st.integers(0, 40), st.floats(-1e4, 1e4), st.floats(0.1, 10))
def test_the_shoelace_knows_no_beginning_place_or_turn(
    seed: int, start: int, move: float, factor: float
) -> None:
    ring = star(seed)
    area = ring_area_px(ring)
    assert ring_area_px(np.roll(ring, start, axis=0)) == pytest.approx(area, rel=1e-9)
    assert ring_area_px(ring[::-1]) == pytest.approx(-area, rel=1e-9)
    assert ring_area_px(ring + move) == pytest.approx(area, rel=1e-6)
    assert ring_area_px(ring * factor) == pytest.approx(area * factor**2, rel=1e-9)
    assert ring_area_px(np.vstack([ring, ring[:1]])) == pytest.approx(area, rel=1e-9)
    y, x = centroid([ring])
    assert centroid([np.roll(ring, start, axis=0) + 7]) == pytest.approx((y + 7, x + 7), rel=1e-6)


@settings(deadline=None)
@given(SEEDS, SEEDS)
def test_what_a_contour_holds_is_a_share(first: int, second: int) -> None:
    one, other = [star(first)], [star(second)]
    assert share_inside(one, one) == 1.0
    assert 0.0 <= share_inside(one, other) <= 1.0
    # As pixels of a tenth say it, to within what the outlines cover of them.
    fine = [fill_contour([(c[0] + 0.5) * 10 - 0.5], (420, 540)) for c in (one, other)]
    shared = (fine[0] & fine[1]).sum() / fine[0].sum()
    assert share_inside(one, other) == pytest.approx(shared, abs=0.05)
    large = [np.array([[-1.0, -1.0], [-1.0, 60.0], [60.0, 60.0], [60.0, -1.0]])]
    assert share_inside(one, large) == 1.0


@settings(deadline=None)
@given(SEEDS, st.floats(0.0, 1.0))
def test_a_traced_mask_is_filled_as_it_was(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((13, 17)) < share
    rings = trace_mask(mask)
    assert (fill_contour(rings, mask.shape) == mask).all()
    assert sum(map(ring_area_px, rings)) == mask.sum() == pytest.approx(area_px(rings))


@settings(deadline=None)
@given(SEEDS, st.integers(0, 40))
def test_a_canonical_ring_is_the_same_from_any_start(seed: int, start: int) -> None:
    ring = star(seed)
    again = canonical_ring(np.roll(ring, start, axis=0)[::-1])
    assert (again == canonical_ring(ring)).all()
