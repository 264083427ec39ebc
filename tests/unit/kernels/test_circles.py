"""What `detect_circles` promises, on images small enough to run uncompiled as well."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from engine.errors import ParameterError
from engine.kernels.circles import buffers as workspace
from engine.kernels.circles import gradient, votes
from engine.kernels.circles.detect import detect_circles, halo_px


def draw(shape, discs, background=50.0, blur_px=1.0):
    """Blurred discs (y, x, radius, grey), later ones on top."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    plane = np.full(shape, background)
    for cy, cx, radius, grey in discs:
        cover = 1 / (1 + np.exp((np.hypot(y - cy, x - cx) - radius) * 1.7 / blur_px))
        plane = plane * (1 - cover) + grey * cover
    return plane


ONE = [(30.3, 40.6, 12.4, 150.0)]
TWO = [(30.3, 32.6, 12.4, 150.0), (60.2, 66.1, 17.7, 10.0)]


def close(found, discs, tolerance=0.3):
    truth = np.array(sorted(disc[:3] for disc in discs)).reshape(-1, 3)
    assert found.shape == (len(discs), 4)
    assert np.abs(found[:, :3] - truth).max(initial=0) < tolerance


def test_small_bright_and_dark():
    plane = draw((90, 96), TWO).astype(np.uint8)
    close(detect_circles(plane, radius_px=(8, 25)), TWO)
    close(detect_circles(plane, radius_px=(8, 25), polarity="bright"), TWO[:1])
    close(detect_circles(plane, radius_px=(8, 25), polarity="dark"), TWO[1:])


def test_small_support_is_whole_and_rows_are_sorted():
    found = detect_circles(draw((90, 96), TWO).astype(np.uint8), radius_px=(8, 25))
    assert (found[:, 3] == 1).all()
    assert (np.diff(found[:, 0]) > 0).all()


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("u1", 1), ("u2", 200), ("i2", -30), ("i4", 1000), ("f4", 1e-6), ("f8", 1e9), (">u2", 5)],
)
def test_small_any_type(dtype, scale):
    close(detect_circles((draw((64, 80), ONE) * scale).astype(dtype), radius_px=(8, 20)), ONE)


def test_small_bool_and_half():
    y, x = np.mgrid[:64, :80]
    mask = np.hypot(y - 30, x - 41) <= 12
    close(detect_circles(mask, radius_px=(8, 20)), [(30, 41, 12.0)], tolerance=0.4)
    close(detect_circles(mask.astype(np.float16), radius_px=(8, 20)), [(30, 41, 12.0)], 0.4)


@pytest.mark.parametrize("shape", [(0, 0), (0, 9), (1, 1), (2, 40), (3, 3), (5, 200), (64, 64)])
@pytest.mark.parametrize("value", [0, 255])
def test_small_blank(shape, value):
    found = detect_circles(np.full(shape, value, np.uint8), radius_px=(8, 20))
    assert found.shape == (0, 4)
    assert found.dtype == np.float64


def test_small_not_finite():
    plane = draw((64, 80), ONE).astype(np.float32)
    plane[10:14, 60:66] = np.nan
    plane[50, 5] = np.inf
    plane[28:30, 40] = -np.inf
    plane[40:60, 60:80] = 1e30
    with_holes = detect_circles(plane, radius_px=(8, 20))
    assert np.abs(with_holes[:, :3] - ONE[0][:3]).max(axis=1).min() < 0.5
    assert np.array_equal(with_holes, detect_circles(plane, radius_px=(8, 20)))
    assert detect_circles(np.full((40, 40), np.nan), radius_px=(5, 10)).shape == (0, 4)


@pytest.mark.parametrize("outside", [False, True])
def test_small_a_mask_is_no_circle(outside):
    """Neither a masked disc nor the well that all lies in; what is beside them is found."""
    noise = np.random.default_rng(4).normal(0, 3, (90, 96))
    plane = (draw((90, 96), TWO) + noise).astype(np.float32)
    y, x = np.mgrid[:90, :96]
    far = np.hypot(y - 45.2, x - 49.4)
    plane[far > 43 if outside else np.hypot(y - 68, x - 22) < 12.3] = np.nan
    found = detect_circles(plane, radius_px=(8, 48))
    close(found, TWO, tolerance=0.5)
    assert (found[:, 3] > 0.7).all()


def test_a_crop_with_a_mask_says_what_the_whole_says():
    noise = np.random.default_rng(5).normal(0, 3, (200, 260))
    discs = [(40 + 60 * j, 40 + 60 * i, 14.0, 150.0) for j in range(3) for i in range(4)]
    plane = (draw((200, 260), discs) + noise).astype(np.float32)
    y, x = np.mgrid[:200, :260]
    for cy, cx, radius in ((60, 130, 25), (110, 45, 9), (170, 128, 14)):
        plane[np.hypot(y - cy, x - cx) < radius] = np.nan
    whole = detect_circles(plane, radius_px=(10, 20), noise_sd=3.0)
    halo = halo_px((10, 20))
    left = detect_circles(plane[:, : 128 + halo], radius_px=(10, 20), noise_sd=3.0)
    start = 128 - halo
    right = detect_circles(
        plane[:, max(0, start) :], radius_px=(10, 20), noise_sd=3.0, origin=(0, max(0, start))
    )
    parts = np.concatenate([left[left[:, 1] < 127.5], right[right[:, 1] >= 127.5]])
    assert np.array_equal(parts[np.lexsort((parts[:, 1], parts[:, 0]))], whole)
    assert len(whole) > 6


