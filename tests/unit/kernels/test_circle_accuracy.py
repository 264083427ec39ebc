"""The accuracy that is promised, at its full size; figures are printed (pytest -s)."""

import numpy as np
import pytest

from engine.kernels.circles.detect import detect_circles
from engine.kernels.colour import luminance
from engine.phantoms.discs.image import draw_disc_image
from engine.phantoms.discs.options import DiscOptions
from engine.phantoms.discs.scoring import match_circles, merge_scores

VISIBLE_EDGE = 0.3
"""Discs with less of their edge visible count neither way in the default phantoms."""


def score(options, radius_px, least_visible=0.0, change=lambda pixels: pixels, **parameters):
    parts = []
    for number in range(options.images):
        image = draw_disc_image(options, number)
        found = detect_circles(change(image.pixels), radius_px=radius_px, **parameters)
        ignore = image.visible_edge < least_visible
        parts.append(match_circles(image.circles, found, ignore=ignore))
    total = merge_scores(parts)
    print(
        f"{options.placement} noise {options.noise:.0%} seed {options.seed}: F1 {total.f1:.4f} "
        f"({total.false_positives} false, {total.false_negatives} missed), centre "
        f"{total.mean_centre_error_px:.3f} px, radius {total.mean_radius_error_px:.3f} px "
        f"(bias {total.radius_bias_px:+.3f})"
    )
    return total


@pytest.mark.parametrize("noise", [0.03, 0.08, 0.15])
def test_separate_discs(noise):
    options = DiscOptions(40, 512, "separate", noise=noise, blur_px=1, seed=11)
    total = score(options, (8, 43))
    assert total.f1 >= 0.99
    assert total.mean_centre_error_px <= 0.15
    assert total.mean_radius_error_px <= 0.15


def test_covering_discs():
    total = score(DiscOptions(40, 512, "covering", noise=0.08, blur_px=1, seed=12), (8, 43))
    assert total.f1 >= 0.98


@pytest.mark.parametrize("seed", [0, 13])
def test_default_phantoms(seed):
    total = score(DiscOptions(seed=seed), (15, 65), VISIBLE_EDGE)
    assert (total.false_positives, total.false_negatives) == (0, 0)


def test_dark_16_bit_float_and_colour():
    options = DiscOptions(4, (300, 420), "separate", noise=0.08, blur_px=1, seed=14)
    for change in (
        lambda pixels: 255 - pixels,
        lambda pixels: pixels.astype(np.uint16) * 200,
        lambda pixels: pixels.astype(np.float32) / 255,
        lambda pixels: luminance(np.stack([pixels, pixels, pixels // 2])),
    ):
        total = score(options, (8, 43), change=change)
        assert total.f1 == 1
        assert total.mean_centre_error_px <= 0.15


def test_uneven_light():
    options = DiscOptions(
        10, (400, 600), "separate", noise=0.03, blur_px=1, seed=15, uneven=0.3, grey=(0.35, 0.6)
    )
    assert score(options, (8, 43)).f1 == 1


def test_ellipses_take_a_higher_support():
    # The ends of an ellipse are circular over nearly half a turn.
    options = DiscOptions(10, 512, "separate", noise=0.03, blur_px=1, seed=15, distractors=6)
    total = score(options, (8, 43), min_support=0.6)
    assert total.f1 >= 0.95


# Read off the picture by eye, y and x, pixels.
COINS = np.array(
    [
        *[(54, 45), (57, 100), (51, 155), (51, 215), (52, 277), (44, 335)],
        *[(124, 45), (126, 102), (127, 154), (124, 206), (119, 271), (124, 336)],
        *[(197, 43), (195, 102), (198, 154), (193, 212), (195, 273), (187, 347)],
        *[(260, 46), (266, 114), (261, 172), (264, 245), (264, 301), (268, 359)],
    ]
)


def test_coins():
    from skimage.data import coins

    found = detect_circles(coins(), radius_px=(15, 35))
    distance = np.hypot(*(found[:, None, :2] - COINS[None]).transpose(2, 0, 1))
    # The smallest coin has a radius of 17 px.
    assert len(found) == 24
    assert sorted(distance.argmin(axis=1)) == list(range(24))
    assert distance.min(axis=1).max() < 12
