"""Networks: what goes in and comes out, whatever the size, and whose names the weights have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import ParameterError

torch = pytest.importorskip("torch", reason="networks need torch: pip install .[segment]")

from engine.kernels.networks.base import Network  # noqa: E402
from engine.kernels.networks.deeplab import DeepLabV3, load_torchvision  # noqa: E402
from engine.kernels.networks.ensembles import Ensemble, Fusion, disagreement  # noqa: E402
from engine.kernels.networks.factory import create_network  # noqa: E402
from engine.kernels.networks.torch_predictor import NetworkPredictor  # noqa: E402
from engine.kernels.networks.unet import UNet  # noqa: E402

SMALL = (1, 1, 1, 1)
"""Blocks of a backbone that is quick enough for tests; all else is as in ResNet-101."""


UNET = {"architecture": "unet", "options": {"width": 2}}
DEEPLAB = {"architecture": "deeplabv3", "options": {"blocks": SMALL}}
NETWORKS: dict[str, dict[str, Any]] = {
    "unet": {**UNET},
    "shortcuts": {"architecture": "unet", "options": {"width": 2, "shortcuts": True}},
    "local mean": {"architecture": "deeplabv3", "options": {"blocks": SMALL, "pool_px": 64}},
    "fusion": {"architecture": "fusion", "options": {"blocks": SMALL, "width": 2}},
    "ensemble": {"architecture": "ensemble", "options": {"members": [UNET, DEEPLAB, UNET]}},
}


def small_network(name: str) -> Network:
    torch.manual_seed(0)
    return create_network(**NETWORKS[name], channels=3, classes=4).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_any_size_gives_one_probability_per_class_and_pixel(name: str) -> None:
    network = small_network(name)
    with torch.inference_mode():
        for shape in ((1, 3, 1, 1), (2, 3, 17, 33)):
            images = torch.rand(shape)
            found = network.probabilities(images)
            assert found.shape == (shape[0], 4, *shape[2:])
            torch.testing.assert_close(found.sum(1), torch.ones(shape[0], *shape[2:]))
            torch.testing.assert_close(network(images).softmax(1), found)


def test_what_is_beyond_the_reach_does_not_count() -> None:
    network = small_network("unet")
    reach = network.reach_px
    images = torch.rand(1, 3, 16, reach * 2 + 48, requires_grad=True)
    furthest = 0
    for pixel in range(reach + 8, reach + 8 + network.multiple_px):
        (grad,) = torch.autograd.grad(network(images)[0, :, :, pixel].sum(), images)
        columns = torch.nonzero(grad.abs().sum((0, 1, 2)))[:, 0] - pixel
        furthest = max(furthest, *columns.abs().tolist())
    assert reach - 16 <= furthest <= reach


def test_the_reach_of_a_deeplab_counts_its_local_mean() -> None:
    near, far = (DeepLabV3(blocks=SMALL, pool_px=pool_px).reach_px for pool_px in (64, 1024))
    assert far - near > 200
    network = DeepLabV3(blocks=SMALL, pool_px=1024).eval()
    middle = far + 8
    images = torch.rand(1, 3, 8, 2 * far + 48, requires_grad=True)
    (grad,) = torch.autograd.grad(network(images)[0, :, :, middle].sum(), images)
    columns = torch.nonzero(grad.abs().sum((0, 1, 2)))[:, 0] - middle
    assert -far <= columns.min() < -500
    assert 500 < columns.max() <= far


def test_one_crop_at_a_time_can_not_be_normalised_by_its_mean() -> None:
    images = torch.rand(1, 3, 64, 64)
    with pytest.raises(ParameterError, match="batch is 1, but must be 2 or more"):
        DeepLabV3(blocks=SMALL).train()(images)
    assert DeepLabV3(blocks=SMALL, pool_px=32).train()(images).shape == (1, 4, 64, 64)


def test_a_local_mean_of_everything_is_the_global_mean() -> None:
    state = DeepLabV3(blocks=SMALL).state_dict()
    images = torch.rand(1, 3, 40, 56)
    answers = []
    for pool_px in (None, 8 * 40):
        network = DeepLabV3(blocks=SMALL, pool_px=pool_px).eval()
        network.load_state_dict(state)
        with torch.inference_mode():
            answers.append(network(images))
    torch.testing.assert_close(answers[0], answers[1])


def test_weights_by_torchvisions_names_load_and_answer_alike() -> None:
    """The whole ResNet-101, against torchvision's own model."""
    from torchvision.models.segmentation import deeplabv3_resnet101

    theirs = deeplabv3_resnet101(
        weights=None, weights_backbone=None, num_classes=4, aux_loss=True
    ).eval()
    ours = DeepLabV3(channels=3, classes=4).eval()
    assert load_torchvision(ours, theirs.state_dict()) == ()
    images = torch.rand(1, 3, 64, 48)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images)["out"])
    fusion = Fusion(width=4)
    left = load_torchvision(fusion.deeplab, theirs.state_dict())
    assert left == ("classifier.4.weight", "classifier.4.bias"), "16 planes are not 4 classes"
    torch.testing.assert_close(fusion.deeplab.backbone.conv1.weight, ours.backbone.conv1.weight)


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_weights_that_do_not_fit_are_refused(change: str) -> None:
    network = DeepLabV3(blocks=SMALL)
    state = network.state_dict()
    if change == "missing":
        del state["backbone.conv1.weight"]
    elif change == "unknown":
        state["backbone.fc.weight"] = torch.zeros(1)
    else:
        state["backbone.conv1.weight"] = torch.zeros(64, 1, 7, 7)
    before = network.classifier[4].bias.clone()
    with pytest.raises(ParameterError, match=r"backbone\.(conv1|fc)\.weight"):
        load_torchvision(network, state)
    assert torch.equal(network.classifier[4].bias, before)


