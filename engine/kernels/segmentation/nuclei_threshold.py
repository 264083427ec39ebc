"""Nuclei by local thresholds, split by their shape.

No threshold of the whole image: that of a large one is unknown in one of its blocks, and light is
seldom even. Each pixel is compared with Otsu's threshold of its surroundings, above the background.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from engine.geometry import YX
from engine.kernels.noise import noise_sd as estimate_noise_sd
from engine.kernels.segmentation.local_threshold import local_otsu, reach_px
from engine.kernels.segmentation.split import AROUND, fill_small_holes, remove_small, split_objects

SMOOTHING_PX = 1.0
"""Standard deviation of the smoothing before the threshold, pixels."""

BACKGROUND = 3.0
"""Half a side of the square whose darkest pixel is background, diameters."""

EVENING = 0.5
"""Standard deviation of the smoothing of the background, diameters."""

LEAST_SDS = 15.0
"""Least threshold above the background, which is the darkest pixel of many, in standard deviations
of the smoothed noise."""

ROUNDING = 0.08
"""Standard deviation of the smoothing of depths, diameters."""

PASS_SHARE = 0.95
"""Nuclei touch where the depth falls below this share of both maxima."""

LEAST_AREA = 0.1
"""Least area of a nucleus, as a share of a disc of its diameter."""

LEAST_SHARPNESS = 1.5
"""Least slope of a nucleus' rim: its brightness per diameter. Light from out of focus has less."""

LARGEST = 2.0
"""Largest nucleus that every block sees whole, diameters."""


def halo_px(diameter_px: float) -> int:
    """Return the context of a block: that of the filters, and a nucleus and one that touches it."""
    shares = BACKGROUND + 4 * EVENING + 4 * ROUNDING + 2 * LARGEST
    return math.ceil(shares * diameter_px + 8 * SMOOTHING_PX) + reach_px(_cell(diameter_px)) + 4


def threshold_nuclei(
    plane: NDArray[Any], diameter_px: float, noise_sd: float | None = None, origin: YX = (0, 0)
) -> NDArray[np.int32]:
    """Return a number (y, x) for each nucleus; 0 is background.

    Parameters
    ----------
    plane
        (y, x) of numbers, in which nuclei are bright; values that are not finite count as 0.
    diameter_px
        Usual diameter of a nucleus, pixels; those of a third to twice of it are found.
    noise_sd
        Standard deviation of the whole image's noise, grey levels; estimated by default.
    origin
        Position of the first pixel in the whole image, pixels.

    Examples
    --------
    >>> y, x = np.mgrid[:60, :60]
    >>> left, right = ((y - 30) ** 2 + (x - at) ** 2 <= 100 for at in (20, 38))
    >>> np.unique(threshold_nuclei((left | right) * 200.0, diameter_px=20)).tolist()
    [0, 1, 2]
    """
    noise = estimate_noise_sd(plane) if noise_sd is None else noise_sd
    values = np.nan_to_num(np.asarray(plane, np.float32), posinf=0.0, neginf=0.0)
    above = _above_background(ndimage.gaussian_filter(values, SMOOTHING_PX), diameter_px)
    # White noise keeps 1 / (2 sqrt(pi) sd) of its standard deviation after the smoothing.
    least = max(LEAST_SDS * noise / (2 * math.sqrt(math.pi) * SMOOTHING_PX), 1e-30)
    inside = above > local_otsu(above, _cell(diameter_px), least, origin)
    inside = fill_small_holes(inside, int(diameter_px / 2))
    depth = ndimage.distance_transform_edt(inside)
    labels = split_objects(
        inside, ndimage.gaussian_filter(depth, ROUNDING * diameter_px), PASS_SHARE
    )
    labels = remove_small(labels, LEAST_AREA * math.pi / 4 * diameter_px**2)
    slope = ndimage.gaussian_gradient_magnitude(values, SMOOTHING_PX)
    return _remove_blurred(labels, inside, above, slope * diameter_px)


def _cell(diameter_px: float) -> int:
    return max(4, round(diameter_px))


def _above_background(smooth: NDArray[np.float32], diameter_px: float) -> NDArray[np.float32]:
    """Return the brightness above the background, at least 0."""
    darkest = ndimage.minimum_filter(smooth, 2 * int(BACKGROUND * diameter_px) + 1)
    return np.maximum(smooth - ndimage.gaussian_filter(darkest, EVENING * diameter_px), 0)


def _remove_blurred(
    labels: NDArray[np.int32],
    inside: NDArray[np.bool_],
    above: NDArray[np.float32],
    slope: NDArray[np.float32],
) -> NDArray[np.int32]:
    """Remove objects whose mean slope at the rim is small for their mean brightness."""
    rim = inside & ~ndimage.binary_erosion(inside, AROUND)
    count = int(labels.max(initial=0)) + 1
    slopes = np.bincount(labels[rim], slope[rim], count) / _at_least_one(labels[rim], count)
    flat = labels.ravel()
    brightness = np.bincount(flat, above.ravel(), count) / _at_least_one(flat, count)
    kept = slopes > LEAST_SHARPNESS * brightness
    return np.where(kept[labels], labels, 0)


def _at_least_one(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    return np.maximum(np.bincount(labels, minlength=count), 1)
