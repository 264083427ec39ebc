"""Noise, measures and luminance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ParameterError
from engine.kernels.circles.measure import MEASURES, measure_circles
from engine.kernels.colour import luminance
from engine.kernels.noise import estimate_noise_windows, merge_noise, noise_sd


@pytest.mark.parametrize("sd", [2.0, 8.0, 20.0, 38.0])
def test_noise_of_known_noise(sd):
    rng = np.random.default_rng(int(sd))
    plane = 128 + rng.normal(0, sd, (512, 512))
    plane[100:220, 50:300] += 60
    assert noise_sd(plane) == pytest.approx(sd, rel=0.12)
    assert noise_sd(np.clip(np.rint(plane), 0, 255).astype(np.uint8)) == pytest.approx(sd, rel=0.12)


def test_small_noise_of_nothing():
    assert noise_sd(np.zeros((64, 70), np.uint8)) == 0
    assert noise_sd(np.zeros((3, 3))) == 0
    assert noise_sd(np.full((64, 64), np.nan)) == 0
    assert merge_noise() == 0
    y, x = np.mgrid[:96, :96]
    assert noise_sd((np.hypot(y - 48, x - 48) < 30) * np.uint8(200)) == 0


def test_small_noise_of_a_masked_image():
    rng = np.random.default_rng(2)
    plane = np.zeros((192, 192))
    plane[64:128] = rng.normal(100, 5, (64, 192))
    assert noise_sd(plane) == pytest.approx(5, rel=0.4)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 3), st.integers(1, 3), st.booleans()
)
def test_noise_by_blocks_is_the_noise(height, width, rows, columns, reverse):
    plane = np.random.default_rng(height * width).normal(0, 9, (height, width)).astype(np.float32)
    parts = [
        estimate_noise_windows(plane[y : y + 64 * rows, x : x + 64 * columns])
        for y in range(0, height, 64 * rows)
        for x in range(0, width, 64 * columns)
    ]
    assert merge_noise(*(parts[::-1] if reverse else parts)) == noise_sd(plane)


def expected(plane, circles, index):
    y, x = np.mgrid[: plane.shape[0], : plane.shape[1]]
    cy, cx, radius = circles[index, :3]
    distance = np.hypot(y - cy, x - cx)
    inside = plane[distance <= radius].astype(float)
    ring = (distance >= radius + 2) & (distance <= radius + 2 + max(2, 0.2 * radius))
    for other, (oy, ox, other_radius) in enumerate(circles[:, :3]):
        if other != index:
            ring &= np.hypot(y - oy, x - ox) > other_radius
    return inside, plane[ring].astype(float)


CIRCLES = np.array([(20.2, 20.7, 9.0), (30.0, 33.0, 6.5), (60.0, 3.0, 11.0), (-30.0, -30.0, 4.0)])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64, bool])
def test_small_measures(dtype):
    rng = np.random.default_rng(7)
    plane = rng.integers(0, 2 if dtype is bool else 200, (64, 50)).astype(dtype)
    rows = measure_circles(plane, CIRCLES)
    assert rows.dtype == MEASURES
    for index in range(3):
        inside, ring = expected(plane, CIRCLES, index)
        row = rows[index]
        assert row["area_px"] == inside.size
        for name, value in (
            ("mean_intensity", inside.mean()),
            ("sd_intensity", inside.std()),
            ("min_intensity", inside.min()),
            ("median_intensity", np.median(inside)),
            ("max_intensity", inside.max()),
            ("background_mean", ring.mean()),
            ("contrast", inside.mean() - ring.mean()),
        ):
            assert row[name] == pytest.approx(value), name
    assert rows["touches_border"].tolist() == [False, False, True, True]
    assert rows["area_px"][3] == 0
    assert np.isnan(rows["median_intensity"][3])


def test_small_measures_leave_out_what_is_not_finite():
    plane = np.full((40, 40), 5.0)
    plane[18:22, 18:22] = np.nan
    row = measure_circles(plane, np.array([(20.0, 20.0, 8.0)]))[0]
    assert (row["mean_intensity"], row["sd_intensity"], row["contrast"]) == (5, 0, 0)


def test_small_measures_of_no_circles_and_wrong_ones():
    assert len(measure_circles(np.zeros((9, 9)), np.empty((0, 4)))) == 0
    for wrong in (np.zeros(3), np.zeros((2, 2)), [[1, 1, -1]], [[np.nan, 1, 1]]):
        with pytest.raises(ParameterError):
            measure_circles(np.zeros((9, 9)), np.asarray(wrong, float))


def test_small_luminance():
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (3, 8, 9)).astype(np.uint8)
    grey = luminance(rgb)
    assert grey.dtype == np.uint8
    exact = np.tensordot([0.299, 0.587, 0.114], rgb.astype(float), 1)
    assert np.abs(grey - exact).max() <= 0.5 + 1e-9
    rgba = np.concatenate([rgb, np.zeros((1, 8, 9), np.uint8)])
    assert np.array_equal(luminance(rgba), grey)
    assert luminance(rgb[:1]) is not None
    assert np.array_equal(luminance(rgb[:1]), rgb[0])
    assert np.array_equal(luminance(rgb[:2]), rgb[0]), "grey with alpha"
    assert luminance(rgb.astype(np.float32)).dtype == np.float32
    for wrong in (np.zeros((5, 2, 2)), rgb[0]):
        with pytest.raises(ParameterError):
            luminance(wrong)
