"""Segmentation of the blood pool inside an outer contour, by brightness alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError


def segment_bloodpool(
    plane: NDArray[Any], inside: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], float]:
    """Return the blood pool inside an outer contour, and the threshold used.

    Select the pixels inside that are brighter than Otsu's threshold (N. Otsu, "A threshold
    selection method from gray-level histograms", IEEE Transactions on Systems, Man, and Cybernetics
    9 (1979) 62-66); keep the largest connected part (by sides and corners); and fill its convex
    hull, which includes papillary muscles, as people do who draw the endocardium. Parts of the hull
    outside the contour are removed.

    Parameters
    ----------
    plane
        (y, x), grey levels; blood is bright.
    inside
        (y, x), True inside the outer contour.

    Returns
    -------
    (y, x), True in the blood pool; empty, with a threshold of NaN, if the inside has fewer than two
    grey levels.

    Examples
    --------
    >>> plane = np.full((9, 9), 10)
    >>> plane[3:6, 3:6] = 90
    >>> pool, threshold = segment_bloodpool(plane, np.ones((9, 9), bool))
    >>> int(pool.sum()), 10 <= threshold < 90
    (9, True)
    """
    from skimage.filters import threshold_otsu  # takes half a second, and few processes need it
    from skimage.measure import label
    from skimage.morphology import convex_hull_image

    if plane.shape != inside.shape or plane.ndim != 2:
        raise ParameterError("plane", plane.shape, f"a plane as large as its mask {inside.shape}")
    nothing = np.zeros(inside.shape, bool)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        return nothing, float("nan")
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    part, within = plane[box], inside[box]  # original dtype, so integers compare exactly
    values = part[within & np.isfinite(part)]
    if not len(values) or values.min() == values.max():
        return nothing, float("nan")
    threshold = float(threshold_otsu(values))
    parts = label(within & (part > threshold), connectivity=2)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest = parts == int(sizes.argmax())
    if largest.sum() > 2:  # fewer pixels have no hull
        largest = convex_hull_image(largest, offset_coordinates=True) & within
    nothing[box] = largest
    return nothing, threshold


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the overlap of two masks, from 0 to 1 (L. R. Dice, Ecology 26 (1945) 297-302).

    Two empty masks are equal: 1.

    Examples
    --------
    >>> dice(np.array([True, True, False]), np.array([False, True, False]))
    0.6666666666666666
    """
    total = int(first.sum()) + int(second.sum())
    return 2.0 * int((first & second).sum()) / total if total else 1.0
