"""Positions, outlines and brightness of the cells of a field, for any region alone."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from engine.geometry import YX, Region
from engine.phantoms.cells.random_lattice import RandomLattice

Floats = NDArray[np.float64]

RADIUS_UM = 4.1
"""Mean radius of a nucleus, micrometres: of lymphocytes and small stroma cells in tissue."""

LARGEST_RADII = 1.75
"""Largest distance of an outline from its centre, in mean radii; see `_make_cells`."""

CLOSEST = 0.93
"""Smallest distance of two centres, in units of the sum of the outlines' radii on their line: the
rest is overlap, which is split between the two."""

PITCH_RADII = 1.7
"""Distance of the lattice's points, in mean radii. Each point has one candidate."""

CROWD_UM = 45.0
"""Size of crowded and of empty places, micrometres."""

CYTOPLASM_UM = (1.0, 2.2)
"""Smallest and largest width of the cytoplasm around a nucleus, micrometres."""


class Stream:
    """Numbers of the independent random streams of a field."""

    UNIFORMS, NORMALS, CROWDS, CHROMATIN, MEMBRANE, BACKGROUND = range(6)
    OUT_OF_FOCUS, NOISE = (10, 11), (20, 21)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Some cells, in row-major order of the lattice; arrays of one value per cell.

    ``id`` is 1 or more and unique in the field. y, x and lengths are in pixels. ``level`` is the
    marker's brightness, and ``dna`` that of the nucleus, grey levels.
    """

    id: NDArray[np.uint32]
    y: Floats
    x: Floats
    radius: Floats
    stretch: Floats
    angle: Floats
    dent: Floats
    phase: Floats
    cytoplasm: Floats
    dna: Floats
    level: Floats
    positive: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.id)

    def select(self, chosen: NDArray[np.bool_]) -> Cells:
        """Return some of the cells."""
        return Cells(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def edge(self, cell: NDArray[np.int_] | int, up: Floats, right: Floats) -> Floats:
        """Return the distance of outlines from their centres, pixels, along unit vectors (y, x)."""
        turn, stretch = self.angle[cell], np.sqrt(self.stretch[cell])
        cos = right * np.cos(turn) + up * np.sin(turn)
        sin = up * np.cos(turn) - right * np.sin(turn)
        ellipse = self.radius[cell] / np.sqrt((cos / stretch) ** 2 + (sin * stretch) ** 2)
        # Cosine and sine of three times the angle give three flat sides.
        cos3, sin3 = (4 * cos * cos - 3) * cos, (3 - 4 * sin * sin) * sin
        three = cos3 * np.cos(self.phase[cell]) - sin3 * np.sin(self.phase[cell])
        return np.asarray(ellipse * (1 + self.dent[cell] * three))


def largest_radius(px_per_um: float) -> float:
    """Return the largest distance of an outline from its centre, pixels."""
    return LARGEST_RADII * RADIUS_UM * px_per_um


def most_cells(shape: YX, px_per_um: float) -> int:
    """Return an upper bound of the number of cells in a field, and of `Cells.id`."""
    rows, columns = _last_point(shape, px_per_um)
    return (rows + 1) * (columns + 1)


def _last_point(shape: YX, px_per_um: float) -> YX:
    pitch = PITCH_RADII * RADIUS_UM * px_per_um
    return int((shape[0] - 1) / pitch), int((shape[1] - 1) / pitch)


def lay_out_cells(
    random: RandomLattice, shape: YX, px_per_um: float, positive: float, region: Region
) -> Cells:
    """Return the cells of a field whose centre is in a region, the same in every region.

    Candidates are jittered points of a lattice. Of two that are too close, the one with the lower
    rank is removed, whether or not the other one is (B. Matérn, Spatial variation, 1960, type II):
    so a cell depends only on candidates within twice the largest radius.

    Parameters
    ----------
    random
        Random numbers of the field.
    shape
        Height and width of the field, pixels. Cells have their centres inside, so none is cut
        to a sliver by the border.
    px_per_um
        Pixels per micrometre.
    positive
        Share of cells that are positive for the marker.
    region
        Part of the field, which may exceed it.
    """
    around = int(2 * largest_radius(px_per_um)) + 1
    wide = Region(
        (region.start[0] - around, region.start[1] - around),
        (region.stop[0] + around, region.stop[1] + around),
    )
    cells, ranks = _make_cells(random, shape, px_per_um, positive, wide)
    kept = _remove_close(cells, ranks, 2 * largest_radius(px_per_um))
    inside = (
        (cells.y >= region.start[0]) & (cells.y < region.stop[0])
        & (cells.x >= region.start[1]) & (cells.x < region.stop[1])
    )  # fmt: skip
    return cells.select(kept & inside)


def _make_cells(
    random: RandomLattice, shape: YX, px_per_um: float, positive: float, region: Region
) -> tuple[Cells, Floats]:
    """Return the candidates of a region, and their ranks."""
    radius = RADIUS_UM * px_per_um
    pitch = PITCH_RADII * radius
    last = _last_point(shape, px_per_um)
    points = Region(
        (max(0, int(region.start[0] // pitch)), max(0, int(region.start[1] // pitch))),
        (
            max(0, min(last[0], int(region.stop[0] // pitch)) + 1),
            max(0, min(last[1], int(region.stop[1] // pitch)) + 1),
        ),
    )
    uniforms = random.uniforms(Stream.UNIFORMS, points, 8).reshape(8, -1).astype(float)
    normals = np.clip(random.normals(Stream.NORMALS, points, 4), -2, 2).reshape(4, -1).astype(float)
    crowd = random.smooth_noise(Stream.CROWDS, points, CROWD_UM * px_per_um / pitch).ravel()
    row, column = (grid.ravel() for grid in np.mgrid[points.slices])
    is_positive = uniforms[6] < positive
    low, high = CYTOPLASM_UM
    cells = Cells(
        id=(row * (last[1] + 1) + column + 1).astype(np.uint32),
        y=(row + uniforms[0]) * pitch,
        x=(column + uniforms[1]) * pitch,
        # At most 1.27 mean radii, 1.27 times as much by stretch and 1.05 times by dents: 1.69.
        radius=radius * np.exp(0.12 * normals[0]),
        stretch=1 + 0.3 * np.abs(normals[1]),
        angle=np.pi * uniforms[2],
        dent=0.05 * uniforms[3],
        phase=2 * np.pi * uniforms[4],
        cytoplasm=px_per_um * (low + (high - low) * uniforms[5]),
        dna=1900 * np.exp(0.22 * normals[2]),
        level=np.where(
            is_positive, 1300 * np.exp(0.28 * normals[3]), 110 * np.exp(0.45 * normals[3])
        ),
        positive=is_positive,
    )
    present = (
        (uniforms[7] < np.clip(0.6 + 0.4 * crowd, 0.08, 1.0))
        & (cells.y < shape[0]) & (cells.x < shape[1])
    )  # fmt: skip
    ranks = random.uniforms(Stream.UNIFORMS + 100, points).ravel().astype(float)
    return cells.select(present), ranks[present]


def _remove_close(cells: Cells, ranks: Floats, reach: float) -> NDArray[np.bool_]:
    """Return the cells without one of a higher rank too close to them."""
    from scipy.spatial import cKDTree

    kept = np.ones(len(cells), np.bool_)
    if len(cells) < 2:
        return kept
    pairs = cKDTree(np.column_stack((cells.y, cells.x))).query_pairs(reach, output_type="ndarray")
    first, second = pairs[:, 0], pairs[:, 1]
    dy, dx = cells.y[second] - cells.y[first], cells.x[second] - cells.x[first]
    distance = np.hypot(dy, dx)
    up, right = dy / distance, dx / distance
    room = cells.edge(first, up, right) + cells.edge(second, -up, -right)
    close = distance < CLOSEST * room
    lower = np.where(ranks[first] < ranks[second], first, second)
    kept[lower[close]] = False
    return kept
