"""Tiled against whole with networks of full size, which are too slow for the tests.

``python -m tests.benchmarks.bench_tiling slides`` takes 1,500 x 1,100 px for the networks with a
ResNet-101 too. One forward pass of that takes minutes on two cores and 2.1 GiB, and with a halo of
920 px each tile reads nearly all of it; so by default they get a strip, which is wider than what a
tile reads.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from typing import Any

OPTIONS = {"pool_px": 512}
"""ResNet-101: what it answers depends on what is 800 px away, so a halo that reaches is wider."""

MEMBERS = [{"architecture": "unet", "options": {"width": width}} for width in (8, 6)]

SLIDE = 1100, 1500

CONVOLUTIONAL = (
    ("unet", "unet", {}, SLIDE, (512, 512), 128),
    ("ensemble", "ensemble", {"members": MEMBERS}, SLIDE, (512, 512), 128),
)
STRIPS = (
    ("deeplabv3", "deeplabv3", OPTIONS, (48, 2400), (48, 800), 920),
    ("fusion", "fusion", OPTIONS, (48, 2400), (48, 800), 928),
    ("deeplabv3, global mean", "deeplabv3", {}, (48, 2400), (48, 800), 920),
)
SLIDES = (
    ("deeplabv3", "deeplabv3", OPTIONS, SLIDE, (1104, 512), 920),
    ("fusion", "fusion", OPTIONS, SLIDE, (1104, 512), 928),
    ("deeplabv3, global mean", "deeplabv3", {}, SLIDE, (1104, 512), 920),
)


def main(slides: bool = False) -> dict[str, Any]:
    """Print and return how far the class maps agree."""
    if find_spec("torch") is None:
        print("tiling: torch is not installed (pip install .[segment])")
        return {}
    from tests.support.networks import compare_tiled_and_whole, random_network

    figures = {}
    cases = (*CONVOLUTIONAL, *(SLIDES if slides else STRIPS))
    for name, architecture, options, shape, tile, halo in cases:
        network = random_network(architecture, options)
        figures[name] = compare_tiled_and_whole(network, shape, tile, halo)
        print(f"tiled = whole, {name}, {shape}: {json.dumps(figures[name])}", flush=True)
    return figures


if __name__ == "__main__":
    main(sys.argv[1:] == ["slides"])