def test_small_cut_by_the_border():
    discs = [(2.3, 40.2, 15.0, 200.0), (70.0, 90.1, 14.0, 200.0)]
    found = detect_circles(draw((80, 96), discs).astype(np.uint8), radius_px=(8, 20))
    close(found, discs, tolerance=0.5)
    assert found[:, 3].min() > 0.85  # of what is inside the image


@pytest.mark.parametrize("noise", [0, 3, 10])
@pytest.mark.parametrize("radius", [15.0, 24.0, 40.0])
def test_centres_outside_are_found_where_a_third_is_visible(radius, noise):
    """Half a radius outside, beyond each side: there a third of the circumference is left."""
    out = radius / 2
    discs = [(-out, 60.2, radius, 180.0), (229.0 + out, 130.6, radius, 180.0)]
    discs += [(100.3, -out, radius, 180.0), (120.7, 249.0 + out, radius, 180.0)]
    plane = draw((230, 250), discs) + np.random.default_rng(1).normal(0, noise, (230, 250))
    found = detect_circles(np.clip(plane, 0, 255).astype(np.uint8), radius_px=(10, 50))
    close(found, discs, tolerance=0.12 * radius)
    assert (found[:, 3] >= 0.5).all()


def test_an_arc_beyond_the_border_is_no_circle():
    """A fifth of a circumference, corners, and straight edges at the border."""
    discs = [(-33.0, 70.0, 40.0, 180.0), (-20.0, -20.0, 40.0, 180.0)]
    plane = draw((230, 250), discs)
    plane[:, 240:] = 200
    plane[200:, 100:140] = 5
    assert len(detect_circles(plane.astype(np.uint8), radius_px=(10, 50))) == 0


RINGS = [(60.2, 62.7, 15.0), (70.4, 170.9, 30.0), (180.3, 90.1, 45.0)]


@pytest.mark.parametrize("bright", [True, False])
@pytest.mark.parametrize("width", [1, 2, 4, 5])
def test_a_rim_is_one_circle(width, bright):
    """Its outer edge, however thin the rim; beside discs for "any", alone for "rim"."""
    grey = 220.0 if bright else 20.0
    y, x = np.mgrid[:260, :260]
    plane = np.full((260, 260), 120.0)
    for cy, cx, radius in RINGS:
        away = np.hypot(y - cy, x - cx)
        cover = np.clip(radius + 0.5 - away, 0, 1) - np.clip(radius - width + 0.5 - away, 0, 1)
        plane += (grey - 120.0) * cover
    disc = (190.0, 200.0, 25.0)
    plane[np.hypot(y - disc[0], x - disc[1]) <= disc[2]] = grey
    plane = np.clip(plane + np.random.default_rng(2).normal(0, 3, plane.shape), 0, 255)
    image = plane.astype(np.uint8)
    close(detect_circles(image, radius_px=(10, 50), polarity="rim"), RINGS, 0.7)
    close(detect_circles(image, radius_px=(10, 50), rim_width_px=8), [*RINGS, disc], 0.7)
    assert len(detect_circles(image, radius_px=(10, 50))) > 4


def test_iris_and_pupil_are_no_rim():
    eye = [(120.0, 160.0, 70.0, 110.0), (120.0, 160.0, 28.0, 20.0)]
    image = draw((240, 320), eye, background=210.0).astype(np.uint8)
    close(detect_circles(image, radius_px=(10, 80), rim_width_px=60), [*eye], 0.4)
    assert len(detect_circles(image, radius_px=(10, 80), polarity="rim")) == 0


def test_small_shade_has_no_circles():
    y, x = np.mgrid[:96, :96]
    for slope in (0.05, 0.4, 3.0):
        shade = 250 - slope * np.hypot(y - 40, x - 50)
        assert len(detect_circles(np.clip(shade, 0, 255).astype(np.uint8), radius_px=(8, 40))) == 0


def test_small_uneven_background():
    y, x = np.mgrid[:90, :96]
    plane = draw((90, 96), TWO, background=80.0) + 0.6 * x + 0.3 * y
    close(detect_circles(np.clip(plane, 0, 255).astype(np.uint8), radius_px=(8, 25)), TWO)


def test_small_covered_disc_and_noise():
    discs = [(34.0, 40.0, 18.0, 120.0), (44.0, 52.0, 16.0, 220.0)]
    rng = np.random.default_rng(5)
    plane = draw((90, 96), discs) + rng.normal(0, 8, (90, 96))
    close(detect_circles(np.clip(plane, 0, 255).astype(np.uint8), radius_px=(8, 25)), discs, 0.6)


