import numpy as np
import pytest

from engine.errors import ParameterError
from engine.phantoms import DiscOptions, draw_disc_image


def test_lab_images_hold_what_a_lab_has() -> None:
    first, second = draw_disc_image(DiscOptions(), 0), draw_disc_image(DiscOptions(), 2)
    assert (first.folder.subject, second.folder.subject) == ("s1", "s2")
    for image in (first, second):
        assert image.pixels.shape == (1024, 1024)
        assert image.pixels.dtype == np.uint8
        assert image.circles.shape == (30, 3)
        assert image.circles[:, :2].min() >= 100
        assert image.circles[:, :2].max() <= 924
        assert image.pixels.min() == 0
    assert abs(first.circles[:, 2].mean() - 45) < 3
    assert abs(first.grey.mean() - 200) < 12
    assert (second.circles[:, 2] == 25).all()
    np.testing.assert_allclose(second.grey, 100)
    # Grey values add: nothing but multiples of 100 is in an image of s2.
    assert set(np.unique(second.pixels)) <= {0, 100, 200, 255}


def test_noise_and_blur_leave_truth_and_scene_alone() -> None:
    plain = DiscOptions(size=256, placement="separate", discs=(3, 3))
    noisy = DiscOptions(size=256, placement="separate", discs=(3, 3), noise=0.08, blur_px=1)
    a, b = draw_disc_image(plain, 1), draw_disc_image(noisy, 1)
    np.testing.assert_array_equal(a.circles, b.circles)
    np.testing.assert_array_equal(a.grey, b.grey)
    np.testing.assert_array_equal(a.visible_edge, b.visible_edge)
    y, x = np.mgrid[:256, :256]
    away = np.ones((256, 256), bool)
    for cy, cx, r in a.circles:
        away &= np.abs(np.hypot(y - cy, x - cx) - r) > 5
    difference = (b.pixels.astype(float) - a.pixels)[away] / 255
    assert difference.std() == pytest.approx(0.08, rel=0.05)
    assert abs(difference.mean()) < 0.003


def test_distractors_lie_beneath_and_change_no_disc() -> None:
    plain = DiscOptions(size=256, placement="separate", seed=3)
    with_more = DiscOptions(size=256, placement="separate", seed=3, distractors=8)
    a, b = draw_disc_image(plain, 0), draw_disc_image(with_more, 0)
    np.testing.assert_array_equal(a.circles, b.circles)
    assert (a.pixels != b.pixels).mean() > 0.02
    y, x = np.mgrid[:256, :256]
    for cy, cx, r in a.circles:
        inside = np.hypot(y - cy, x - cx) < r - 1
        np.testing.assert_array_equal(a.pixels[inside], b.pixels[inside])
    # Only a distractor of the same grey value, or of less contrast, hides a bit of an edge.
    assert b.visible_edge.min() > 0.7


def test_uneven_light_brightens_by_at_most_its_amount() -> None:
    options = DiscOptions(size=(120, 200), placement="separate", discs=(0, 0), uneven=0.3)
    image = draw_disc_image(options, 0).pixels
    assert image.shape == (120, 200)
    assert image.min() == pytest.approx(51, abs=1)
    assert image.max() == pytest.approx(0.5 * 255, abs=1)


def test_sixteen_bit_shows_the_same_scene() -> None:
    small = DiscOptions(size=256, placement="separate")
    deep = DiscOptions(size=256, placement="separate", dtype="uint16")
    a, b = draw_disc_image(small, 0), draw_disc_image(deep, 0)
    assert b.pixels.dtype == np.uint16
    np.testing.assert_allclose(b.pixels / 257, a.pixels, atol=0.51)
    np.testing.assert_allclose(b.grey, a.grey * 257)
    np.testing.assert_array_equal(a.visible_edge, b.visible_edge)


def test_step_of_ten_levels_is_visible_and_of_nine_is_not() -> None:
    for levels, seen in ((9, 0.0), (10, 1.0)):
        grey = 51 + levels
        options = DiscOptions(
            size=128, placement="separate", discs=(1, 1), grey=(grey / 255, grey / 255)
        )
        assert draw_disc_image(options, 0).visible_edge == [seen]


def test_discs_that_do_not_fit_are_refused() -> None:
    options = DiscOptions(size=128, placement="separate", discs=(20, 20), radius_px=(30, 30))
    with pytest.raises(ParameterError, match="discs"):
        draw_disc_image(options, 0)


def test_no_disc_is_valid() -> None:
    image = draw_disc_image(DiscOptions(size=64, placement="covering", discs=(0, 0)), 0)
    assert image.circles.shape == (0, 3)
    assert (image.pixels == 51).all()
