"""Scores of instances against annotated ones: matches at an overlap of one half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Matches:
    """Counts of objects: true (found and annotated), false (not annotated), missed (not found)."""

    true: int = 0
    false: int = 0
    missed: int = 0

    def __add__(self, other: Matches) -> Matches:
        return Matches(self.true + other.true, self.false + other.false, self.missed + other.missed)

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN), as in the 2018 Data Science Bowl; 1 if there is nothing to find."""
        total = self.true + self.false + self.missed
        return self.true / total if total else 1.0

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        total = 2 * self.true + self.false + self.missed
        return 2 * self.true / total if total else 1.0


def match(found: NDArray[Any], annotated: NDArray[Any], overlap: float = 0.5) -> Matches:
    """Match objects with an intersection over union above ``overlap``, at least one half.

    Above one half, an object can match only one other.

    Examples
    --------
    >>> match(np.array([[1, 1, 0, 2]]), np.array([[7, 7, 7, 0]]))
    Matches(true=1, false=1, missed=0)
    """
    _, a = np.unique(found, return_inverse=True)
    _, b = np.unique(annotated, return_inverse=True)
    a, b = a.ravel() + (found.min() > 0), b.ravel() + (annotated.min() > 0)
    both = np.zeros((a.max() + 1, b.max() + 1), np.int64)
    np.add.at(both, (a, b), 1)
    union = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    hits = int(((both / np.maximum(union, 1))[1:, 1:] > overlap).sum())
    return Matches(hits, len(both) - 1 - hits, both.shape[1] - 1 - hits)
