"""Classical segmentation of bone, fat and other tissue: thresholds and morphology in Lab colour.

It needs no training, and is the baseline for every network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.kernels.segmentation.tissue import Tissue

VACUOLE_RADIUS_PX = 12.5
"""Default median radius of a fat vacuole, pixels."""

LARGEST_VACUOLE = 2.0
"""Radius of the largest circle inside a vacuole, in median radii; wider gaps are background."""

SMOOTH = 0.3
"""Gaussian sd of the colour average that separates bone from marrow, in median radii: at this scale
nuclei and the cytoplasm between them have one colour."""

BONE_HALF_WIDTH = 0.45
"""Half width of the thinnest bone accepted, in median radii."""

SMALLEST_BONE = 10.0
"""Area of the smallest bone accepted, in squares of the median radius."""

LEAST_STEP = 12.0
"""Least mean difference in lightness of background and tissue if both are present; L* units."""

LEAST_PINK_STEP = 4.0
"""Least mean difference in pinkness of bone and marrow if both are present; b* + L* / 2."""

DARKEST_GROUND = 75.0
"""L* of the palest tissue, for slides that show only one kind."""

SAMPLE_PX = 1 << 20
"""Number of pixels for estimating thresholds; more pixels change them by less than a grey level."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of a whole slide, which are the same for all of its tiles.

    Attributes
    ----------
    lightness
        L* from which a pixel is empty: background or vacuole.
    pinkness
        b* + L* / 2 (smoothed) from which tissue is bone: eosin is lighter and less blue.
    """

    lightness: float
    pinkness: float


def to_lab(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Return CIE L*a*b* (3, y, x) of RGB pixels (3, y, x), integers or floats in [0, 1].

    Raises
    ------
    ParameterError
        If there are not three channels.
    """
    from skimage.color import rgb2lab

    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ParameterError("pixels", f"of shape {pixels.shape}", "RGB with axes (c, y, x)")
    full = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
    shares = pixels.astype(np.float32) / np.float32(full)
    return np.moveaxis(rgb2lab(np.moveaxis(shares, 0, 2)).astype(np.float32), 2, 0)


def estimate_thresholds(
    pixels: NDArray[Any], vacuole_radius_px: float = VACUOLE_RADIUS_PX
) -> Thresholds:
    """Return the thresholds of a slide, from a large piece of it that shows all classes.

    Parameters
    ----------
    pixels
        RGB (3, y, x).
    vacuole_radius_px
        Median radius of a fat vacuole, pixels.

    Notes
    -----
    Both are Otsu's (IEEE Trans. Syst. Man Cybern. 9, 1979): of lightness over all pixels, and of
    pinkness over tissue. If the two sides of a threshold are nearly alike, they count as one class:
    a piece of bare background is all background, and a piece of marrow has no bone.
    """
    lab = to_lab(pixels)
    lightness = _otsu(lab[0], LEAST_STEP)
    if lightness is None:
        lightness = DARKEST_GROUND
    tissue = lab[0] < lightness
    pinkness = _otsu(_pinkness(lab, tissue, vacuole_radius_px)[tissue], LEAST_PINK_STEP)
    return Thresholds(lightness, math.inf if pinkness is None else pinkness)


def segment_baseline(
    pixels: NDArray[Any],
    thresholds: Thresholds | None = None,
    vacuole_radius_px: float = VACUOLE_RADIUS_PX,
) -> NDArray[np.uint8]:
    """Return the class of each pixel of a slide.

    Parameters
    ----------
    pixels
        RGB (3, y, x), a slide or a tile of one with `halo_px` of context.
    thresholds
        Thresholds of the whole slide; by default estimated from these pixels.
    vacuole_radius_px
        Median radius of a fat vacuole, pixels; all lengths scale with it.

    Returns
    -------
    (y, x) uint8, values of `engine.kernels.segmentation.tissue.Tissue`.

    Raises
    ------
    ParameterError
        If there are not three channels, or the radius is not positive.
    """
    if not vacuole_radius_px > 0:
        raise ParameterError("vacuole_radius_px", vacuole_radius_px, "positive")
    found = thresholds or estimate_thresholds(pixels, vacuole_radius_px)
    lab = to_lab(pixels)
    empty = lab[0] >= found.lightness
    ground = _ground(empty, vacuole_radius_px)
    pink = _pinkness(lab, ~empty, vacuole_radius_px)
    bone = _bone(~empty & (pink >= found.pinkness), vacuole_radius_px)
    labels = np.full(empty.shape, Tissue.OTHER, np.uint8)
    labels[empty & ~ground] = Tissue.FAT
    labels[bone & ~ground] = Tissue.BONE
    labels[ground] = Tissue.BACKGROUND
    return labels


def halo_px(vacuole_radius_px: float = VACUOLE_RADIUS_PX) -> int:
    """Return the context of a tile: two of the widest vacuoles, pixels."""
    return math.ceil(4 * LARGEST_VACUOLE * vacuole_radius_px)


def _otsu(values: NDArray[np.float32], least_step: float) -> float | None:
    """Return Otsu's threshold, or None if its two sides are too alike to be two classes."""
    from skimage.filters import threshold_otsu

    flat = values.ravel()
    flat = flat[:: max(1, flat.size // SAMPLE_PX)]
    if flat.size == 0 or flat.min() == flat.max():
        return None
    threshold = float(threshold_otsu(flat))
    above = flat >= threshold
    if not above.any() or above.all() or flat[above].mean() - flat[~above].mean() < least_step:
        return None
    return threshold


def _pinkness(
    lab: NDArray[np.float32], tissue: NDArray[np.bool_], radius_px: float
) -> NDArray[np.float32]:
    """Return b* + L* / 2, averaged only over the tissue about each pixel."""
    from scipy.ndimage import gaussian_filter

    sd = SMOOTH * radius_px
    weight = tissue.astype(np.float32)
    total = gaussian_filter(weight, sd, truncate=3.0)
    mean = gaussian_filter((lab[2] + lab[0] / 2) * weight, sd, truncate=3.0)
    return np.asarray(mean / np.maximum(total, 1e-3), np.float32)


def _ground(empty: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    """Return the empty pixels outside vacuoles: parts into which a large circle fits."""
    from scipy.ndimage import distance_transform_edt
    from skimage.measure import label

    # Cut narrow bridges by which vacuoles at the edge are connected to the background.
    depth = distance_transform_edt(empty)
    parts = label(depth > 0.2 * radius_px, connectivity=1)
    widest = np.zeros(parts.max() + 1, np.float32)
    np.maximum.at(widest, parts.ravel(), depth.astype(np.float32).ravel())
    wide = widest > LARGEST_VACUOLE * radius_px
    wide[0] = False
    core = wide[parts]
    # Restore the pixels removed by the cut.
    reached = distance_transform_edt(~core) <= 0.2 * radius_px + 1.5
    return np.asarray(empty & reached)


def _bone(pink: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    """Return pink parts that are wide and large enough, with their holes filled."""
    from scipy.ndimage import distance_transform_edt
    from skimage.measure import label

    half = BONE_HALF_WIDTH * radius_px
    core = distance_transform_edt(pink) > half
    opened = pink & (distance_transform_edt(~core) <= half + 0.5)
    for part in (True, False):  # remove small bones, and then small holes
        parts = label(opened if part else ~opened, connectivity=1)
        areas = np.bincount(parts.ravel())
        limit = SMALLEST_BONE * radius_px**2 / (1 if part else 10)
        small = (areas < limit)[parts] & (parts > 0)
        opened = opened & ~small if part else opened | small
    return np.asarray(opened)