def test_small_rim_is_no_second_circle_but_a_ring_has_two():
    ring = [(45.0, 48.0, 30.0, 200.0), (45.0, 48.0, 12.0, 50.0)]
    close(detect_circles(draw((90, 96), ring).astype(np.uint8), radius_px=(8, 35)), ring)


def test_small_buffers_grow(monkeypatch):
    monkeypatch.setattr("engine.kernels.circles.detect._FIRST_ROOM", 16)
    plane = draw((90, 96), TWO).astype(np.uint8)
    close(detect_circles(plane, radius_px=(8, 25)), TWO)
    rng = np.random.default_rng(1)
    dense = rng.integers(0, 2, (64, 64)).astype(np.uint8) * 255
    detect_circles(dense, radius_px=(2, 4), noise_sd=0.0)


def test_small_crop_is_the_image():
    plane = draw((96, 96), TWO).astype(np.uint8)
    whole = detect_circles(plane, radius_px=(8, 20), noise_sd=0.0)
    part = detect_circles(plane[7:, 5:], radius_px=(8, 20), noise_sd=0.0, origin=(7, 5))
    assert np.array_equal(part, whole)


def test_same_bits_in_threads():
    rng = np.random.default_rng(0)
    planes = [
        np.clip(draw((200, 180), TWO) + rng.normal(0, 10, (200, 180)), 0, 255).astype(np.uint8)
        for _ in range(6)
    ]
    alone = [detect_circles(plane, radius_px=(8, 25)) for plane in planes]
    with ThreadPoolExecutor(4) as pool:
        jobs = pool.map(lambda plane: detect_circles(plane, radius_px=(8, 25)), planes * 10)
        for index, found in enumerate(jobs):
            assert np.array_equal(found, alone[index % len(planes)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"radius_px": (20, 8)},
        {"radius_px": (0, 8)},
        {"radius_px": (1, np.inf)},
        {"radius_px": (1, 1e300)},
        {"radius_px": 8},
        {"polarity": "grey"},
        {"rim_width_px": 0.0},
        {"rim_width_px": np.inf},
        {"rim_width_px": 3.0, "polarity": "dark"},
        {"min_support": 0.0},
        {"noise_sd": -1.0},
        {"noise_sd": np.nan},
        {"origin": (-1, 0)},
    ],
)
def test_small_wrong_parameters(wrong):
    with pytest.raises(ParameterError) as caught:
        detect_circles(np.zeros((9, 9)), **{"radius_px": (8, 20), **wrong})
    assert caught.value.args[0] == next(iter(wrong))


@pytest.mark.parametrize("plane", [np.zeros(5), np.zeros((2, 3, 4)), np.zeros((4, 4), complex)])
def test_small_wrong_planes(plane):
    with pytest.raises(ParameterError):
        detect_circles(plane, radius_px=(8, 20))


def test_small_halo():
    assert halo_px((8, 43)) < halo_px((8, 60)) < 4 * 60
    with pytest.raises(ParameterError):
        halo_px((9, 8))


def test_small_smoothing_is_a_gaussian():
    smoothing = gradient.make_smoothing(1.5)
    assert smoothing.taps[0] + 2 * smoothing.taps[1:].sum() == pytest.approx(1, abs=1e-6)
    rng = np.random.default_rng(3)
    plane = rng.normal(0, 1, (96, 96)).astype(np.float32)
    out, row = np.empty_like(plane), np.empty(96 + 2 * smoothing.taps.size, np.float32)
    gradient.smooth(plane, smoothing.taps, row, out)
    slope = (out[20:76, 21:77] - out[20:76, 19:75]) / 2
    assert slope.std() == pytest.approx(smoothing.noise_gain, rel=0.15)


def test_small_bands_cover_the_range():
    bands = votes.make_bands(5, 80)
    assert bands[0].low_px == 5
    assert bands[-1].high_px == pytest.approx(80)
    for left, right in pairwise(bands):
        assert left.high_px == pytest.approx(right.low_px)


def test_small_workspace(monkeypatch):
    work = workspace.BufferPool()
    first = work.get("a", (4, 5), np.float32)
    assert work.get("a", (4, 5), np.float32) is first
    assert np.shares_memory(work.get("a", (2, 3), np.float32), first)
    assert work.get("a", (2, 3), np.int8).dtype == np.int8
    monkeypatch.setattr(workspace, "_KEPT_BYTES", 1)
    work.release_large()
    assert work.nbytes == 0


def test_who_waits_for_the_compiler_is_known(tmp_path):
    """It is asked in a process of its own: where code is kept is settled when numba is imported."""
    detect_circles(np.zeros((32, 32)), radius_px=(4, 8))
    said = {}
    for place in (None, tmp_path):
        found = subprocess.run(
            [sys.executable, "-c", "import engine; print(engine.circles().first_use())"],
            capture_output=True, text=True, timeout=120, check=True,
            env={**os.environ, **({} if place is None else {"NUMBA_CACHE_DIR": str(place)})},
        )  # fmt: skip
        said[place] = found.stdout
    assert said[None] == "None\n"
    assert "compiles" in said[tmp_path]
