"""The baseline on marrow phantoms, on what has no tissue, and in tiles."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.errors import ParameterError
from engine.geometry import plan_tiles
from engine.kernels.segmentation.marrow_thresholds import (
    estimate_thresholds,
    halo_px,
    segment_baseline,
)
from engine.kernels.segmentation.tissue import Tissue, bone_density, class_areas
from engine.learning.evaluation.scores import confusion, dice_of
from engine.phantoms.marrow.options import MarrowOptions
from engine.phantoms.marrow.slide import MarrowBand, MarrowSlide

OPTIONS = MarrowOptions(images=3, size=(900, 500), seed=100)


@pytest.fixture(scope="module")
def slides() -> list[MarrowBand]:
    return [MarrowSlide(OPTIONS, number).whole() for number in range(OPTIONS.images)]


def test_it_finds_the_classes_of_marrow(slides: list[MarrowBand]) -> None:
    """A first day's answer: what a network must beat, and no less than this."""
    scores, errors = [], []
    for slide in slides:
        found = segment_baseline(slide.pixels)
        scores.append(dice_of(confusion(found, slide.labels, len(Tissue))))
        true = bone_density(class_areas(slide.labels))
        errors.append(abs(bone_density(class_areas(found)) - true) / true)
    mean = np.nanmean(scores, axis=0)
    print(f"DSC {dict(zip([t.name for t in Tissue], mean.round(3), strict=True))}", end=" ")
    print(f"median density error {np.median(errors):.1%}")
    assert mean[Tissue.BONE] > 0.8
    assert mean[Tissue.FAT] > 0.85
    assert mean[Tissue.OTHER] > 0.9
    assert np.median(errors) < 0.2


def test_tiles_with_halo_equal_the_whole(slides: list[MarrowBand]) -> None:
    pixels = slides[0].pixels
    thresholds = estimate_thresholds(pixels)
    whole = segment_baseline(pixels, thresholds)
    tiled = np.zeros_like(whole)
    for tile in plan_tiles(whole.shape, (256, 256), halo_px()):
        labels = segment_baseline(pixels[:, *tile.read.slices], thresholds)
        start, read = tile.write, tile.read.start
        inner = tuple(
            slice(a - r, b - r) for a, b, r in zip(start.start, start.stop, read, strict=True)
        )
        tiled[tile.write.slices] = labels[inner]
    assert (tiled == whole).mean() > 0.99


def test_floats_are_shares_of_full_scale(slides: list[MarrowBand]) -> None:
    part = slides[0].pixels[:, 200:400, 100:400]
    np.testing.assert_array_equal(
        segment_baseline(part), segment_baseline(part.astype(np.float32) / 255)
    )


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_slide_of_one_colour_has_no_bone_and_no_fat(grey: int) -> None:
    labels = segment_baseline(np.full((3, 80, 90), grey, np.uint8))
    assert not {Tissue.BONE, Tissue.FAT} & set(np.unique(labels))


def test_what_is_no_slide_is_refused() -> None:
    with pytest.raises(ParameterError, match="RGB"):
        segment_baseline(np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(ParameterError, match="positive"):
        segment_baseline(np.zeros((3, 8, 8), np.uint8), vacuole_radius_px=0)


def test_density_and_dice_where_there_is_nothing() -> None:
    assert math.isnan(bone_density((5, 0, 0, 0)))
    blank = np.zeros((2, 2), np.uint8)
    same, other = (dice_of(confusion(blank, truth, len(Tissue))) for truth in (blank, blank + 1))
    assert same[0] == 1
    assert np.isnan(same[1:]).all()
    assert other[:2].tolist() == [0, 0]
