"""Agreement of found circles with true ones, as scores that can be pooled."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.errors import ParameterError

TOLERANCE_PX = 3.0
"""Largest difference of centre and of radius at which a found circle matches a true one."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A true circle and its matching found one: indices, and found minus true, pixels."""

    truth: int
    found: int
    centre_error_px: float
    radius_error_px: float


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of one or more images; indices in ``pairs`` refer to each pair's own image."""

    pairs: tuple[Pair, ...] = ()
    false_positives: int = 0
    false_negatives: int = 0

    @property
    def true_positives(self) -> int:
        """Number of true circles that were found."""
        return len(self.pairs)

    @property
    def precision(self) -> float:
        """Share of the found circles that are true; 1 if none was found."""
        found = self.true_positives + self.false_positives
        return self.true_positives / found if found else 1.0

    @property
    def recall(self) -> float:
        """Share of the true circles that were found; 1 if there are none."""
        true = self.true_positives + self.false_negatives
        return self.true_positives / true if true else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 if both sets are empty."""
        total = 2 * self.true_positives + self.false_positives + self.false_negatives
        return 2 * self.true_positives / total if total else 1.0

    @property
    def mean_centre_error_px(self) -> float:
        """Mean distance of centres over the pairs, pixels; nan without pairs."""
        return _mean([pair.centre_error_px for pair in self.pairs])

    @property
    def mean_radius_error_px(self) -> float:
        """Mean absolute difference of radii over the pairs, pixels; nan without pairs."""
        return _mean([abs(pair.radius_error_px) for pair in self.pairs])

    @property
    def radius_bias_px(self) -> float:
        """Mean of found minus true radius over the pairs, pixels; nan without pairs."""
        return _mean([pair.radius_error_px for pair in self.pairs])


def _mean(values: list[float]) -> float:
    # fsum rounds once, so the mean does not depend on the order in which scores were merged.
    return math.fsum(values) / len(values) if values else math.nan


def match_circles(
    truth: ArrayLike,
    found: ArrayLike,
    tolerance_px: float = TOLERANCE_PX,
    ignore: ArrayLike | None = None,
) -> Score:
    """Match true and found circles one to one, as many as possible.

    Two circles can be a pair if their centres are at most ``tolerance_px`` apart and their radii
    differ by at most as much. Among all one-to-one matchings, prefer those with the most pairs,
    then those with the fewest false positives, and then the one with the smallest sum of centre
    distances and radius differences.

    Parameters
    ----------
    truth
        True circles, shape (n, 3): y, x, radius, pixels.
    found
        Found circles, shape (m, 3 or more): y, x, radius, pixels; further columns are ignored.
    tolerance_px
        Largest difference of a pair, pixels.
    ignore
        Shape (n,), bool: true circles that do not count, such as invisible ones. They are not
        false negatives, and a found circle within the tolerance of one of them, if it is not
        needed by another true circle, is not a false positive.

    Returns
    -------
    The score; pairs are in the order of ``truth``.

    Raises
    ------
    ParameterError
        If an array has a different shape or holds values that are not finite, or the tolerance is
        not a positive number.

    Examples
    --------
    >>> score = match_circles([(10, 10, 5), (30, 30, 6)], [(10, 11, 5.5), (50, 50, 6)])
    >>> score.true_positives, score.false_positives, score.false_negatives, score.f1
    (1, 1, 1, 0.5)
    """
    true, seen = _circles("truth", truth), _circles("found", found)
    if not (math.isfinite(tolerance_px) and tolerance_px > 0):
        raise ParameterError("tolerance_px", tolerance_px, "a positive number of pixels")
    ignored = np.zeros(len(true), bool) if ignore is None else np.asarray(ignore, bool)
    if ignored.shape != (len(true),):
        raise ParameterError("ignore", ignored.shape, f"one flag for each of {len(true)} circles")

    difference = seen[None, :, :] - true[:, None, :]
    centre, radius = np.hypot(difference[..., 0], difference[..., 1]), difference[..., 2]
    close = (centre <= tolerance_px) & (np.abs(radius) <= tolerance_px)
    counted = np.flatnonzero(~ignored)
    excused = close[ignored].any(axis=0)
    pairs = tuple(
        Pair(
            int(counted[row]),
            column,
            float(centre[counted[row], column]),
            float(radius[counted[row], column]),
        )
        for row, column in _assign((centre + np.abs(radius))[counted], close[counted], excused)
    )
    excused[[pair.found for pair in pairs]] = False
    return Score(
        pairs=pairs,
        false_positives=len(seen) - len(pairs) - int(excused.sum()),
        false_negatives=len(counted) - len(pairs),
    )


def merge_scores(scores: Iterable[Score]) -> Score:
    """Pool scores as if all circles belonged to one set of images.

    Associative: scores of parts can be merged in any grouping. The order of the scores affects only
    the order of the pairs, not any number. Without scores, return the empty score.

    Parameters
    ----------
    scores
        Scores of images, or merged ones.

    Returns
    -------
    Their sum.

    Examples
    --------
    >>> merge_scores([Score(false_positives=1), Score(false_negatives=2)])
    Score(pairs=(), false_positives=1, false_negatives=2)
    """
    parts = tuple(scores)
    return Score(
        pairs=tuple(pair for part in parts for pair in part.pairs),
        false_positives=sum(part.false_positives for part in parts),
        false_negatives=sum(part.false_negatives for part in parts),
    )


def _circles(parameter: str, circles: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(circles, np.float64)
    if array.shape[0:1] == (0,):  # an empty list has no columns to check
        return np.empty((0, 3))
    if array.ndim != 2 or array.shape[1] < 3:
        raise ParameterError(parameter, array.shape, "an array of shape (n, 3): y, x, radius")
    array = array[:, :3]
    if not np.isfinite(array).all():
        raise ParameterError(parameter, "an array with nan or inf", "finite everywhere")
    return array


def _assign(
    cost: NDArray[np.float64], allowed: NDArray[np.bool_], excused: NDArray[np.bool_]
) -> list[tuple[int, int]]:
    """Return (row, column) pairs: as many as possible, of few excused columns, at low cost."""
    if not allowed.any():
        return []
    from scipy.optimize import linear_sum_assignment  # slow to import, and only scoring needs it

    # Each rank outweighs the sum of all lower ranks: a forbidden pair costs more than all allowed
    # ones together, and among the allowed pairs one of an excused column does likewise.
    most = min(cost.shape) + 1
    ranked = cost + excused * (most * (float(cost[allowed].max()) + 1.0))
    forbidden = most * (float(ranked[allowed].max()) + 1.0)
    rows, columns = linear_sum_assignment(np.where(allowed, ranked, forbidden))
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if allowed[r, c]]
