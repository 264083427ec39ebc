"""Which images get a picture, and which are unusual: pure functions of columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from engine.qc.statistics import COUNT, Facts
from engine.store.results import FAILED

EVERY = 1_000
"""Up to so many images each gets a picture; of more, a choice does."""

SAMPLE = 12
"""Images of an experiment that get a picture where not all do."""

MOST_FAILED = 500
"""Failed images that get a picture where not all do; all are counted, and named by status."""

LEAST_ALIKE = 5
"""Images of a subject from which on one of them can be called unusual."""

UNUSUAL = 3.5
"""Distance from the median, in spreads, from which on an image is unusual (Iglewicz and Hoaglin
1993, for the modified z-score)."""

LEAST_SPREAD = 0.02
"""Least spread, a share of the median: nobody looks at differences of less than that."""

LEAST_SPREAD_COUNT = 0.5
"""Least spread of counts: one object more or less is not unusual, two may be."""

MOST_UNUSUAL = 24
"""Unusual images that are shown; all are counted."""


@dataclass(frozen=True, slots=True)
class Extreme:
    """What makes an image an extreme: one of its measures, beside its subject's median.

    ``distance`` counts spreads: 1.4826 times the median absolute deviation of the subject's images.
    """

    image: int
    measure: str
    value: float
    median: float
    distance: float

    @property
    def unusual(self) -> bool:
        """Whether it is further away than chance explains."""
        return abs(self.distance) >= UNUSUAL


def deviations(
    values: NDArray[np.float64], group: NDArray[np.int64], least_spread: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each value's distance from its group's median, in spreads, and the median.

    Parameters
    ----------
    values
        Those that are not finite are left out, and have no distance.
    group
        Number of each value's group; one of fewer than `LEAST_ALIKE` values has no distances.
    least_spread
        Beside `LEAST_SPREAD` of the median.

    Examples
    --------
    >>> values, group = np.array([9.0, 10, 11, 10, 10, 40]), np.zeros(6, int)
    >>> deviations(values, group, 0.5)[0].round(1).tolist()
    [-1.3, 0.0, 1.3, 0.0, 0.0, 40.5]
    """
    known = pd.Series(np.where(np.isfinite(values), values, np.nan))
    groups = known.groupby(group)
    median = groups.transform("median").to_numpy(np.float64)
    apart = (known - median).abs().groupby(group).transform("median").to_numpy(np.float64)
    spread = np.maximum(1.4826 * apart, np.maximum(LEAST_SPREAD * np.abs(median), least_spread))
    alike = groups.transform("count").to_numpy() >= LEAST_ALIKE
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = (known.to_numpy() - median) / spread
    return np.where(alike & np.isfinite(distance), distance, np.nan), median


@dataclass(frozen=True)
class Extremes:
    """The extremes of a cohort.

    Attributes
    ----------
    unusual
        By image, the furthest first, `MOST_UNUSUAL` images at most: all that is unusual of it.
    count
        How many images are unusual.
    ends
        Of each measure the lowest and the highest image, of those that have any.
    """

    unusual: Mapping[int, tuple[Extreme, ...]]
    count: int
    ends: Mapping[str, tuple[Extreme, Extreme]]

    @property
    def images(self) -> NDArray[np.int64]:
        """All images that are named."""
        found = {extreme.image for pair in self.ends.values() for extreme in pair}
        return np.array(sorted({*found, *self.unusual}), np.int64)


def find_extremes(facts: Facts) -> Extremes:
    """Return the images that differ most from others of their group, and the ends of each range.

    A group is a subject, or its images of one pixel spacing where a cohort mixes them. Only
    images that are done have measures.
    """
    furthest = np.zeros(len(facts))
    ends: dict[str, tuple[Extreme, Extreme]] = {}
    found: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for name, values in facts.measures.items():
        least = LEAST_SPREAD_COUNT if name == COUNT else 0.0
        found[name] = deviations(values, facts.group, least)
        furthest = np.fmax(furthest, np.abs(found[name][0]))
        if np.isfinite(values).any():
            ends[name] = (
                _extreme(name, values, found[name], int(np.nanargmin(values))),
                _extreme(name, values, found[name], int(np.nanargmax(values))),
            )
    unusual = np.flatnonzero(furthest >= UNUSUAL)
    named = unusual[np.argsort(-furthest[unusual], kind="stable")][:MOST_UNUSUAL]
    by_image = {}
    for image in named.tolist():
        all_of_it = [
            _extreme(name, facts.measures[name], found[name], image)
            for name in facts.measures
            if abs(found[name][0][image]) >= UNUSUAL
        ]
        by_image[image] = tuple(sorted(all_of_it, key=lambda e: -abs(e.distance)))
    return Extremes(by_image, len(unusual), ends)


def _extreme(
    name: str,
    values: NDArray[np.float64],
    found: tuple[NDArray[np.float64], NDArray[np.float64]],
    image: int,
) -> Extreme:
    distance, median = found
    return Extreme(image, name, float(values[image]), float(median[image]), float(distance[image]))


def select_pictures(
    facts: Facts,
    extremes: Extremes,
    *,
    everything: bool = False,
    among: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return the numbers of the images that get a picture, ascending.

    All with a result up to `EVERY`; beyond that, failures, extremes, and `SAMPLE` of each
    experiment, the same ones as the cohort grows.

    Parameters
    ----------
    everything
        All with a result, however many.
    among
        Those of these with a result, however many.
    """
    computed = facts.computed
    if among is not None:
        return np.flatnonzero(computed & among)
    if everything or int(computed.sum()) <= EVERY:
        return np.flatnonzero(computed)
    chosen = np.zeros(len(facts), bool)
    chosen[np.flatnonzero(facts.status == FAILED)[:MOST_FAILED]] = True
    chosen[extremes.images] = True
    chosen[sample(facts, SAMPLE)] = True
    return np.flatnonzero(chosen & computed)


def sample(facts: Facts, size: int, among: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """Return so many images of each experiment, the same ones as the cohort grows.

    An image's rank is the digest of its name, so new images seldom replace old ones.

    Parameters
    ----------
    among
        Which images are taken; by default those that have a result.
    """
    candidates = np.flatnonzero(facts.computed if among is None else among)
    names = np.array(facts.columns["image_id"].to_pylist(), object)[candidates]
    rank = pd.util.hash_array(names, categorize=False)
    order = candidates[np.lexsort((rank, facts.experiment[candidates]))]
    sorted_by = facts.experiment[order]
    within = np.arange(len(order)) - np.searchsorted(sorted_by, sorted_by)
    return np.sort(order[within < size])
