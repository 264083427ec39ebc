"""`nuclei`: parameters, and how well it finds made and annotated nuclei."""

from __future__ import annotations

import json

import numpy as np
import pytest

import engine
from engine.errors import ParameterError, UsageError
from engine.geometry import Region
from engine.operations.base import LABELS, Image, ImageFailed
from engine.phantoms.cells.field import CellField
from engine.phantoms.cells.options import CellOptions
from tests.support.data import shared_data
from tests.support.instance_scores import Matches, match
from tests.support.nuclei_images import FLUORESCENCE, nuclei_images


def disc(diameter: float, spacing: tuple[float, float] | None = None) -> Image:
    y, x = np.mgrid[:200, :200]
    plane = np.where((y - 90) ** 2 + (x - 110) ** 2 <= diameter**2 / 4, 200, 10).astype(np.uint8)
    return Image(plane[None], spacing_um=spacing)


def test_made_cells_of_unseen_seeds_are_found_and_counted() -> None:
    total = Matches()
    for seed in (101, 102):
        field = CellField(CellOptions(seed=seed), 0)
        part = field.draw(Region((0, 0), field.shape))
        found = engine.nuclei(channel=0).measure(Image(part.pixels))
        total += match(np.asarray(found[LABELS]), part.ids)
    assert total.f1 >= 0.98
    assert abs(total.false - total.missed) <= 0.01 * (total.true + total.missed)


def test_annotated_fluorescence_is_found_by_thresholds() -> None:
    folder = shared_data("nuclei")
    scores = [
        match(np.asarray(engine.nuclei().measure(Image.of(each.pixels))[LABELS]), each.instances)
        for each in nuclei_images(folder)
        if each.look == FLUORESCENCE and not each.trained_on
    ]
    assert np.mean([score.average_precision for score in scores]) > 0.75


def test_a_diameter_in_micrometres_is_that_in_pixels() -> None:
    by_um = engine.nuclei(diameter_um=15.0)
    by_px = engine.nuclei(diameter_px=30.0)
    image = disc(30, spacing=(0.5, 0.5))
    assert np.array_equal(by_um.measure(image)[LABELS], by_px.measure(image)[LABELS])
    assert by_um.halo_of((0.5, 0.5)) == by_px.halo_px
    assert by_um.key != by_px.key


@pytest.mark.parametrize("spacing", [None, (0.5, 0.6)])
def test_micrometres_need_one_spacing(spacing: tuple[float, float] | None) -> None:
    with pytest.raises(ImageFailed, match="spacing_needed"):
        engine.nuclei(diameter_um=15.0).measure(disc(30, spacing))
    with pytest.raises(ImageFailed, match="diameter_out_of_range"):
        engine.nuclei(diameter_um=15.0).measure(disc(30, (10.0, 10.0)))


def test_parameters_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="give one of them"):
        engine.nuclei(diameter_px=20, diameter_um=10)
    with pytest.raises(ParameterError, match="model"):
        engine.nuclei(model="marrow")
    with pytest.raises(UsageError, match="diameter_px"):
        engine.nuclei(diameter_px=1)


def test_dark_nuclei_are_those_of_the_negative() -> None:
    image = disc(30)
    dark = Image(255 - image.pixels)
    found = engine.nuclei(polarity="dark").measure(dark)
    assert np.array_equal(found[LABELS], engine.nuclei().measure(image)[LABELS])
    assert len(found["y"]) == 1
    assert (found["y"][0], found["x"][0]) == pytest.approx((90, 110))


def test_noise_and_blank_images_have_no_nuclei() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(1000, 30, (300, 300)).astype(np.uint16)
    for plane in (noise, np.zeros_like(noise), noise.astype(np.float32)):
        assert len(engine.nuclei().measure(Image(plane[None]))["y"]) == 0
    with pytest.raises(ImageFailed, match="no_usable_values"):
        engine.nuclei().measure(Image(np.full((1, 9, 9), np.nan, np.float32)))


def test_keys_of_thresholds_depend_on_no_device() -> None:
    assert engine.nuclei(device="cpu").key == engine.nuclei().key
    assert engine.nuclei().weights is None
    assert json.dumps(engine.nuclei().identity)
