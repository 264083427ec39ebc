"""Networks for tests: random weights that use all classes, and maps of whole images and tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.kernels.networks.base import Network
from engine.kernels.networks.factory import create_network
from engine.kernels.networks.torch_predictor import NetworkPredictor
from engine.kernels.tiling.inference import Batches, classes_of, predict_tiled
from engine.kernels.tiling.plan import TiledPlan, plan_tiled

NEAR_PX = 8
"""A seam would show within this many pixels of a border between tiles."""


def smooth_pixels(shape: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """Return colours that vary on many scales, as on slides: (3, y, x)."""
    rng = np.random.default_rng(seed)
    total = np.zeros((3, *shape))
    for scale in (4, 16, 64):
        coarse = rng.normal(0, 1, (3, shape[0] // scale + 2, shape[1] // scale + 2))
        total += np.kron(coarse, np.ones((scale, scale)))[:, : shape[0], : shape[1]]
    return np.clip(128 + 35 * total, 0, 255).astype(np.uint8)


def random_network(architecture: str, options: dict[str, Any]) -> Network:
    """Return a network that uses all classes: random weights, with fitted running statistics."""
    torch.manual_seed(3)
    network = create_network(architecture, options, channels=3, classes=4).train()
    # A global mean is one value a plane of one image, and the values of one image have no variance.
    pooled = architecture in ("deeplabv3", "fusion") and "pool_px" not in options
    seen = [smooth_pixels((128, 128), seed) for seed in ((1, 2) if pooled else (1,))]
    images = (torch.from_numpy(np.stack(seen).astype(np.float32)) - 128) / 60
    with torch.inference_mode():
        for _ in range(20):
            network(images)
        network.eval()
        for member in getattr(network, "members", [network]):
            last = [part for part in member.modules() if isinstance(part, torch.nn.Conv2d)][-1]
            sd, mean = torch.std_mean(member(images), (0, 2, 3))
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


def compare_tiled_and_whole(
    network: Network, shape: tuple[int, int], tile: tuple[int, int], halo: int
) -> dict[str, float]:
    """Return the shares of pixels with equal classes, and the reach of the halo."""
    predictor = NetworkPredictor(network, (128,) * 3, (60,) * 3, "cpu")
    pixels = smooth_pixels(shape)
    whole = classes_of(predictor(pixels[None])[0], 4)
    tiled = tiled_map(predictor, pixels, plan_tiled(shape, tile, halo, None, network.multiple_px))
    apart, near = tiled != whole, near_borders(shape, tile)
    return {
        "agree": float(1 - apart.mean()),
        "agree_near_borders": float(1 - apart[near].mean()),
        "agree_elsewhere": float(1 - apart[~near].mean()),
        "pixels_apart_near_borders": int(apart[near].sum()),
        "largest_class": float(np.bincount(whole.ravel(), minlength=4).max() / whole.size),
        "spare_halo_px": halo - halo // 8 - network.reach_px,
    }
