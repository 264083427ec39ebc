"""Pieces of a class: as scikit-image measures them, and whole however the plane was cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import regionprops

from engine.kernels.segmentation.components import (
    add_pieces,
    diameter_px,
    eccentricity,
    label_components,
    merge_components,
    number_pixels,
)


def blobs(seed: int, shape: tuple[int, int], share: float) -> NDArray[np.bool_]:
    """Return a mask of coarse noise: pieces of many shapes, some of them large."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((shape[0] // 2 + 1, shape[1] // 2 + 1)) < share
    fine = rng.random(shape) < 0.05
    return np.kron(coarse, np.ones((2, 2), bool))[: shape[0], : shape[1]] ^ fine


@pytest.mark.parametrize("seed", range(3))
def test_pieces_are_those_of_regionprops(seed: int) -> None:
    from skimage.measure import label

    mask = blobs(seed, (60, 83), 0.45)
    found = label_components(mask).pieces
    props = regionprops(label(mask, connectivity=1))
    assert len(found["y"]) == len(props) > 20
    np.testing.assert_array_equal(found["area_px"], [p.area for p in props])
    np.testing.assert_allclose(np.c_[found["y"], found["x"]], [p.centroid for p in props])
    np.testing.assert_allclose(
        diameter_px(found["area_px"]), [p.equivalent_diameter_area for p in props]
    )
    np.testing.assert_allclose(eccentricity(found), [p.eccentricity for p in props], atol=1e-6)
    assert list(found["first"]) == sorted(p.coords[0] @ (mask.shape[1], 1) for p in props)
    np.testing.assert_array_equal(number_pixels(mask), label(mask, connectivity=1))
    height, width = mask.shape
    edge = [p.bbox[0] == 0 or p.bbox[1] == 0 or p.bbox[2] == height or p.bbox[3] == width
            for p in props]  # fmt: skip
    np.testing.assert_array_equal(found["touches_border"], edge)


def sorted_rows(columns: dict[str, NDArray[np.generic]]) -> NDArray[np.float64]:
    rows = np.stack([column.astype(float) for column in columns.values()], axis=1)
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 99), st.integers(1, 40), st.integers(1, 40), st.floats(0.1, 0.8),
    st.integers(3, 17), st.integers(3, 17),
)  # fmt: skip
def test_a_plane_cut_into_blocks_has_the_same_objects(
    seed: int, height: int, width: int, share: float, down: int, across: int
) -> None:
    masks = [blobs(seed + n, (height, width), share) for n in range(2)]
    pieces, runs, plane = [], [], []
    total = 0
    for number, mask in enumerate(masks):  # two planes, which must not meet
        for y in range(0, height, down):
            for x in range(0, width, across):
                found = label_components(mask[y : y + down, x : x + across], (y, x), mask.shape)
                pieces.append(found.pieces)
                runs.append({**found.runs, "piece": found.runs["piece"] + total})
                count = len(found.pieces["y"])
                plane += [number] * count
                total += count
    all_pieces = {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
    all_runs = {name: np.concatenate([r[name] for r in runs]) for name in runs[0]}
    number = merge_components(np.array(plane, int), all_pieces, all_runs)
    objects = add_pieces(number, all_pieces)
    due = [label_components(mask).pieces for mask in masks]
    together = {name: np.concatenate([d[name] for d in due]) for name in due[0]}
    np.testing.assert_allclose(sorted_rows(objects), sorted_rows(together), atol=1e-6)
