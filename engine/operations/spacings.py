"""Pixel spacings of images: comparison, grouping and display."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Spacing = tuple[float, float]
"""Pixel spacing (y, x), micrometres."""

ALIKE = 0.01
"""Maximum relative difference of spacings that count as equal: setting a scale twice differs by as
much."""


def known_spacing(y: float | None, x: float | None) -> Spacing | None:
    """Return a spacing rounded to five digits, or None if unknown.

    Examples
    --------
    >>> known_spacing(0.4999999, 0.5), known_spacing(None, 0.5), known_spacing(float("nan"), 1.0)
    ((0.5, 0.5), None, None)
    """
    if y is None or x is None or math.isnan(y) or math.isnan(x):
        return None
    return float(f"{y:.5g}"), float(f"{x:.5g}")


def spacing_text(spacing: Spacing | None) -> str:
    """Format a spacing for display.

    Examples
    --------
    >>> spacing_text((0.5, 0.25)), spacing_text(None)
    ('at 0.5 x 0.25 um', 'of unknown spacing')
    """
    return "of unknown spacing" if spacing is None else f"at {spacing[0]:g} x {spacing[1]:g} um"


def isotropic_spacing(spacing_um: Spacing | None) -> float:
    """Return one spacing, micrometres; NaN if unknown or different between y and x.

    Examples
    --------
    >>> isotropic_spacing((0.5, 0.5)), isotropic_spacing((0.5, 1.0)), isotropic_spacing(None)
    (0.5, nan, nan)
    """
    if spacing_um is None or abs(spacing_um[0] / spacing_um[1] - 1.0) > ALIKE:
        return math.nan
    return math.sqrt(spacing_um[0] * spacing_um[1])


def group_spacings(
    spacings: Sequence[Spacing | None],
) -> tuple[list[Spacing | None], NDArray[np.int64]]:
    """Group images of similar spacing.

    Returns
    -------
    The spacing of each group, the finest first and unknown last, and each image's group.

    Examples
    --------
    >>> group_spacings([(1.0, 1.0), None, (0.5, 0.5), (1.004, 1.0)])
    ([(0.5, 0.5), (1.0, 1.0), None], array([1, 2, 0, 1]))
    """
    groups: list[Spacing | None] = []
    number: dict[Spacing | None, int] = {}
    for spacing in sorted({s for s in spacings if s is not None}):
        alike = (n for n, one in enumerate(groups) if one is not None and _alike(one, spacing))
        number[spacing] = next(alike, len(groups))
        if number[spacing] == len(groups):
            groups.append(spacing)
    if None in spacings:
        number[None] = len(groups)
        groups.append(None)
    return groups, np.array([number[s] for s in spacings], np.int64)


def _alike(one: Spacing, other: Spacing) -> bool:
    return all(abs(b / a - 1.0) <= ALIKE for a, b in zip(one, other, strict=True))
