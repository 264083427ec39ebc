"""`nuclei` by a network: the same in parts of an image, and its key and resources."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.errors import ParameterError
from engine.learning.datasets.depths import DEPTHS
from engine.learning.models.bundle import Bundle, write_bundle
from engine.learning.models.card import Card, make_classes
from engine.operations.base import LABELS, Image
from engine.operations.nuclei.inference import predict_depths, reach_px

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")


def random_model(folder: Path, classes: tuple[str, ...] = DEPTHS, seed: int = 0) -> Bundle:
    """Write a model with random weights."""
    from engine.kernels.networks.halfunet import HalfUNet

    torch.manual_seed(seed)
    network = HalfUNet(1, len(classes), 4)
    card = Card(
        name="random", architecture="halfunet", options={"width": 4},
        classes=make_classes(classes), channels=("grey",), mean=(0.5,), sd=(0.5,), tile_px=128,
        halo_px=96,
    )  # fmt: skip
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    return write_bundle(folder, card, safetensors.save(state))


@pytest.mark.parametrize("factor", [1.0, 0.6, 1.3])
def test_parts_have_the_depths_of_the_whole(tmp_path: Path, factor: float) -> None:
    model = random_model(tmp_path / "model")
    predictor = model.load("cpu")
    shape = (90, 1500)
    rng = np.random.default_rng(1)
    plane = rng.normal(100, 20, shape).astype(np.float32) + np.arange(1500, dtype=np.float32) / 9
    whole = predict_depths(plane, 20.0, (0, 0), shape, factor, model.card, predictor)
    left, right = 130, 1370
    part = predict_depths(
        plane[:, left:right], 20.0, (0, left), shape, factor, model.card, predictor
    )
    far = int((reach_px(model.card) + 8) / factor) + 8
    core = slice(left + far, right - far)
    assert core.stop - core.start > 50
    for one, other in zip(whole, part, strict=True):
        assert np.array_equal(one[:, core], other[:, far:-far])
        assert one.std() > 0


def test_a_model_belongs_to_the_key_and_its_folder_does_not(tmp_path: Path) -> None:
    model, other = random_model(tmp_path / "a"), random_model(tmp_path / "b", seed=1)
    made = engine.nuclei(model=str(model.directory))
    moved = shutil.copytree(model.directory, tmp_path / "moved" / "c")
    assert engine.nuclei(model=str(moved)).key == made.key
    assert engine.nuclei(model=str(other.directory)).key != made.key
    assert engine.nuclei().key != made.key
    assert made.resources == {"GPU": 1}
    assert engine.nuclei().resources == {}


def test_a_model_of_other_classes_is_refused(tmp_path: Path) -> None:
    model = random_model(tmp_path / "model", ("background", "inner"))
    with pytest.raises(ParameterError, match="rim"):
        engine.nuclei(model=str(model.directory))


def test_a_network_gives_instances(tmp_path: Path) -> None:
    model = random_model(tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 255, (1, 70, 90)).astype(np.uint8)
    found = engine.nuclei(model=str(model.directory), diameter_px=30.0, device="cpu").measure(
        Image(pixels)
    )
    assert np.asarray(found[LABELS]).shape == (70, 90)
    assert len(found["y"]) == np.asarray(found[LABELS]).max()
