"""Tiled equals whole: networks on a slide's worth of pixels, and MONAI's inferer on one grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="networks need torch: pip install .[segment]")

from engine.kernels.networks.base import Network  # noqa: E402
from engine.kernels.networks.building import create_network  # noqa: E402
from engine.kernels.networks.prediction import NetworkPredictor  # noqa: E402
from engine.kernels.tiled import Batches, classes_of, predict_tiled  # noqa: E402
from engine.kernels.tiled_plan import TiledPlan, plan_grid, plan_tiled  # noqa: E402

NEAR_PX = 8
"""A seam would show within this many pixels of a border between tiles."""


def smooth_pixels(shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Return colours that vary on many scales, as slides do: (3, y, x)."""
    rng = np.random.default_rng(seed)
    total = np.zeros((3, *shape))
    for scale in (4, 16, 64):
        coarse = rng.normal(0, 1, (3, shape[0] // scale + 2, shape[1] // scale + 2))
        total += np.kron(coarse, np.ones((scale, scale)))[:, : shape[0], : shape[1]]
    return np.clip(128 + 35 * total, 0, 255).astype(np.uint8)


def random_network(architecture: str, options: dict[str, Any]) -> Network:
    """Return a network whose classes are all used: random weights, running statistics fitted."""
    torch.manual_seed(3)
    network = create_network(architecture, options, channels=3, classes=4).train()
    pixels = torch.from_numpy(smooth_pixels((128, 128), seed=1)[None].astype(np.float32))
    with torch.inference_mode():
        for _ in range(20):
            network((pixels - 128) / 60)
        network.eval()
        scores = network((pixels - 128) / 60)
        last = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        sd, mean = torch.std_mean(scores, (0, 2, 3))
        last.weight.data /= sd.reshape(-1, 1, 1, 1)
        last.bias.data = (last.bias.data - mean) / sd
    return network


def tiled_map(
    predictor: NetworkPredictor, pixels: NDArray[np.uint8], plan: TiledPlan, batch: int = 4
) -> NDArray[np.uint8]:
    found = np.full(plan.shape, 255, np.uint8)
    for band in predict_tiled(lambda r: pixels[:, *r.slices], plan, Batches(predictor, batch)):
        found[band.region.slices] = classes_of(band.planes, 4)
    return found


def near_borders(shape: tuple[int, int], tile: tuple[int, int]) -> NDArray[np.bool_]:
    near = np.zeros(shape, bool)
    for border in range(tile[0], shape[0], tile[0]):
        near[border - NEAR_PX : border + NEAR_PX] = True
    for border in range(tile[1], shape[1], tile[1]):
        near[:, border - NEAR_PX : border + NEAR_PX] = True
    return near


LOCAL = {"blocks": [1, 1, 1, 1], "pool_px": 256}
FULL = {"pool_px": 512}
"""ResNet-101: its answers depend on what is 795 px away, so a halo that reaches is as wide."""

SLIDE = (1100, 1500)


@pytest.mark.parametrize(
    ("architecture", "options", "shape", "tile", "halo"),
    [
        ("unet", {"width": 4}, SLIDE, (384, 384), 128),
        # As wide as several tiles, and low, since a DeepLabv3 costs much more per pixel.
        ("deeplabv3", LOCAL, (32, 1200), (32, 320), 400),
        pytest.param("deeplabv3", FULL, (48, 2400), (48, 800), 912, marks=pytest.mark.benchmark),
        pytest.param("fusion", FULL, (48, 2400), (48, 800), 928, marks=pytest.mark.benchmark),
    ],
)
def test_tiled_equals_whole_without_a_seam(
    architecture: str,
    options: dict[str, Any],
    shape: tuple[int, int],
    tile: tuple[int, int],
    halo: int,
) -> None:
    network = random_network(architecture, options)
    predictor = NetworkPredictor(network, (128,) * 3, (60,) * 3, "cpu")
    pixels = smooth_pixels(shape)
    whole = classes_of(predictor(pixels[None])[0], 4)
    assert np.bincount(whole.ravel(), minlength=4).max() < 0.8 * whole.size, "a real choice"
    tiled = tiled_map(predictor, pixels, plan_tiled(shape, tile, halo, None, network.multiple_px))
    apart = tiled != whole
    near = near_borders(shape, tile)
    reaches = halo - halo // 8 >= network.reach_px
    print(f"{architecture} {shape}: agree on {1 - apart.mean():.5%}, near borders ", end="")
    print(f"{1 - apart[near].mean():.5%}; the halo {'reaches' if reaches else 'falls short'}")
    assert apart.mean() <= 0.001
    # No more than elsewhere, where both may be none; three pixels are no seam.
    assert apart[near].sum() <= max(3, apart[~near].mean() * near.sum())


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_monais_inferer_gives_the_same_map(mode: str) -> None:
    inferers = pytest.importorskip("monai.inferers", reason="monai is not installed")
    from monai.data.utils import compute_importance_map

    roi, step, shape = 96, 72, (96 + 72 * 2, 96 + 72 * 3 - 20)
    network = random_network("unet", {"width": 4})
    predictor = NetworkPredictor(network, (128,) * 3, (60,) * 3, "cpu")
    pixels = smooth_pixels(shape)
    if mode == "constant":
        profile = np.ones(roi, np.float32)
    else:
        profile = compute_importance_map((roi,), "gaussian", 0.125, "cpu").numpy()
    with torch.inference_mode():
        theirs = inferers.sliding_window_inference(
            torch.from_numpy(pixels[None].astype(np.float32)),
            roi,
            4,
            lambda images: torch.from_numpy(predictor(images.numpy())),
            overlap=1 - step / roi,
            roi_weight_map=torch.from_numpy(np.outer(profile, profile)),
        ).numpy()[0]
    # MONAI shifts its last windows back, so that all are whole.
    starts = [
        sorted({min(first, size - roi) for first in range(0, size - roi + step, step)})
        for size in shape
    ]
    plan = plan_grid(shape, (starts[0], starts[1]), (profile, profile))
    ours = np.full((4, *shape), np.nan, np.float32)
    for band in predict_tiled(lambda r: pixels[:, *r.slices], plan, Batches(predictor, 4)):
        ours[:, *band.region.slices] = band.planes
    np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert (classes_of(ours, 4) == theirs.argmax(0)).mean() >= 0.999
