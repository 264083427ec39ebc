"""Pixel densities of general image formats, and a test whether they are a calibration."""

from __future__ import annotations

import math

UM_PER_INCH = 25_400.0
UM_PER_CM = 10_000.0
UM_PER_M = 1_000_000.0

PRINT_DPI = (72, 75, 90, 96, 100, 120, 144, 150, 180, 200, 220, 240, 250, 300, 350, 360, 400, 600)
"""Dots per inch that programs write by default for screens, printers and office scanners."""

_RELATIVE_TOLERANCE = 0.01  # 72 dpi is written as 28 per cm (71.12 dpi) or 2835 per m


def spacing_from_density(y: float, x: float, unit_um: float) -> tuple[float, float] | None:
    """Turn pixels per unit into a spacing, or None if the density is not a calibration.

    Most programs write 72 or 300 dpi without a camera or stage behind it. As a spacing, this would
    give every measured length a wrong unit, so densities of `PRINT_DPI` (to 1 %), one pixel per
    unit, and those that are not positive and finite count as unknown.

    Parameters
    ----------
    y, x
        Pixels per unit along each axis.
    unit_um
        Length of the unit, micrometres.

    Returns
    -------
    Spacing (y, x), micrometres, or None.

    Examples
    --------
    >>> spacing_from_density(20_000, 40_000, UM_PER_CM)
    (0.5, 0.25)
    >>> spacing_from_density(72, 72, UM_PER_INCH) is None
    True
    """
    if not (math.isfinite(y) and math.isfinite(x) and y > 0 and x > 0):
        return None
    if y == x == 1:
        return None
    spacing = unit_um / y, unit_um / x
    if not all(math.isfinite(step) and step > 0 for step in spacing):
        return None
    if all(_is_print(UM_PER_INCH / step) for step in spacing):
        return None
    return spacing


def _is_print(dpi: float) -> bool:
    return any(math.isclose(dpi, known, rel_tol=_RELATIVE_TOLERANCE) for known in PRINT_DPI)
