"""Agreement of labels with manual masks: counts, and scores derived from them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.kernels.segmentation.tissue import bone_density

MARROW = ("background", "bone", "fat", "other")
"""Classes that define a bone density by their areas."""


def confusion(
    truth: NDArray[np.integer], found: NDArray[np.integer], classes: int
) -> NDArray[np.int64]:
    """Count pixels by true class (rows) and found class (columns).

    Parameters
    ----------
    truth, found
        Labels of one shape, all below ``classes``.

    Examples
    --------
    >>> confusion(np.array([0, 1, 1]), np.array([0, 1, 0]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    pairs = classes * np.ravel(truth).astype(np.int64) + np.ravel(found)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def dice_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the Dice coefficient of each class; NaN for a class absent from both.

    Parameters
    ----------
    counts
        (..., classes, classes), from `confusion`.

    Examples
    --------
    >>> dice_of(np.array([[1, 0], [1, 1]])).round(3).tolist()
    [0.667, 0.667]
    """
    both = np.diagonal(counts, axis1=-2, axis2=-1).astype(np.float64)
    sums = counts.sum(axis=-1) + counts.sum(axis=-2)
    return np.divide(2 * both, sums, out=np.full(both.shape, np.nan), where=sums > 0)


def densities_of(counts: NDArray[np.int64]) -> tuple[float, float]:
    """Return an image's true and found bone density; see `bone_density`."""
    return bone_density(counts.sum(axis=1).tolist()), bone_density(counts.sum(axis=0).tolist())


def relative_error(true: float, found: float) -> float:
    """Return ``|found - true| / true``; NaN if the truth is 0 or NaN.

    If the found density is NaN, all of the true density was missed: 1.

    Examples
    --------
    >>> relative_error(0.2, 0.25), relative_error(0.2, float("nan"))
    (0.24999999999999994, 1.0)
    """
    if not true > 0:
        return float("nan")
    return abs(found - true) / true if found == found else 1.0
