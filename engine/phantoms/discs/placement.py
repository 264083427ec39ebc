"""Placement of discs: random centres under a spacing rule."""

from __future__ import annotations

import math
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.geometry import YX

Floats = NDArray[np.float64]

MARGIN_SHARE = 100 / 1024
"""Least distance of centres of adding discs from the border, as a share of height and width."""

SPACING_RADII = 1.5
"""Least distance of centres of adding discs, in radii of the larger disc."""

GAP_PX = 4.0
"""Least distance of edges of separate discs from each other and from the image's border."""

TRIES_PER_DISC = 500
"""Random positions tried for a disc before the layout is restarted."""

LAYOUTS = 20
"""Layouts tried before the discs are reported not to fit."""


class Placement(StrEnum):
    """Layout of the discs of one image.

    ``adding``
        Discs overlap by at most about half a radius, and grey values add up: centres at least 1.5
        radii (of the larger disc) apart, and about a tenth of the image's size from its border.
    ``separate``
        Whole discs, edges at least 4 px from each other and from the border.
    ``covering``
        Centres anywhere in the image; later discs cover earlier ones, and the border clips them.
    """

    ADDING = "adding"
    SEPARATE = "separate"
    COVERING = "covering"


def place_discs(
    rng: np.random.Generator, shape: YX, radii_px: Floats, placement: Placement
) -> Floats:
    """Draw centres for discs that satisfy the placement's rule for every pair.

    Parameters
    ----------
    rng
        Source of randomness.
    shape
        Plane size (y, x), pixels.
    radii_px
        Radii, shape (n,), pixels.
    placement
        Spacing rule.

    Returns
    -------
    Centres (y, x), shape (n, 2), float64, pixels, in the order of ``radii_px``.

    Raises
    ------
    ParameterError
        If no layout was found in which the discs fit.
    """
    for _ in range(LAYOUTS):
        centres = _lay(rng, shape, radii_px, placement)
        if centres is not None:
            return centres
    room = f"{shape[0]} x {shape[1]} pixels"
    raise ParameterError(
        "discs", len(radii_px), f"fewer, or smaller (radius_px), to find room in {room}"
    )


def _lay(
    rng: np.random.Generator, shape: YX, radii_px: Floats, placement: Placement
) -> Floats | None:
    """Place discs one after the other at random; return None if a disc finds no position."""
    centres = np.empty((len(radii_px), 2))
    for number, radius in enumerate(radii_px):
        low, high = _bounds(shape, float(radius), placement)
        if (low > high).any():
            return None
        if placement is Placement.ADDING:
            apart = SPACING_RADII * np.maximum(radii_px[:number], radius)
        elif placement is Placement.SEPARATE:
            apart = radii_px[:number] + radius + GAP_PX
        else:
            apart = np.zeros(number)
        for _ in range(TRIES_PER_DISC):
            centre = rng.uniform(low, high)
            if (np.hypot(*(centres[:number] - centre).T) >= apart).all():
                centres[number] = centre
                break
        else:
            return None
    return centres


def _bounds(shape: YX, radius_px: float, placement: Placement) -> tuple[Floats, Floats]:
    """Return the lowest and highest centre (y, x) allowed for a disc."""
    size = np.array(shape, np.float64)
    if placement is Placement.ADDING:
        margin = np.round(size * MARGIN_SHARE)
        return margin, size - margin
    if placement is Placement.SEPARATE:
        # The plane ends half a pixel beyond the centres of its outermost pixels.
        return np.full(2, radius_px + GAP_PX - 0.5), size - 0.5 - GAP_PX - radius_px
    return np.full(2, -0.5), np.nextafter(size - 0.5, -math.inf)
