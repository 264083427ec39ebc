"""Separation of objects that touch, along the valleys of a height.

Every step depends on pixels near an object only, so blocks of an image that see an object and its
neighbours whole separate them as the whole image does. That is why all maxima are seeds, which are
joined afterwards by the height of the pass between two: the usual removal of low maxima before
(by reconstruction) depends on pixels at any distance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

AROUND = np.ones((3, 3), bool)
"""Neighbours of a pixel, diagonal ones too."""


def split_objects(
    inside: NDArray[np.bool_], height: NDArray[np.floating[Any]], pass_share: float
) -> NDArray[np.int32]:
    """Return a number (y, x) for each object; 0 is background.

    Parameters
    ----------
    inside
        (y, x): pixels of any object.
    height
        (y, x): largest in the middle of objects, and lower where two touch.
    pass_share
        Two maxima belong to one object if the pass between them is higher than this share of the
        lower one.

    Examples
    --------
    >>> height = np.array([[0, 2, 3, 2, 1, 2, 3, 2.5, 2.8, 0]])
    >>> split_objects(height > 0, height, pass_share=0.7)
    array([[0, 1, 1, 1, 1, 2, 2, 2, 2, 0]], dtype=int32)
    """
    from skimage.morphology import local_maxima
    from skimage.segmentation import watershed

    height = np.where(inside, height, height.min(initial=0) - 1)
    seeds, count = ndimage.label(local_maxima(height, connectivity=2) & inside, AROUND)
    if not count:
        return np.zeros(inside.shape, np.int32)
    basins = watershed(_ranks(height, inside), seeds, connectivity=2, mask=inside)
    peaks = np.zeros(count + 1)
    peaks[seeds] = height  # all pixels of a maximum have one height
    first, second, passes = _passes(basins, height)
    same = passes > pass_share * np.minimum(peaks[first], peaks[second])
    pairs = coo_array((same[same], (first[same], second[same])), (count + 1, count + 1))
    return connected_components(pairs, directed=False)[1].astype(np.int32)[basins]


def _ranks(height: NDArray[np.floating[Any]], inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return ranks (y, x) of pixels, the highest first, and of equal ones the first by rows.

    `watershed` orders equal seeds by chance: by what lies elsewhere in the image.
    """
    values = height[inside]
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(-values, kind="stable")] = np.arange(len(values))
    found = np.zeros(height.shape, np.int64)
    found[inside] = ranks
    return found


def _passes(
    basins: NDArray[np.int32], height: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating[Any]]]:
    """Return all pairs of basins that touch, and the height of the pass between them."""
    firsts, seconds, levels = [], [], []
    for a, b in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None, -1), slice(None, -1)), (slice(1, None), slice(1, None))),
        ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))),
    ):
        touch = (basins[a] != basins[b]) & (basins[a] > 0) & (basins[b] > 0)
        one, other = basins[a][touch], basins[b][touch]
        firsts.append(np.minimum(one, other))
        seconds.append(np.maximum(one, other))
        levels.append(np.minimum(height[a][touch], height[b][touch]))
    first, second, level = (np.concatenate(part) for part in (firsts, seconds, levels))
    order = np.lexsort((-level, second, first))
    first, second, level = (
        first[order].astype(np.int64),
        second[order].astype(np.int64),
        level[order],
    )
    highest = np.ones(len(order), bool)
    highest[1:] = (np.diff(first) != 0) | (np.diff(second) != 0)
    return first[highest], second[highest], level[highest]


def fill_small_holes(inside: NDArray[np.bool_], most_px: int) -> NDArray[np.bool_]:
    """Fill holes with a height and width of at most ``most_px``; those at the border stay."""
    holes, _ = ndimage.label(~inside)
    filled = inside.copy()
    for number, box in enumerate(ndimage.find_objects(holes), 1):
        if all(side.stop - side.start <= most_px for side in box) and not any(
            side.start == 0 or side.stop == length
            for side, length in zip(box, inside.shape, strict=True)
        ):
            filled[box] |= holes[box] == number
    return filled


def remove_small(labels: NDArray[np.int32], least_px: float) -> NDArray[np.int32]:
    """Return labels without objects of fewer pixels; the numbers of others stay."""
    small = np.bincount(labels.ravel()) < least_px
    return np.where(small[labels], 0, labels)
