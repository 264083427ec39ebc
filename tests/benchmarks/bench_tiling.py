"""Tiled against whole with networks of full size, which are too slow for the tests."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

OPTIONS = {"pool_px": 512}
"""ResNet-101: what it answers depends on what is 800 px away, so a halo that reaches is wider."""

CASES = (
    ("unet", {}, (1100, 1500), (512, 512), 128),
    ("deeplabv3", OPTIONS, (48, 2400), (48, 800), 920),
    ("fusion", OPTIONS, (48, 2400), (48, 800), 928),
)


def main() -> dict[str, Any]:
    """Print and return how far the class maps agree."""
    if find_spec("torch") is None:
        print("tiling: torch is not installed (pip install .[segment])")
        return {}
    from tests.networks_for_tests import compare_tiled_and_whole, random_network

    figures = {}
    for architecture, options, shape, tile, halo in CASES:
        network = random_network(architecture, options)
        figures[architecture] = compare_tiled_and_whole(network, shape, tile, halo)
        print(f"tiled = whole, {architecture}: {json.dumps(figures[architecture])}")
    return figures


if __name__ == "__main__":
    main()
