"""Any region of a synthetic fluorescence field, with its truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.geometry import YX, Region
from engine.phantoms.cells.nuclei import (
    CYTOPLASM_UM,
    Cells,
    Stream,
    largest_radius,
    lay_out_cells,
    most_cells,
)
from engine.phantoms.cells.options import CellOptions, subject_of
from engine.phantoms.cells.random_lattice import RandomLattice

Plane = NDArray[np.float32]

OFFSET = 100
"""Grey level of the camera without light."""

READ_NOISE, GAIN = 6.0, 2.0
"""Standard deviation of the read noise, grey levels, and grey levels per photoelectron."""

BLUR_UM = 0.35
"""Standard deviation of the point spread function, micrometres."""

UNEVEN = 0.35
"""Share of the light that is missing in the farthest corner."""

BACKGROUND = (70.0, 90.0)
"""Grey levels between the cells, by channel."""

HAZE = (120.0, 45.0)
"""Mean grey levels of cells out of focus, by channel."""

HAZE_UM, HAZE_SHARE = 7.0, 0.12
"""Width of a cell out of focus, and the share of places with one."""

UNDER_NUCLEUS = 0.3
"""Share of the marker's brightness over the nucleus, where cytoplasm is thin."""


@dataclass(frozen=True, slots=True, eq=False)
class FieldPart:
    """A region of a field.

    Attributes
    ----------
    region
        Place in the field.
    pixels
        (2, y, x) uint16.
    expected
        (2, y, x) float32: grey levels without noise and rounding.
    ids
        (y, x) uint32: the nucleus of each pixel, by `Cells.id`; 0 between nuclei.
    cells
        All cells of the region, and some around it.
    """

    region: Region
    pixels: NDArray[np.uint16]
    expected: Plane
    ids: NDArray[np.uint32]
    cells: Cells


@dataclass(frozen=True, slots=True)
class CellField:
    """One field of a set, drawn on request.

    Examples
    --------
    >>> field = CellField(CellOptions(size=(128, 160)), 0)
    >>> part = field.draw(Region((100, 0), (104, 160)))
    >>> part.pixels.shape, part.ids.shape
    ((2, 4, 160), (4, 160))
    """

    options: CellOptions
    number: int

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.options.images:
            raise ParameterError("number", self.number, f"in [0, {self.options.images})")

    @property
    def shape(self) -> YX:
        """Height and width, pixels."""
        return self.options.size

    @property
    def px_per_um(self) -> float:
        """Pixels per micrometre."""
        return 1 / self.options.spacing_um

    def cells(self, region: Region) -> Cells:
        """Return the cells whose centre is in a region."""
        positive = subject_of(self.number).positive
        return lay_out_cells(self._random, self.shape, self.px_per_um, positive, region)

    def draw(self, region: Region) -> FieldPart:
        """Draw a region, independently of all others."""
        if region.grow(0, self.shape) != region or min(region.shape) < 1:
            raise ParameterError("region", region, f"inside of the field of {self.shape}")
        scale = self.px_per_um
        # Whole nuclei are needed to find their parts, and the blur looks beyond the region.
        margin = math.ceil(2 * largest_radius(scale)) + 1
        window = _grown(region, margin)
        reach = math.ceil(largest_radius(scale) + CYTOPLASM_UM[1] * scale) + 1
        cells = self.cells(_grown(window, reach))
        canvas = _paint_cells(cells, window)
        ids = _keep_whole(canvas, cells, window, self.shape)
        expected = self._expose(self._emit(canvas, cells, window), window)
        core = (slice(margin, -margin), slice(margin, -margin))
        expected = np.ascontiguousarray(expected[:, *core])
        return FieldPart(region, self._record(expected, region), expected, ids[core].copy(), cells)

    @property
    def most_cells(self) -> int:
        """Return an upper bound of the number of cells."""
        return most_cells(self.shape, self.px_per_um)

    @property
    def _random(self) -> RandomLattice:
        return RandomLattice(self.options.seed, self.number)

    def _emit(self, canvas: _Canvas, cells: Cells, window: Region) -> tuple[Plane, Plane]:
        """Return the light of the cells in focus, both channels, before any optics."""
        fine = self.px_per_um
        chromatin = self._random.smooth_noise(Stream.CHROMATIN, window, 1.2 * fine)
        nuclei = canvas.dna * (1 + np.float32(0.16) * chromatin)
        depth, owner = canvas.outside, canvas.owner
        width = np.append(cells.cytoplasm, 1.0).astype(np.float32)[owner]
        level = np.append(cells.level, 0.0).astype(np.float32)[owner]
        over = np.float32(UNDER_NUCLEUS)
        shell = over + (1 - over) * np.clip(depth + 1, 0, 1)
        shell *= np.clip((width - depth) / np.float32(0.4 * fine), 0, 1)
        spread = self._random.smooth_noise(Stream.MEMBRANE, window, 0.9 * fine)
        return nuclei, level * shell * (1 + np.float32(0.2) * spread)

    def _expose(self, emitted: tuple[Plane, Plane], window: Region) -> Plane:
        """Return the expected grey levels (2, y, x)."""
        from scipy.ndimage import gaussian_filter

        scale = self.px_per_um
        slow = self._random.smooth_noise(Stream.BACKGROUND, window, 60 * scale)
        light = self._light(window)
        planes = []
        for channel, plane in enumerate(emitted):
            haze = self._random.spots(
                Stream.OUT_OF_FOCUS[channel], window, HAZE_UM * scale, HAZE_SHARE
            )
            sharp = gaussian_filter(plane, BLUR_UM * scale, mode="constant")
            ground = np.float32(BACKGROUND[channel]) * (1 + np.float32(0.15) * slow)
            total = sharp + ground + np.float32(HAZE[channel]) * haze
            planes.append(OFFSET + light * np.maximum(total, 0))
        return np.stack(planes).astype(np.float32)

    def _light(self, window: Region) -> Plane:
        """Return the light, 1 at its brightest: a parabola about a point near the centre."""
        off_y, off_x = self._random.uniforms(Stream.BACKGROUND + 100, Region((0, 0), (1, 2)))[0, 0]
        height, width = self.shape
        y = np.arange(window.start[0], window.stop[0]) / height - (0.4 + 0.2 * off_y)
        x = np.arange(window.start[1], window.stop[1]) / width - (0.4 + 0.2 * off_x)
        fall = np.float32(UNEVEN / 0.72)  # the farthest corner is 0.6 away on both axes
        return 1 - fall * (y[:, None] ** 2 + x[None, :] ** 2).astype(np.float32)

    def _record(self, expected: Plane, region: Region) -> NDArray[np.uint16]:
        """Return the camera's grey levels: shot noise as a normal one, and read noise."""
        planes = []
        for stream, plane in zip(Stream.NOISE, expected, strict=True):
            sd = np.sqrt(np.float32(READ_NOISE**2) + np.float32(GAIN) * (plane - OFFSET))
            noisy = plane + sd * self._random.normals(stream, region)[0]
            planes.append(np.rint(np.clip(noisy, 0, 65535)).astype(np.uint16))
        return np.stack(planes)


