"""Beating left ventricle in short-axis slices: any frame by its numbers, with its truth.

The ventricle is a truncated half ellipsoid, cut into slices. Its cavity is a closed polygon in each
frame; the wall's area in a slice is the same in all phases (muscle keeps its volume), so the wall
thickens as the cavity shrinks. The truth of a frame is computed from the polygons as written to
the contour files, so truth and contours agree to the last digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError

VERTICES = 96
"""Vertices of a contour."""

DECIMALS = 2
"""Decimals of a contour's coordinates, as in Sunnybrook's files."""

MUSCLE_DENSITY_G_PER_ML = 1.05
"""Density of myocardium (Lorenz et al. 1999, J Cardiovasc Magn Reson 1:7-21)."""

_CHEST_MM = 160.0  # width of the drawing
_OVERSAMPLING = 4  # subpixels per pixel side, at the edges of shapes
_SYSTOLE_SHARE = 0.38  # of the beat, until the cavity is smallest
_GREY = {"air": 8.0, "fat": 470.0, "muscle": 190.0, "lung": 45.0, "blood": 620.0,
         "wall": 165.0, "papillary": 175.0, "liver": 250.0}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CineOptions:
    """Parameters of a synthetic cine.

    Parameters
    ----------
    patients
        Number of patients; each is one series.
    slices, phases
        Short-axis slices, base first, and phases of the beat; phase 0 is end-diastole.
    size_px
        Side of the square plane, pixels.
    spacing_mm
        Pixel spacing, mm.
    thickness_mm, gap_mm
        Thickness of a slice and gap between slices, mm; their sum is the distance of slices.
    noise
        Sigma of the Rician noise, grey levels; blood is about 600.
    origin
        Coordinate of the first pixel's centre in the contour files: 0, or 1 as Sunnybrook's files
        apparently have it.
    seed
        Seed; equal seeds give equal files.
    """

    patients: int = 2
    slices: int = 8
    phases: int = 20
    size_px: int = 160
    spacing_mm: float = 1.4
    thickness_mm: float = 8.0
    gap_mm: float = 2.0
    noise: float = 14.0
    origin: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that the ventricle fits into the image."""
        for name, least in (("patients", 1), ("slices", 1), ("phases", 2)):
            if getattr(self, name) < least:
                raise ParameterError(name, getattr(self, name), f"at least {least}")
        for name in ("spacing_mm", "thickness_mm"):
            if getattr(self, name) <= 0:
                raise ParameterError(name, getattr(self, name), "positive")
        for name in ("gap_mm", "noise"):
            if getattr(self, name) < 0:
                raise ParameterError(name, getattr(self, name), "0 or more")
        if self.size_px * self.spacing_mm < _CHEST_MM:
            least = math.ceil(_CHEST_MM / self.spacing_mm)
            raise ParameterError(
                "size_px",
                self.size_px,
                f"at least {least} (spacing_mm is {self.spacing_mm}), or the chest is cut off",
            )
        if self.origin not in (0, 1):
            raise ParameterError("origin", self.origin, "0 or 1")

    @property
    def distance_mm(self) -> float:
        """Distance from slice to slice, mm."""
        return self.thickness_mm + self.gap_mm


@dataclass(frozen=True, slots=True)
class Heart:
    """One patient's ventricle, mm; random by seed. ``beat_ms`` is the RR interval."""

    patient: int
    centre_mm: tuple[float, float]
    radius_mm: float
    wall_mm: float
    shortening: float
    beat_ms: float
    tilt: float
    bumps: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class CineFrame:
    """One frame and its truth.

    ``pixels`` (y, x) int16. ``endo``, ``epi``: (n, 2), x and y, pixels, first pixel's centre at
    (0, 0), rounded to `DECIMALS`; not closed. Areas are those of these polygons, mm2.
    """

    pixels: NDArray[np.int16]
    endo: NDArray[np.float64]
    epi: NDArray[np.float64]
    endo_area_mm2: float
    epi_area_mm2: float


