"""Objects are split alike whatever lies elsewhere in the image, also where heights are equal."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.kernels.segmentation.split import split_objects


def first_pixels(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the index of the first pixel of each pixel's object; -1 is background."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.where(labels > 0, first[inverse].reshape(labels.shape), -1)


def cluster(seed: int, side: int) -> NDArray[np.float64]:
    """Return overlapping cones of whole heights, which have many equal pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    height = np.zeros((side, side))
    for _ in range(6):
        cy, cx = rng.integers(3, side - 3, 2)
        cone = rng.integers(2, 5) - np.maximum(abs(y - cy), abs(x - cx))
        height = np.maximum(height, cone)
    return height


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(14, 24), st.sampled_from([0.5, 0.7, 1.0]))
def test_a_cluster_is_split_as_it_is_alone(seed: int, side: int, pass_share: float) -> None:
    one, gap = cluster(seed, side), 2
    whole = np.zeros((3 * (side + gap), 3 * (side + gap)))
    for n in range(9):
        y, x = (side + gap) * (n // 3), (side + gap) * (n % 3)
        whole[y : y + side, x : x + side] = one if n == 4 else cluster(seed + n + 1, side)
    part = np.s_[side + gap : 2 * side + gap, side + gap : 2 * side + gap]
    alone = split_objects(one > 0, one, pass_share)
    among = split_objects(whole > 0, whole, pass_share)[part]
    np.testing.assert_array_equal(first_pixels(among), first_pixels(alone))
