"""Bootstrap confidence intervals over images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

DRAWS = 2_000

AGREEING = 3
"""Least images for correlation and limits of agreement: two points always lie on a line."""

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A figure and its 95 % interval; NaN if undefined."""

    value: float
    low: float
    high: float


UNKNOWN = Interval(*(float("nan"),) * 3)


def bootstrap(
    values: NDArray[Any],
    statistic: Callable[[NDArray[Any]], NDArray[np.float64]],
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return a statistic of images, and the ends of its confidence interval.

    Whole images are resampled: pixels of one image are not independent evidence.

    Parameters
    ----------
    values
        (images, ...): data of each image.
    statistic
        From (n, images, ...) to (n, ...): evaluates n sets of images at once.
    draws, seed
        Number of resampled sets, and seed of the random numbers.

    Returns
    -------
    The statistic, and its 2.5th and 97.5th percentile over the resampled sets.

    Notes
    -----
    B. Efron, R. J. Tibshirani: An Introduction to the Bootstrap (1993), percentile intervals.

    Examples
    --------
    >>> value, low, high = bootstrap(np.arange(9.0), lambda x: x.mean(axis=1))
    >>> float(value), bool(low < 4 < high)
    (4.0, True)
    """
    chosen = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    found = statistic(values[None])[0]
    drawn = statistic(values[chosen])
    tail = (1 - CONFIDENCE) / 2
    known = np.isfinite(drawn).any(axis=0)
    ends = np.nanquantile(np.where(known, drawn, 0.0), (tail, 1 - tail), axis=0)
    low, high = np.where(known, ends, np.nan)
    return found, low, high


def mean_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over axis 1, ignoring NaN."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0).sum(axis=1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def median_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median over axis 1, ignoring NaN."""
    ordered = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(values).sum(axis=1)
    lower, upper = np.maximum(count - 1, 0) // 2, count // 2
    rows = np.arange(len(values))
    upper = np.minimum(upper, values.shape[1] - 1)
    found = (ordered[rows, lower] + ordered[rows, upper]) / 2
    return np.where(count > 0, found, np.nan)


def shares_of(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the confusion matrix over all images, as shares of each true class.

    Parameters
    ----------
    counts
        (n, images, classes, classes), see `engine.learning.evaluation.scores.confusion`.
    """
    sums = counts.sum(axis=1).astype(np.float64)
    whole = sums.sum(axis=2, keepdims=True)
    return np.divide(sums, whole, out=np.full(sums.shape, np.nan), where=whole > 0)


def correlation_of(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Pearson's r of (n, images, 2); NaN if one of the two does not vary."""
    apart = pairs - pairs.mean(axis=1, keepdims=True)
    squares = (apart**2).sum(axis=1)
    below = np.sqrt(squares[:, 0] * squares[:, 1])
    above = (apart[..., 0] * apart[..., 1]).sum(axis=1)
    return np.divide(above, below, out=np.full(len(pairs), np.nan), where=below > 0)


def agreement_of(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return bias and limits of agreement (n, 3) of (n, images, 2) true and found values.

    Notes
    -----
    J. M. Bland, D. G. Altman: Statistical methods for assessing agreement between two methods of
    clinical measurement. Lancet 327 (1986): mean of the differences, and 1.96 standard deviations
    on each side of it.
    """
    apart = pairs[..., 1] - pairs[..., 0]
    bias = apart.mean(axis=1)
    several = apart.shape[1] > 1
    sd = apart.std(axis=1, ddof=1) if several else np.full(len(apart), np.nan)
    return np.stack((bias, bias - 1.96 * sd, bias + 1.96 * sd), axis=1)
