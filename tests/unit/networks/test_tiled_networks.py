"""Tiled equals whole: networks on a slide's worth of pixels, and MONAI's inferer on one grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need torch: pip install .[segment]")

from engine.kernels.networks.torch_predictor import NetworkPredictor  # noqa: E402
from engine.kernels.tiling.inference import Batches, classes_of, predict_tiled  # noqa: E402
from engine.kernels.tiling.plan import plan_grid  # noqa: E402
from tests.support.networks import (  # noqa: E402
    compare_tiled_and_whole,
    random_network,
    smooth_pixels,
)

NARROW = {"architecture": "unet", "options": {"width": 2}}
LOCAL = {"blocks": [1, 1, 1, 1], "pool_px": 256}
SLIDE = (1100, 1500)


@pytest.mark.parametrize(
    ("architecture", "options", "shape", "tile", "halo"),
    [
        ("unet", {"width": 4}, SLIDE, (384, 384), 128),
        (
            "ensemble",
            {"members": [NARROW, {**NARROW, "options": {"width": 3}}]},
            (500, 700),
            (256, 256),
            128,
        ),
        # As wide as several tiles, and low, since a DeepLabv3 costs much more per pixel.
        ("deeplabv3", LOCAL, (32, 1200), (32, 320), 400),
    ],
)
def test_tiled_equals_whole_without_a_seam(
    architecture: str,
    options: dict[str, Any],
    shape: tuple[int, int],
    tile: tuple[int, int],
    halo: int,
) -> None:
    found = compare_tiled_and_whole(random_network(architecture, options), shape, tile, halo)
    print(f"{architecture} {shape}: {found}")
    assert found["largest_class"] < 0.8, "a real choice"
    assert found["spare_halo_px"] >= 0, "the halo reaches"
    assert found["agree"] >= 0.999
    # No more than elsewhere, where both may be none; three pixels are no seam.
    no_seam = found["agree_near_borders"] >= found["agree_elsewhere"]
    assert no_seam or found["pixels_apart_near_borders"] <= 3


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
