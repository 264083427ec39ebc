"""Affine transformations from the voxels of a series to the patient.

An affine is a matrix of four rows that maps (x, y, z, 1) to millimetres: x and y are column and row
of a plane, z is its slice in the series (`engine.sources.Plane.place`), each counted from 0 at a
pixel's centre. The patient's axes are those of DICOM (PS3.3, C.7.6.2.1.1): x to the left, y to the
back, z to the head (LPS). Formats whose axes point to the right and to the front, such as NIfTI
(RAS), are converted by `affine_of_ras`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Affine = tuple[tuple[float, float, float, float], ...]
"""Four rows of four numbers."""

RIGHT_ANGLE = 1e-2
"""Maximum cosine of the angle between row and column of a plane, as for DICOM's orientation."""

SAME_SPACING = 0.01
"""Maximum relative difference between the spacing by the affine and the one that a file states."""

_UM_PER_MM = 1000.0


@dataclass(frozen=True, slots=True)
class Placement:
    """Geometry of a series by its affine, in the terms of DICOM.

    Attributes
    ----------
    spacing_um
        Pixel spacing (y, x), micrometres.
    step_um
        Distance between slices along their normal, micrometres.
    orientation
        Directions of a row and of a column, unit vectors, six numbers.
    origin_um
        Centre of the first voxel (z, y, x) along the series' own axes, micrometres.
    drift_px
        Shift of the next slice within its plane, pixels; 0 unless slices are sheared.
    """

    spacing_um: tuple[float, float]
    step_um: float
    orientation: tuple[float, ...]
    origin_um: tuple[float, float, float]
    drift_px: float


def affine_of_ras(matrix: ArrayLike, mm_per_unit: float = 1.0) -> Affine:
    """Convert an affine to axes that point to the right and to the front (RAS) to DICOM's (LPS).

    Examples
    --------
    >>> affine_of_ras([[2, 0, 0, -90], [0, 2, 0, 7], [0, 0, 3, 1], [0, 0, 0, 1]])[0]
    (-2.0, 0.0, 0.0, 90.0)
    """
    scale = np.array([-mm_per_unit, -mm_per_unit, mm_per_unit, 1.0])
    rows = scale[:, np.newaxis] * np.asarray(matrix, np.float64) + 0.0  # no negative zeros
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in rows)


def place_series(affine: Affine, spacing_um: tuple[float, float] | None) -> Placement | None:
    """Return the geometry of a series; None if its affine can't be that of pixels in a patient.

    Parameters
    ----------
    affine
        Affine of the series.
    spacing_um
        Pixel spacing (y, x) that the file states, micrometres, if it does.

    Returns
    -------
    None if the affine is singular or not finite, shears planes, or has other spacings than stated.

    Examples
    --------
    >>> place = place_series(((0.5, 0, 0, 1), (0, 0.5, 0, 2), (0, 0, 3, 4), (0, 0, 0, 1)), None)
    >>> place.spacing_um, place.step_um, place.origin_um
    ((500.0, 500.0), 3000.0, (4000.0, 2000.0, 1000.0))
    """
    matrix = np.asarray(affine, np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or any(matrix[3] != (0, 0, 0, 1)):
        return None
    row, column, step = matrix[:3, :3].T
    width, height = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if not min(width, height) > 0.0:
        return None
    row, column = row / width, column / height
    if abs(float(row @ column)) > RIGHT_ANGLE:
        return None
    normal: NDArray[np.float64] = np.cross(row, column)
    distance = float(step @ normal)
    spacing = height * _UM_PER_MM, width * _UM_PER_MM
    if not distance or not (
        spacing_um is None or np.allclose(spacing, spacing_um, rtol=SAME_SPACING, atol=0.0)
    ):
        return None
    z, y, x = np.stack([normal * np.sign(distance), column, row]) @ matrix[:3, 3] * _UM_PER_MM
    return Placement(
        spacing_um=spacing,
        step_um=abs(distance) * _UM_PER_MM,
        orientation=tuple(float(value) for value in (*row, *column)),
        origin_um=(float(z), float(y), float(x)),
        drift_px=max(abs(float(step @ row)) / width, abs(float(step @ column)) / height),
    )


def position_of(affine: Affine, z: int) -> tuple[float, float, float]:
    """Return the centre of a slice's first pixel in the patient, mm (x, y, z)."""
    x, y, z_ = (float(row[3] + z * row[2]) for row in affine[:3])
    return x, y, z_
