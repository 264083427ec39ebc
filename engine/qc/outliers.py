"""Outlier detection, and selection of images for pictures: pure functions of columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.qc.statistics import COUNT, QcStatistics
from engine.store.results import FAILED

EVERY = 1_000
"""Up to this number of images, each gets a picture; above it, only a selection."""

SAMPLE = 12
"""Images per experiment in that selection."""

MOST_FAILED = 500
"""Maximum failed images in that selection; all are counted, and named by status."""

LEAST_ALIKE = 5
"""Minimum images of a subject for outlier detection."""

UNUSUAL = 3.5
"""Distance from the median, in spreads, from which an image is unusual (Iglewicz and Hoaglin 1993,
for the modified z-score)."""

LEAST_SPREAD = 0.02
"""Minimum spread as a share of the median: smaller differences are irrelevant."""

LEAST_SPREAD_COUNT = 0.5
"""Minimum spread of counts: one object more or less is not unusual, two may be."""

MOST_UNUSUAL = 24
"""Maximum unusual images shown; all are counted."""


@dataclass(frozen=True, slots=True)
class Extreme:
    """An extreme measure of an image, compared with its subject's median.

    ``distance`` is in spreads: 1.4826 times the median absolute deviation of the subject's images.
    """

    image: int
    measure: str
    value: float
    median: float
    distance: float

    @property
    def unusual(self) -> bool:
        """True if the distance is larger than chance explains."""
        return abs(self.distance) >= UNUSUAL


def robust_deviations(
    values: NDArray[np.float64], group: NDArray[np.int64], least_spread: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return each value's distance from its group's median, in spreads, and the median.

    Parameters
    ----------
    values
        Values; non-finite ones are ignored and get no distance.
    group
        Group number of each value; groups of fewer than `LEAST_ALIKE` values get no distances.
    least_spread
        Minimum spread, in addition to `LEAST_SPREAD` of the median.

    Examples
    --------
    >>> values, group = np.array([9.0, 10, 11, 10, 10, 40]), np.zeros(6, int)
    >>> robust_deviations(values, group, 0.5)[0].round(1).tolist()
    [-1.3, 0.0, 1.3, 0.0, 0.0, 40.5]
    """
    import pandas as pd

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
class Outliers:
    """The outliers and the extremes of a cohort.

    Attributes
    ----------
    unusual
        Unusual images, the furthest first, at most `MOST_UNUSUAL`, each with its unusual measures.
    count
        Number of unusual images.
    ends
        For each measure with values, the images with the lowest and the highest one.
    """

    unusual: Mapping[int, tuple[Extreme, ...]]
    count: int
    ends: Mapping[str, tuple[Extreme, Extreme]]

    @property
    def images(self) -> NDArray[np.int64]:
        """All images in ``unusual`` and ``ends``."""
        found = {extreme.image for pair in self.ends.values() for extreme in pair}
        return np.array(sorted({*found, *self.unusual}), np.int64)


def find_extremes(facts: QcStatistics) -> Outliers:
    """Find the images that differ most from their group, and the extremes of each measure.

    A group is a subject, or its images of one pixel spacing if the cohort has several spacings.
    Only completed images have measures.
    """
    furthest = np.zeros(len(facts))
    ends: dict[str, tuple[Extreme, Extreme]] = {}
    found: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for name, values in facts.measures.items():
        least = LEAST_SPREAD_COUNT if name == COUNT else 0.0
        found[name] = robust_deviations(values, facts.group, least)
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
    return Outliers(by_image, len(unusual), ends)


def _extreme(
    name: str,
    values: NDArray[np.float64],
    found: tuple[NDArray[np.float64], NDArray[np.float64]],
    image: int,
) -> Extreme:
    distance, median = found
    return Extreme(image, name, float(values[image]), float(median[image]), float(distance[image]))


def select_pictures(
    facts: QcStatistics,
    extremes: Outliers,
    *,
    all_images: bool = False,
    among: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Return the numbers of the images that get a picture, ascending.

    All images with a result, up to `EVERY`. Above that, failures, extremes, and `SAMPLE` of each
    experiment; the sample is stable as the cohort grows.

    Parameters
    ----------
    all_images
        Select all images with a result, for any number of images.
    among
        Mask of candidates: select all of these with a result, for any number of images.
    """
    computed = facts.computed
    if among is not None:
        return np.flatnonzero(computed & among)
    if all_images or int(computed.sum()) <= EVERY:
        return np.flatnonzero(computed)
    chosen = np.zeros(len(facts), bool)
    chosen[np.flatnonzero(facts.status == FAILED)[:MOST_FAILED]] = True
    chosen[extremes.images] = True
    chosen[sample(facts, SAMPLE)] = True
    return np.flatnonzero(chosen & computed)


def sample(
    facts: QcStatistics, size: int, among: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Sample some images of each experiment; the sample is stable as the cohort grows.

    An image's rank is a hash of its name, so new images rarely displace old ones.

    Parameters
    ----------
    among
        Mask of candidates; by default images with a result.
    """
    import pandas as pd

    candidates = np.flatnonzero(facts.computed if among is None else among)
    names = np.array(facts.columns["image_id"].to_pylist(), object)[candidates]
    rank = pd.util.hash_array(names, categorize=False)
    order = candidates[np.lexsort((rank, facts.experiment[candidates]))]
    sorted_by = facts.experiment[order]
    within = np.arange(len(order)) - np.searchsorted(sorted_by, sorted_by)
    return np.sort(order[within < size])