def test_the_unet_is_as_large_as_the_published_one() -> None:
    """7.76 million weights at width 32; batch normalisation has two per plane of them."""
    weights = sum(p.numel() for p in UNet(channels=3, classes=1, width=32).parameters())
    assert weights == pytest.approx(7.76e6, rel=0.01)


def test_an_ensemble_averages_probabilities_and_says_how_far_members_differ() -> None:
    torch.manual_seed(1)
    members = [UNet(width=2), UNet(width=2), UNet(width=2)]
    # One member is very sure; a mean of scores would follow it alone.
    members[0].last.weight.data *= 1000
    ensemble = Ensemble(members).eval()
    images = torch.rand(1, 3, 20, 20)
    with torch.inference_mode():
        each = torch.stack([member.eval().probabilities(images) for member in members])
        torch.testing.assert_close(ensemble.probabilities(images), each.mean(0))
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = sum((each[a] - each[b]).abs().sum(1) / 2 for a, b in pairs) / 3
    torch.testing.assert_close(disagreement(each), expected)
    answer = NetworkPredictor(ensemble, (0, 0, 0), (1, 1, 1), "cpu")(images.numpy())
    assert answer.shape == (1, 5, 20, 20)
    np.testing.assert_allclose(answer[:, 4], expected, atol=1e-5)


def test_the_fusion_learns() -> None:
    torch.manual_seed(2)
    network = Fusion(classes=2, width=2, blocks=SMALL).train()
    images = torch.rand(2, 3, 16, 16)
    truth = (images[:, 0] > 0.3).long()
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    losses = []
    for _ in range(6):
        loss = torch.nn.functional.cross_entropy(network(images), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("architecture", "options", "word"),
    [
        ("vnet", {}, "one of unet"),
        ("unet", {"depth": 3}, "an option of unet: width, shortcuts"),
        ("unet", {"width": 0}, "at least 1"),
        ("unet", {"width": "wide"}, "usable"),
        ("deeplabv3", {"blocks": [3, 4, 0, 3]}, "four numbers"),
        ("deeplabv3", {"pool_px": 3}, "at least 8"),
        ("ensemble", {"members": [{"architecture": "unet"}]}, "two or more"),
        ("ensemble", {"members": [{"options": {}}]}, "an architecture"),
        ("ensemble", {}, "its members"),
    ],
)
def test_a_network_that_can_not_be_is_refused(
    architecture: str, options: dict[str, Any], word: str
) -> None:
    with pytest.raises(ParameterError, match=word):
        create_network(architecture, options, 3, 4)


def test_members_of_an_ensemble_agree_on_what_they_answer() -> None:
    with pytest.raises(ParameterError, match="same channels and classes"):
        Ensemble([UNet(width=2), UNet(width=2, classes=2)])


def test_pixels_are_normalised_as_the_card_says() -> None:
    network = UNet(width=2)
    pixels = np.random.default_rng(0).integers(0, 255, (1, 3, 24, 24)).astype(np.uint8)
    found = NetworkPredictor(network, (10, 20, 30), (50, 60, 70), "cpu")(pixels)
    normalised = (pixels - np.reshape((10, 20, 30), (3, 1, 1))) / np.reshape(
        (50, 60, 70), (3, 1, 1)
    )
    with torch.inference_mode():
        expected = network.probabilities(torch.tensor(normalised, dtype=torch.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ParameterError, match="one for each"):
        NetworkPredictor(network, (0,), (1,), "cpu")


def test_too_large_a_batch_for_a_cpu_is_a_memory_error() -> None:
    class Greedy(UNet):
        def score(self, images: Any) -> Any:
            return torch.empty(2**55, dtype=torch.uint8)

    predictor = NetworkPredictor(Greedy(width=2), (0, 0, 0), (1, 1, 1), "cpu")
    with pytest.raises(MemoryError, match="a batch of 2"):
        predictor(np.zeros((2, 3, 16, 16), np.uint8))


@pytest.mark.gpu
def test_a_gpu_answers_like_a_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pixels = np.random.default_rng(0).integers(0, 255, (2, 3, 64, 64)).astype(np.uint8)
    for name in NETWORKS:
        network = small_network(name)
        answers = [
            NetworkPredictor(network, (128,) * 3, (64,) * 3, device)(pixels)[:, :4].argmax(1)
            for device in ("cpu", "cuda")
        ]
        assert (answers[0] == answers[1]).mean() > 0.99