@dataclass(frozen=True, slots=True, eq=False)
class _Canvas:
    """Cells painted on a window.

    ``outside`` is the distance from the nearest nucleus's outline along the ray from its centre,
    pixels, negative inside; ``owner`` is the index of that cell, -1 for none; ``dna`` is the light
    of nuclei, which adds where they overlap.
    """

    outside: Plane
    owner: NDArray[np.int32]
    dna: Plane


def _grown(region: Region, by: int) -> Region:
    """Return a region with ``by`` more pixels on each side, also beyond the field."""
    (top, left), (bottom, right) = region.start, region.stop
    return Region((top - by, left - by), (bottom + by, right + by))


def _paint_cells(cells: Cells, window: Region) -> _Canvas:
    (top, left), shape = window.start, window.shape
    canvas = _Canvas(
        np.full(shape, np.inf, np.float32),
        np.full(shape, -1, np.int32),
        np.zeros(shape, np.float32),
    )
    for cell in range(len(cells)):
        y, x = cells.y[cell], cells.x[cell]
        reach = (1 + cells.dent[cell]) * cells.radius[cell] * math.sqrt(cells.stretch[cell])
        reach += cells.cytoplasm[cell] + 1
        rows = np.arange(math.floor(y - reach), math.ceil(y + reach) + 1)
        columns = np.arange(math.floor(x - reach), math.ceil(x + reach) + 1)
        # Values of the whole box, then cut, so that they do not depend on the window.
        dy, dx = rows[:, None] - y, columns[None, :] - x
        distance = np.sqrt(dy * dy + dx * dx)
        edge = cells.edge(cell, dy / distance, dx / distance)
        outside = (distance - edge).astype(np.float32)
        dome = np.sqrt(np.maximum(1 - (distance / edge) ** 2, 0)).astype(np.float32)
        soft = np.clip(np.float32(0.5) - outside, 0, 1)
        dna = np.float32(cells.dna[cell]) * soft * (np.float32(0.55) + np.float32(0.45) * dome)
        r0, r1 = max(rows[0] - top, 0), min(rows[-1] + 1 - top, shape[0])
        c0, c1 = max(columns[0] - left, 0), min(columns[-1] + 1 - left, shape[1])
        if r0 >= r1 or c0 >= c1:
            continue
        here = (slice(r0, r1), slice(c0, c1))
        cut = (
            slice(r0 + top - rows[0], r1 + top - rows[0]),
            slice(c0 + left - columns[0], c1 + left - columns[0]),
        )
        nearer = outside[cut] < canvas.outside[here]
        canvas.outside[here][nearer] = outside[cut][nearer]
        canvas.owner[here][nearer] = cell
        canvas.dna[here] += dna[cut]
    return canvas


def _keep_whole(canvas: _Canvas, cells: Cells, window: Region, shape: YX) -> NDArray[np.uint32]:
    """Return the ids of nuclei, each as one connected piece inside of the field."""
    from skimage.measure import label

    ids = np.append(cells.id, np.uint32(0))[canvas.owner]
    ids[canvas.outside > 0] = 0
    rows = np.arange(window.start[0], window.stop[0])
    columns = np.arange(window.start[1], window.stop[1])
    ids[(rows < 0) | (rows >= shape[0])] = 0
    ids[:, (columns < 0) | (columns >= shape[1])] = 0
    pieces, count = label(ids, connectivity=1, return_num=True)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    whose = np.zeros(count + 1, np.uint32)
    whose[pieces.ravel()] = ids.ravel()
    # The largest piece of each nucleus first; of equal ones, the one that comes first.
    order = np.lexsort((np.arange(count + 1), -sizes, whose))
    first = np.append(True, np.diff(whose[order].astype(np.int64)) != 0)
    whose[order[~first]] = 0
    return np.asarray(whose[pieces])
