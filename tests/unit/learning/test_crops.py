"""Who is held out, and what crops show: functions of content and seed, and of nothing else."""

from __future__ import annotations

import random
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import NothingFound, ParameterError, UsageError
from engine.learning.datasets.samples import (
    CELL_PX,
    Sample,
    data_digest,
    ground_colour,
    tissue_cells,
)
from engine.learning.training.crops import choose_crop, crop_rng
from engine.learning.training.settings import Augmentation, TrainingSettings
from engine.learning.training.splits import split_subjects

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="crops are cut by torch")

STILL = Augmentation(scale=1, turn=False, flip=False, elastic_px=0, colour=0, texture=0)
NAMES = st.sets(st.text(min_size=1, max_size=6), min_size=2, max_size=30)


@given(NAMES, st.floats(0.01, 0.99), st.integers(0, 9), st.randoms(use_true_random=False))
def test_the_split_is_by_subject_whatever_the_order(
    names: set[str], holdout: float, seed: int, shuffler: random.Random
) -> None:
    of_images = [name for name in sorted(names) for _ in range(3)]
    out = split_subjects(of_images, holdout, seed)
    shuffler.shuffle(of_images)
    assert split_subjects(of_images, holdout, seed) == out
    assert out < names
    assert len(out) == min(max(1, round(holdout * len(names))), len(names) - 1)


def test_another_seed_holds_out_others_and_a_newcomer_moves_few() -> None:
    names = [f"s{n}" for n in range(40)]
    outs = [split_subjects(names, 0.25, seed) for seed in range(2)]
    assert outs[0] != outs[1]
    assert len(outs[0] ^ split_subjects([*names, "newcomer"], 0.25, 0)) <= 2


def test_one_subject_can_not_be_split() -> None:
    with pytest.raises(NothingFound, match="1 subject"):
        split_subjects(["s1", "s1"], 0.5, 0)
    with pytest.raises(ParameterError, match="holdout"):
        split_subjects(["s1", "s2"], 1.0, 0)