def make_heart(options: CineOptions, patient: int) -> Heart:
    """Return the ventricle of a patient, by number."""
    rng = _rng(options, patient, 0)
    middle = (options.size_px - 1) / 2 * options.spacing_mm
    return Heart(
        patient,
        (middle + rng.uniform(-4, 4), middle + rng.uniform(4, 14)),
        float(rng.uniform(22, 27)),
        float(rng.uniform(8, 11)),
        float(rng.uniform(0.2, 0.42)),
        float(rng.uniform(750, 1000)),
        float(rng.uniform(0, math.pi)),
        tuple((float(rng.uniform(0.005, 0.03)), float(rng.uniform(0, 2 * math.pi))) for _ in "abc"),
    )


def contraction(share: float) -> float:
    """Return the degree of contraction, 0 to 1, at a share of the beat.

    Examples
    --------
    >>> contraction(0.0), contraction(0.38), round(contraction(0.69), 3)
    (0.0, 1.0, 0.5)
    """
    if share <= _SYSTOLE_SHARE:
        return 0.5 - 0.5 * math.cos(math.pi * share / _SYSTOLE_SHARE)
    return 0.5 + 0.5 * math.cos(math.pi * (share - _SYSTOLE_SHARE) / (1 - _SYSTOLE_SHARE))


