"""Pixels as they are shown: windows, colours, sizes, crops."""

import io

import numpy as np
import pytest
from PIL import Image

from engine.operations.outlines import Outline, circle_points
from engine.qc.render import (
    MONTAGE_COLUMNS,
    OVERLAY_PX,
    PALETTE,
    TILE_PX,
    crop,
    encode,
    montage,
    paint,
    show,
)


def test_grey_values_are_stretched_and_the_window_is_stated():
    plane = np.linspace(1000, 3000, 200 * 200).reshape(200, 200).astype(np.uint16)
    plane[0, 0], plane[-1, -1] = 0, 65535  # two hot pixels hide nothing
    shown = show(plane[None])
    assert shown.low == pytest.approx(1002, abs=15)
    assert shown.high == pytest.approx(2998, abs=15)
    assert int(shown.pixels[100, 100]) == pytest.approx(128, abs=2)
    assert (shown.pixels.min(), shown.pixels.max()) == (0, 255)


def test_floats_and_what_is_not_finite():
    plane = np.linspace(-0.2, 0.2, 100 * 100, dtype=np.float32).reshape(100, 100)
    plane[3, 3:6] = (np.nan, np.inf, -np.inf)
    shown = show(plane[None])
    assert shown.pixels[3, 3:6].tolist() == [0, 0, 0]
    assert int(shown.pixels[50, 50]) == pytest.approx(128, abs=3)
    assert show(np.full((1, 9, 9), np.nan)).pixels.max() == 0


@pytest.mark.parametrize("value", [0, 7, 255])
def test_blank_images_are_black(value):
    assert show(np.full((1, 20, 20), value, np.uint8)).pixels.max() == 0


@pytest.mark.parametrize("value", [1e30, -1e30, 1e300, 2.0**53])
def test_blank_images_of_huge_values_are_black(value):
    assert show(np.full((1, 20, 20), value)).pixels.max() == 0


def test_colour_of_8_bits_is_kept():
    colours = np.random.default_rng(0).integers(0, 255, (4, 30, 40)).astype(np.uint8)
    for channels in (3, 4):
        shown = show(colours[:channels])
        assert shown.low is None
        assert np.array_equal(shown.pixels, np.moveaxis(colours[:3], 0, 2))
    deep = show(colours[:3].astype(np.uint16) * 100)
    assert deep.pixels.shape == (30, 40, 3)
    assert deep.high == pytest.approx(25400, rel=0.02)


def test_one_channel_of_several_is_shown():
    planes = np.stack([np.zeros((8, 8)), np.eye(8), np.zeros((8, 8))[::-1]]).astype(bool)
    assert show(planes[:2]).pixels.max() == 0
    assert np.array_equal(show(planes[:2], channel=1).pixels > 0, planes[1])
    assert show(planes, channel=1).pixels.ndim == 2


def test_a_large_image_is_shown_smaller_and_outlines_stay_in_place():
    y, x = np.ogrid[:2600, :3100]
    disc = ((y - 1203.5) ** 2 + (x - 900.5) ** 2 < 300**2)[None].astype(np.uint8)
    shown = show(disc)
    assert max(shown.pixels.shape) <= OVERLAY_PX
    assert shown.scale == 4.0
    ring = shown.place(circle_points(1203.5, 900.5, 300))
    inside = shown.place(circle_points(1203.5, 900.5, 290)).round().astype(int)
    outside = shown.place(circle_points(1203.5, 900.5, 310)).round().astype(int)
    assert shown.pixels[inside[:, 0], inside[:, 1]].min() == 255
    assert shown.pixels[outside[:, 0], outside[:, 1]].max() == 0
    painted = paint(shown, [Outline(circle_points(1203.5, 900.5, 300))])
    at = ring.round().astype(int)
    orange = np.abs(painted[at[:, 0], at[:, 1]].astype(int) - PALETTE[0]).max(axis=1)
    assert (orange < 60).all()


def test_kinds_have_colours_and_points_are_marked():
    shown = show(np.zeros((1, 60, 60), np.uint8))
    inner, outer = (Outline(circle_points(30, 30, r), name) for r, name in ((8, "a"), (20, "b")))
    painted = paint(shown, [inner, outer])
    assert painted[30, 38].tolist() == list(PALETTE[0])
    assert painted[30, 50].tolist() == list(PALETTE[1])
    assert paint(shown, [Outline(np.array([[10.0, 12.0]]))])[10, 16].tolist() == list(PALETTE[0])
    assert np.array_equal(paint(shown, [])[..., 0], shown.pixels)


@pytest.mark.parametrize("place", [(30.0, 40.0), (1.0, 2.0), (99.0, 118.0)])
def test_a_crop_shows_its_object_in_the_middle(place):
    y, x = np.mgrid[:100, :120]
    plane = (np.hypot(y - place[0], x - place[1]) < 5)[None].astype(np.uint8) * 200
    outline = Outline(circle_points(*place, 5.0))
    tile = crop(show(plane), outline, [])
    assert tile.shape == (TILE_PX, TILE_PX, 3)
    middle = TILE_PX // 2
    assert tile[middle, middle].min() > 240
    ring = crop(show(plane * 0), outline, [outline])[..., 0]
    half = TILE_PX / 1.5 / 2  # the object with a quarter of it on either side
    rows = np.flatnonzero(ring[:, middle] > 120)
    assert rows.min() == pytest.approx(middle - 0.5 - half, abs=1.5)
    assert rows.max() == pytest.approx(middle - 0.5 + half, abs=1.5)


def test_montages_and_files():
    tiles = [np.full((TILE_PX, TILE_PX, 3), n, np.uint8) for n in range(100, 113)]
    sheet = montage(tiles)
    assert sheet.shape == (2 * (TILE_PX + 2) - 2, MONTAGE_COLUMNS * (TILE_PX + 2) - 2, 3)
    assert montage(tiles[:2]).shape[1] == 2 * TILE_PX + 2
    with Image.open(io.BytesIO(encode(sheet))) as picture:
        assert (picture.format, picture.size) == ("JPEG", sheet.shape[1::-1])
        assert abs(int(np.asarray(picture)[10, 10, 0]) - 100) < 4