def slide(seed: int = 0, shape: tuple[int, int] = (150, 170)) -> Sample:
    """Return noise whose right half is tissue of class 3, on ground of 240, 230, 220."""
    pixels = np.random.default_rng(seed).integers(0, 200, (3, *shape)).astype(np.uint8)
    labels = np.zeros(shape, np.uint8)
    labels[:, shape[1] // 2 :] = 3
    pixels[:, labels == 0] = np.reshape((240, 230, 220), (3, 1))
    return Sample(f"{seed}", "s1", pixels, labels, str(seed))


@given(st.integers(0, 3), st.integers(0, 1000), st.integers(0, 7))
def test_crops_lie_in_tissue_and_depend_on_seed_and_step(seed: int, step: int, place: int) -> None:
    sample = slide()
    cells = [np.empty((0, 2), np.int32), tissue_cells(sample.labels[:, :])]
    change = Augmentation(elastic_px=0)
    crop = choose_crop(cells, 64, change, crop_rng(seed, step, place, 0))
    again = choose_crop(cells, 64, change, crop_rng(seed, step, place, 0))
    assert np.array_equal(crop.position, again.position)
    assert crop.sample == 1, "the first has no tissue"
    centre = crop.position.reshape(2, -1).mean(axis=1)
    corner = centre // CELL_PX * CELL_PX
    assert corner.tolist() in cells[1].tolist()
    # Turned and mirrored, a crop's rows stay at right angles to its columns and as long.
    right, down = crop.position[:, 0, -1], crop.position[:, -1, 0]
    sides = right - crop.position[:, 0, 0], down - crop.position[:, 0, 0]
    assert np.dot(*sides) == pytest.approx(0, abs=0.05)
    assert 63 / 1.4 - 0.1 <= np.linalg.norm(sides[0]) <= 63 * 1.4 + 0.1


def test_without_tissue_there_is_nothing_to_learn() -> None:
    with pytest.raises(NothingFound, match="No mask"):
        choose_crop([np.empty((0, 2), np.int32)], 64, STILL, crop_rng(0, 0, 0, 0))


def test_ground_is_what_is_labelled_so_or_nearly_the_lightest() -> None:
    sample = slide()
    assert ground_colour(sample).tolist() == [240, 230, 220]
    bare = Sample("x", "s", sample.pixels[:, :, 90:], np.full((150, 80), 3, np.uint8), "x")
    assert (ground_colour(bare) > 180).all()


@needs_torch
def test_a_crop_that_is_not_changed_is_the_slide_and_beyond_it_is_ground() -> None:
    from engine.learning.training.augmentation import cut
    from engine.learning.training.crops import Crop

    sample = slide()
    y, x = np.meshgrid(np.arange(100, 164.0), np.arange(140, 204.0), indexing="ij")
    crop = Crop(0, np.stack((y, x)).astype(np.float32))
    pixels, labels = cut(sample, crop, np.array([240, 230, 220], np.float32), 255)
    inside = sample.pixels[:, 100:150, 140:170]
    assert np.allclose(pixels.numpy()[:, :50, :30] * 255, inside, atol=0.01)
    assert np.array_equal(labels.numpy()[:50, :30], sample.labels[100:150, 140:170])
    assert (labels.numpy()[51:] == 0).all()
    assert np.allclose(pixels.numpy()[:, 52:, 32:].mean((1, 2)) * 255, (240, 230, 220), atol=0.1)


@needs_torch
def test_pixels_and_labels_are_bent_alike() -> None:
    from engine.learning.training.augmentation import cut

    sample = slide(shape=(256, 256))
    flat = np.where(sample.labels == 0, 0, 200).astype(np.uint8)
    two_tone = Sample("t", "s", np.stack([flat] * 3), sample.labels, "t")
    cells = [tissue_cells(sample.labels[:, :])]
    for step in range(5):
        crop = choose_crop(cells, 64, Augmentation(), crop_rng(0, step, 0, 0))
        pixels, labels = cut(two_tone, crop, np.zeros(3, np.float32), 255)
        tissue = pixels.numpy()[0] * 255 > 100
        assert (tissue == (labels.numpy() == 3)).mean() > 0.99


@needs_torch
def test_colours_change_with_the_step_and_not_without_being_asked() -> None:
    import torch

    from engine.learning.training.augmentation import recolour

    grey = torch.full((3, 8, 8), 0.6)
    assert torch.equal(recolour(grey, STILL, crop_rng(0, 0, 0, 1)), grey)
    changed = [recolour(grey, Augmentation(texture=0), crop_rng(0, n, 0, 1)) for n in (1, 1, 2)]
    assert torch.equal(changed[0], changed[1])
    assert not torch.allclose(changed[0], changed[2], atol=0.005)
    assert all(0 <= float(c.min()) <= float(c.max()) <= 1 for c in changed)


@needs_torch
@pytest.mark.parametrize("colours", [False, True])
def test_stains_of_their_own_change_each_by_itself(colours: bool) -> None:
    import torch

    from engine.learning.training.augmentation import recolour

    change = Augmentation(texture=0)
    dark, light = torch.full((3, 8, 8), 0.3), torch.full((3, 8, 8), 0.3)
    light[0] = 0.6
    for n in range(5):
        first, second = (
            recolour(pixels, change, crop_rng(0, n, 0, 1), colours=colours)
            for pixels in (dark, light)
        )
        assert not torch.equal(first[0], second[0])
        assert torch.equal(first[1:], second[1:]) != colours


def test_the_set_has_a_digest_that_order_does_not_change() -> None:
    samples = [slide(n) for n in range(3)]
    assert data_digest(samples, {"s1"}) == data_digest(samples[::-1], {"s1"})
    assert data_digest(samples, {"s1"}) != data_digest(samples, {"s2"})
    assert data_digest(samples, {"s1"}) != data_digest(samples[:2], {"s1"})


def test_settings_say_what_is_wrong_and_steps_may_grow() -> None:
    with pytest.raises(ParameterError, match="crop_px"):
        TrainingSettings(crop_px=3)
    with pytest.raises(UsageError, match=r"no setting 'lerning_rate'.*mean 'learning_rate'"):
        TrainingSettings(lerning_rate=3)
    with pytest.raises(UsageError, match=r"no setting 'augmentation\.colr'.*mean 'colour'"):
        TrainingSettings(augmentation={"colr": 3})
    with pytest.raises(ParameterError, match="object in JSON"):
        TrainingSettings(options="{width: 4}")
    assert TrainingSettings(steps=5).digest == TrainingSettings(steps=9).digest
    assert TrainingSettings(seed=5).digest != TrainingSettings(seed=9).digest
