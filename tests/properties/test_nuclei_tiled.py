"""Nuclei in blocks equal those of the whole image, to the pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import engine
from engine.geometry import Region
from engine.kernels.noise import noise_sd
from engine.operations.base import LABELS, Image
from engine.phantoms.cells.field import CellField
from engine.phantoms.cells.options import CellOptions
from tests.support.instance_blocks import in_blocks


def crowded(seed: int, shape: tuple[int, int], diameter: float) -> NDArray[Any]:
    """Return ellipses at random places, which overlap, on uneven light with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    plane = 50 + 0.2 * y + 0.1 * x
    for _ in range(int(0.4 * shape[0] * shape[1] / diameter**2)):
        cy, cx, turn = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(0, np.pi)
        long, short = diameter / 2 * rng.uniform(0.6, 1.4, 2)
        u = (y - cy) * np.cos(turn) + (x - cx) * np.sin(turn)
        v = (x - cx) * np.cos(turn) - (y - cy) * np.sin(turn)
        inside = (u / long) ** 2 + (v / short) ** 2 <= 1
        plane[inside] = 50 + rng.uniform(200, 600)
    return (plane + rng.normal(0, 5, shape)).astype(np.uint16)[None]


def assert_equal_in_blocks(made: Any, pixels: NDArray[Any], side: int) -> None:
    noise = (noise_sd(pixels[0]),)
    whole = made.measure(Image(pixels, noise))
    found, rows = in_blocks(made, pixels, side, noise)
    assert whole[LABELS].max() > 10
    different = np.argwhere(found != whole[LABELS])
    assert not len(different), f"{len(different)} pixels differ, the first at {different[0]}"
    assert rows["area_px"].to_pylist() == list(whole["area_px"])
    assert not any(rows["cut"].to_pylist())


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([64, 130]), st.sampled_from([6.0, 8.0]))
def test_blocks_equal_the_whole_by_thresholds(seed: int, side: int, diameter: float) -> None:
    pixels = crowded(seed, (300, 260), diameter)
    assert_equal_in_blocks(engine.nuclei(diameter_px=diameter), pixels, side)


def test_blocks_equal_the_whole_in_a_large_field() -> None:
    field = CellField(CellOptions(seed=7), 0)
    pixels = field.draw(Region((0, 0), field.shape)).pixels[:1]
    assert_equal_in_blocks(engine.nuclei(), pixels, 512)