def outlines(
    options: CineOptions, heart: Heart, level: int, phase: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the polygons of cavity and wall in one frame: (n, 2), x and y, pixels."""
    depth = (level + 0.5) / (options.slices + 0.6)  # 0 at the base, 1 at the tip of the apex
    taper = math.sqrt(1 - depth**2)
    angle = 2 * math.pi * np.arange(VERTICES) / VERTICES
    shape = np.ones(VERTICES)
    for order, (size, turn) in enumerate(heart.bumps, start=2):
        shape += size * np.cos(order * (angle - turn))
    rest = heart.radius_mm * taper * shape
    share = phase / options.phases
    radius = rest * (1 - heart.shortening * contraction(share))
    wall = heart.wall_mm * (0.75 + 0.25 * taper)
    muscle = (rest + wall) ** 2 - rest**2  # twice the wall's area per radian, in all phases
    outer = np.sqrt(radius**2 + muscle)
    centre_y, centre_x = heart.centre_mm
    shift = 1.5 * contraction(share)  # the heart moves a little during the beat
    found: list[Any] = []
    for reach in (radius, outer):
        x = (centre_x + shift + reach * np.cos(angle)) / options.spacing_mm
        y = (centre_y - shift + reach * np.sin(angle)) / options.spacing_mm
        found.append(np.round(np.column_stack((x, y)).astype(np.float64), DECIMALS))
    return found[0], found[1]


def polygon_area(points: NDArray[np.float64]) -> float:
    """Return the area of a polygon (n, 2) by the shoelace formula, in its own units.

    Examples
    --------
    >>> polygon_area(np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 3.0], [0.0, 3.0]]))
    6.0
    """
    x, y = points.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def draw_cine_frame(options: CineOptions, heart: Heart, level: int, phase: int) -> CineFrame:
    """Draw one frame, independently of all others.

    Parameters
    ----------
    options
        Parameters of the cine.
    heart
        Ventricle from `make_heart`.
    level, phase
        Indices of slice (0 at the base) and phase (0 at end-diastole).
    """
    endo, epi = outlines(options, heart, level, phase)
    grey = _draw_chest(options, heart, level, contraction(phase / options.phases), endo, epi)
    from skimage.filters import gaussian  # slow to import

    signal = gaussian(grey, 0.6, mode="nearest", preserve_range=True)
    rng = _rng(options, heart.patient, 1 + level * options.phases + phase)
    real, imaginary = rng.normal(0.0, options.noise, (2, *signal.shape))
    noisy = np.hypot(signal + real, imaginary)  # magnitude of a complex signal: Rician
    area = options.spacing_mm**2
    return CineFrame(
        np.rint(noisy).astype(np.int16),
        endo,
        epi,
        polygon_area(endo) * area,
        polygon_area(epi) * area,
    )


def _rng(options: CineOptions, patient: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=(patient, stream)))


def _ellipse(
    grid: NDArray[np.float64], y: float, x: float, tall: float, wide: float
) -> NDArray[np.bool_]:
    return ((grid[0] - y) / tall) ** 2 + ((grid[1] - x) / wide) ** 2 <= 1


def _star(grid: NDArray[np.float64], points: NDArray[np.float64], spacing: float) -> Any:
    """Return the inside of a polygon that is star-shaped about its middle; grid in mm."""
    from skimage.measure import points_in_poly  # slow to import

    corners = points[:, ::-1] * spacing
    low, high = corners.min(0), corners.max(0)
    box = (grid[0] >= low[0]) & (grid[0] <= high[0]) & (grid[1] >= low[1]) & (grid[1] <= high[1])
    inside = np.zeros(box.shape, bool)
    inside[box] = points_in_poly(np.column_stack((grid[0][box], grid[1][box])), corners)
    return inside


def _draw_chest(
    options: CineOptions,
    heart: Heart,
    level: int,
    beat: float,
    endo: NDArray[np.float64],
    epi: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return grey levels (y, x), with antialiased edges of shapes; coordinates in mm."""
    fine = options.size_px * _OVERSAMPLING
    axis = ((np.arange(fine) + 0.5) / _OVERSAMPLING - 0.5) * options.spacing_mm
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"))
    side = options.size_px * options.spacing_mm
    middle = side / 2
    cy, cx = heart.centre_mm
    taper = math.sqrt(1 - ((level + 0.5) / (options.slices + 0.6)) ** 2)
    plane = np.full((fine, fine), _GREY["air"])
    plane[_ellipse(grid, middle + 4, middle, 0.43 * side, 0.49 * side)] = _GREY["fat"]
    plane[_ellipse(grid, middle + 4, middle, 0.39 * side, 0.455 * side)] = _GREY["muscle"]
    plane[_ellipse(grid, middle - 6, middle - 0.24 * side, 0.29 * side, 0.17 * side)] = _GREY[
        "lung"
    ]
    plane[_ellipse(grid, middle, middle + 0.24 * side, 0.31 * side, 0.17 * side)] = _GREY["lung"]
    plane[_ellipse(grid, side * 0.92, middle - 0.2 * side, 0.22 * side, 0.33 * side)] = _GREY[
        "liver"
    ]
    inside_body = _ellipse(grid, middle + 4, middle, 0.43 * side, 0.49 * side)
    plane[~inside_body] = _GREY["air"]
    aorta = _ellipse(grid, cy + 62, cx + 18, 9, 9)
    plane[aorta & inside_body] = _GREY["blood"]
    # The right ventricle: a crescent on the septum's side, with a thin wall of its own.
    right = heart.radius_mm * taper * (1 - 0.3 * heart.shortening * beat)
    reach = heart.wall_mm + right
    for grown, grey in ((3.0, "wall"), (0.0, "blood")):
        crescent = _ellipse(grid, cy - 4, cx - 0.75 * reach, 1.25 * right + grown, right + grown)
        plane[crescent] = _GREY[grey]
    plane[_star(grid, epi, options.spacing_mm)] = _GREY["wall"]
    cavity = _star(grid, endo, options.spacing_mm)
    plane[cavity] = _GREY["blood"]
    for turn in (0.6, 2.4):  # papillary muscles lie in the cavity and count as part of it
        angle = heart.tilt + turn * math.pi / 2
        way = 0.62 * taper * heart.radius_mm * (1 - heart.shortening * beat)
        y, x = cy + way * math.sin(angle), cx + way * math.cos(angle)
        plane[_ellipse(grid, y, x, 3.4 * taper, 3.0 * taper) & cavity] = _GREY["papillary"]
    plane *= 1.15 - 0.35 * grid[0] / side  # a surface coil in front is less sensitive at the back
    share = plane.reshape(options.size_px, _OVERSAMPLING, options.size_px, _OVERSAMPLING)
    mean: NDArray[np.float64] = share.mean(axis=(1, 3))
    return mean
