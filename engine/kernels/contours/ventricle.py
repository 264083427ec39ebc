"""Ventricular measures from contours: wall thickness, volumes, ejection fraction and mass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.kernels.contours.geometry import centroid
from engine.kernels.contours.layers import Rings
from engine.kernels.contours.union import outline_edges

MYOCARDIUM_G_ML = 1.05
"""Density of heart muscle, g/ml, the value used in cardiac MR: Schulz-Menger et al., "Standardized
image interpretation and post-processing in cardiovascular magnetic resonance - 2020 update",
Journal of Cardiovascular Magnetic Resonance 22:19 (2020)."""

CHORDS = 100
"""Chords of the centreline method (Sheehan et al. 1986)."""

LONGEST_CHORD = 2.0
"""A chord longer than this multiple of the wall's greatest thickness has missed an outline."""

MM3_PER_ML = 1000.0


def wall_thickness_mm(
    inner: Rings, outer: Rings, spacing_mm: tuple[float, float], chords: int = CHORDS
) -> NDArray[np.float64]:
    """Return the thickness of a wall around its circumference, by the centreline method.

    The centreline runs half-way between both outlines, as seen from the centre of the inner one.
    Chords at equal distances along it and at right angles to it end at the outlines, and their
    lengths are the thicknesses (F. H. Sheehan et al., "Advantages and applications of the
    centerline method for characterizing regional ventricular function", Circulation 74 (1986)
    293-305, with the two outlines of one phase in place of those of two phases).

    Parameters
    ----------
    inner, outer
        Contours, pixels.
    spacing_mm
        Distance of rows and columns, millimetres.
    chords
        Number of measurements.

    Returns
    -------
    One thickness a chord, millimetres, clockwise from the right. 0 if the inner outline lies on or
    beyond the outer one; NaN if a chord leaves through a gap of the wall. All NaN if an outline
    does not surround the centre of the inner one.

    Examples
    --------
    >>> angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    >>> circle = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    >>> thickness = wall_thickness_mm([circle * 20], [circle * 30], (1.5, 1.5))
    >>> round(float(thickness.mean()), 2)
    15.0
    """
    scale = np.array([*spacing_mm, *spacing_mm])
    near, far = outline_edges(inner) * scale, outline_edges(outer) * scale
    centre = np.array(centroid(inner)) * scale[:2]
    angle = np.linspace(0.0, 2.0 * math.pi, 4 * chords, endpoint=False)
    rays = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    starts = np.broadcast_to(centre, rays.shape)
    to_inner, to_outer = (_along(starts, rays, edges) for edges in (near, far))
    middle = centre + rays * ((to_inner + to_outer) / 2.0)[:, None]
    if not np.isfinite(middle).all():
        return np.full(chords, np.nan)
    wall = to_outer - to_inner
    points, normals, wall_there = _evenly(middle, wall, chords)
    outwards = np.sign(np.sum(normals * (points - centre), axis=1))[:, None]
    normals = normals * np.where(outwards == 0.0, 1.0, outwards)
    length = _along(points, -normals, near) + _along(points, normals, far)
    length[length > LONGEST_CHORD * max(wall.max(), 0.0)] = np.nan
    return np.where(wall_there <= 0.0, 0.0, length)


def _along(
    starts: NDArray[np.float64],
    directions: NDArray[np.float64],
    edges: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the distance from each start along its direction to the next edge, NaN without one."""
    begin, step = edges[:, :2], edges[:, 2:] - edges[:, :2]
    gap_y, gap_x = np.moveaxis(begin[None] - starts[:, None], -1, 0)
    step_y, step_x = step.T
    way_y, way_x = directions[:, :1], directions[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        cross = way_y * step_x - way_x * step_y
        distance = (gap_y * step_x - gap_x * step_y) / cross
        where = (gap_y * way_x - gap_x * way_y) / cross
    slack = 1e-9  # a ray through a vertex must meet one of its edges
    met = (where >= -slack) & (where <= 1.0 + slack) & (distance >= -slack)
    nearest = np.where(met, distance, np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isfinite(nearest), np.maximum(nearest, 0.0), np.nan)


def _evenly(
    line: NDArray[np.float64], values: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return points at equal distances along a closed line, its unit normals and its values."""
    closed = np.vstack([line, line[:1]])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))])
    wanted = np.arange(count) * (along[-1] / count)
    points = np.stack([np.interp(wanted, along, closed[:, k]) for k in (0, 1)], axis=1)
    # From neighbour to neighbour: half-pixel steps of the outlines do not give a wall's direction.
    tangents = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
    lengths = np.maximum(np.hypot(*tangents.T), 1e-12)[:, None]
    normals = np.stack([-tangents[:, 1], tangents[:, 0]], axis=1) / lengths
    return points, normals, np.interp(wanted, along, np.append(values, values[0]))


def volume_ml(areas_mm2: Sequence[float], slice_spacing_mm: float | Sequence[float]) -> float:
    """Return a volume by summed discs: each slice's area times the slice distance, millilitres.

    Parameters
    ----------
    areas_mm2
        One area a slice, square millimetres.
    slice_spacing_mm
        Distance from a slice's middle to the next one's: thickness plus gap, millimetres. If the
        distances differ, one per slice: the extent of each slice.

    Examples
    --------
    >>> volume_ml([1000.0, 900.0, 400.0], 8.0)
    18.4
    >>> volume_ml([1000.0, 500.0], [8.0, 12.0])
    14.0
    """
    if isinstance(slice_spacing_mm, (int, float)):
        return math.fsum(areas_mm2) * slice_spacing_mm / MM3_PER_ML
    discs = (area * width for area, width in zip(areas_mm2, slice_spacing_mm, strict=True))
    return math.fsum(discs) / MM3_PER_ML


def ejection_fraction(end_diastolic_ml: float, end_systolic_ml: float) -> float:
    """Return the share of the largest volume that is ejected in a beat, percent.

    Examples
    --------
    >>> ejection_fraction(120.0, 48.0)
    60.0
    """
    return 100.0 * (end_diastolic_ml - end_systolic_ml) / end_diastolic_ml


def myocardial_mass_g(inner_ml: float, outer_ml: float) -> float:
    """Return the mass of the muscle between two volumes of one phase, grams.

    Examples
    --------
    >>> round(myocardial_mass_g(100.0, 200.0), 6)
    105.0
    """
    return (outer_ml - inner_ml) * MYOCARDIUM_G_ML
