"""Outlines lie where they should, to a fraction of a pixel, and are seen on any ground."""

import numpy as np
import pytest

from engine.kernels.outline_drawing import draw_line
from engine.operations.outlines import circle_points

ORANGE = (240, 165, 0)


def ring(shape, y, x, radius, ground):
    canvas = np.full((*shape, 3), ground, np.uint8)
    draw_line(canvas, circle_points(y, x, radius), ORANGE, width_px=1.8, casing_px=4.0)
    return canvas


@pytest.mark.parametrize("ground", [0, 255])
def test_small_rings_are_drawn_where_they_are(ground):
    canvas = ring((60, 70), 28.3, 35.8, 17.4, ground).astype(float)
    y, x = np.mgrid[:60, :70]
    away = np.abs(np.hypot(y - 28.3, x - 35.8) - 17.4)
    changed = np.abs(canvas - ground).max(axis=2)
    assert changed[away > 3.3].max() == 0
    assert np.allclose(canvas[away < 0.3], ORANGE, atol=1)
    weight = np.abs(canvas[..., 2] - ground) if ground else canvas[..., 0]
    centre = [float((weight * axis).sum() / weight.sum()) for axis in (y, x)]
    assert np.allclose(centre, (28.3, 35.8), atol=0.05)
    radius = (weight * np.hypot(y - 28.3, x - 35.8)).sum() / weight.sum()
    assert abs(radius - 17.4) < 0.2  # a disc's outer half has more pixels


def test_small_lines_are_soft_and_dark_at_their_sides():
    canvas = np.full((11, 30, 3), 200, np.uint8)
    draw_line(canvas, np.array([[5.0, 4.0], [5.0, 25.0]]), ORANGE, width_px=1.0, casing_px=4.0)
    column = canvas[:, 15, 1].astype(int).tolist()
    assert column[5] == ORANGE[1]
    assert column[4] == column[6] < 90  # below and above the line it is dark
    assert column[1] == column[9] == 200


def test_small_outlines_that_leave_the_picture_are_cut_off():
    whole = ring((100, 100), 50.0, 50.0, 30.0, 90)
    part = np.full((40, 30, 3), 90, np.uint8)
    points = circle_points(50.0, 50.0, 30.0) - (10, 5)
    draw_line(part, points, ORANGE, width_px=1.8, casing_px=4.0)
    assert np.array_equal(part, whole[10:50, 5:35])
    before = part.copy()
    for off in ((-500.0, 0.0), (0.0, 1e12), (1e17, -1e17)):
        draw_line(part, circle_points(*off, 20.0), ORANGE, width_px=1.8, casing_px=4.0)
    assert np.array_equal(part, before)
