import math

import numpy as np
import pytest

from engine.phantoms.discs.shapes import Disc, Ellipse, Light, Line, Scene, draw_scene, edge_steps


def scene(*shapes: object, adds: bool = True, background: float = 0.0) -> Scene:
    return Scene((60, 80), background, tuple(shapes), adds)  # type: ignore[arg-type]


def test_pixel_belongs_to_disc_if_its_centre_does() -> None:
    image = draw_scene(scene(Disc(30.3, 50.6, 7.5, 0.5)), antialias=False)
    y, x = np.mgrid[:60, :80]
    np.testing.assert_array_equal(image, 0.5 * ((y - 30.3) ** 2 + (x - 50.6) ** 2 <= 7.5**2))


def test_shapes_add_and_clip() -> None:
    image = draw_scene(scene(Disc(30, 30, 10, 0.7), Disc(30, 40, 10, 0.6)), antialias=False)
    assert (image[30, 25], image[30, 35], image[30, 45]) == (0.7, 1.0, 0.6)


def test_later_covers_earlier() -> None:
    discs = Disc(30, 30, 10, 0.7), Disc(30, 40, 10, 0.5)
    image = draw_scene(scene(*discs, adds=False, background=0.2), antialias=False)
    assert (image[30, 25], image[30, 35], image[30, 45], image[0, 0]) == (0.7, 0.5, 0.5, 0.2)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        (Disc(30.37, 40.81, 12.3, 1.0), math.pi * 12.3**2),
        (Ellipse(30.37, 40.81, 20.0, 9.0, 0.7, 1.0), math.pi * 20 * 9),
        (Line(30.37, 40.81, 30.0, 4.0, 0.7, 1.0), 30 * 4 + math.pi * 2**2),
    ],
)
def test_antialiased_area_and_centroid_are_exact(shape: Disc | Ellipse | Line, area: float) -> None:
    image = draw_scene(scene(shape), antialias=True)
    y, x = np.mgrid[:60, :80]
    assert image.sum() == pytest.approx(area, rel=2e-3)
    assert (image * y).sum() / image.sum() == pytest.approx(30.37, abs=0.01)
    assert (image * x).sum() / image.sum() == pytest.approx(40.81, abs=0.01)


def test_angle_turns_x_towards_y() -> None:
    image = draw_scene(scene(Line(30, 40, 30, 3, math.pi / 4, 1.0)), antialias=False)
    assert image[38, 48] == 1
    assert image[22, 48] == 0


@pytest.mark.parametrize("centre", [(-3.0, 40.0), (30.0, 82.0), (63.0, 84.0), (-40.0, 5.0)])
def test_border_cuts(centre: tuple[float, float]) -> None:
    disc = Disc(*centre, 9.0, 1.0)
    y, x = np.mgrid[:60, :80]
    inside = np.hypot(y - centre[0], x - centre[1]) <= 9
    np.testing.assert_array_equal(draw_scene(scene(disc), antialias=False), inside)


def test_light_is_brightest_at_its_place() -> None:
    lit = Scene((60, 80), 0.1, (), True, Light(0.3, 20.0, 30.0, 70.0))
    image = draw_scene(lit, antialias=False)
    assert np.unravel_index(image.argmax(), image.shape) == (20, 30)
    assert image.max() == pytest.approx(0.4)
    assert image.min() >= 0.1


def test_edge_is_hidden_where_a_later_disc_covers() -> None:
    # The later disc is centred on the circumference: it hides what is nearer than its radius,
    # a chord of 10 on a circle of 10, which is 60 degrees to each side: a third.
    discs = Disc(30, 40, 10, 0.5), Disc(30, 50, 10, 0.9)
    inside, outside, in_plane = edge_steps(scene(*discs, adds=False, background=0.2), 0)
    assert in_plane.all()
    assert (inside != outside).mean() == pytest.approx(2 / 3, abs=2 / 720)
    assert set(zip(inside, outside, strict=True)) == {(0.5, 0.2), (0.9, 0.9)}
    inside, outside, _ = edge_steps(scene(*discs, adds=False, background=0.2), 1)
    assert set(zip(inside, outside, strict=True)) == {(0.9, 0.2), (0.9, 0.5)}


def test_edge_steps_from_what_lies_around_it() -> None:
    discs = Disc(30, 40, 10, 0.5), Disc(30, 50, 10, 0.25)
    inside, outside, _ = edge_steps(scene(*discs, background=0.125), 1)
    assert set(zip(inside, outside, strict=True)) == {(0.375, 0.125), (0.875, 0.625)}


def test_edge_is_hidden_where_saturated() -> None:
    discs = Disc(30, 40, 10, 1.0), Disc(30, 50, 10, 0.4)
    inside, outside, _ = edge_steps(scene(*discs), 1)
    assert (inside != outside).mean() == pytest.approx(2 / 3, abs=2 / 720)


def test_edge_outside_of_the_plane_is_told() -> None:
    _, _, in_plane = edge_steps(scene(Disc(-0.5, 40, 10, 1.0)), 0)
    assert in_plane.mean() == pytest.approx(1 / 2, abs=2 / 720)
