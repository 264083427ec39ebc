"""Plane shapes and their image: rasterised to pixels, and exact at any point.

Grey values are shares of full scale here; `engine.phantoms.discs.image` converts them to grey
levels. Pixel centres lie at integer coordinates, so a plane covers ``-0.5 <= y < height - 0.5``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engine.geometry import YX

Floats = NDArray[np.float64]

SUBPIXELS = 8
"""Sample points along each side of an edge pixel for its covered share. 64 points locate an edge
within about 0.01 px on average, a tenth of the precision required of a detector."""

EDGE_REACH_PX = 1.0
"""A pixel may be cut by an edge up to this far from its centre (half its diagonal is 0.71)."""

CIRCLE_SAMPLES = 720
"""Sample points on a circumference for its visible edge: every half degree."""


class Shape(Protocol):
    """Drawable shape: a position, a grey value and a signed distance to its edge."""

    @property
    def y(self) -> float:
        """Centre, pixels."""
        ...

    @property
    def x(self) -> float:
        """Centre, pixels."""
        ...

    @property
    def grey(self) -> float:
        """Share of full scale: added to the pixels beneath, or covering them."""
        ...

    @property
    def reach_px(self) -> float:
        """Radius about the centre outside which nothing is drawn."""
        ...

    def distance(self, y: Floats, x: Floats) -> Floats:
        """Return the signed distance of points to the edge, pixels; zero or less is inside.

        The sign is exact; the magnitude need only be right to first order near the edge.
        """
        ...


@dataclass(frozen=True, slots=True)
class Disc:
    """Disc, the target of detection."""

    y: float
    x: float
    radius_px: float
    grey: float

    @property
    def reach_px(self) -> float:
        """Radius about the centre outside which nothing is drawn."""
        return self.radius_px

    def distance(self, y: Floats, x: Floats) -> Floats:
        """Return the distance to the circumference, pixels, negative inside."""
        return np.hypot(y - self.y, x - self.x) - self.radius_px


@dataclass(frozen=True, slots=True)
class Ellipse:
    """Ellipse far from round, which a circle detector must not report."""

    y: float
    x: float
    major_px: float
    minor_px: float
    angle_rad: float
    grey: float

    @property
    def reach_px(self) -> float:
        """Radius about the centre outside which nothing is drawn."""
        return self.major_px

    def distance(self, y: Floats, x: Floats) -> Floats:
        """Return the distance to the edge, pixels: sign exact, magnitude right to first order."""
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        dy, dx = y - self.y, x - self.x
        along, across = (dx * cos + dy * sin) / self.major_px, (dy * cos - dx * sin) / self.minor_px
        level = np.hypot(along, across)
        slope = np.hypot(along / self.major_px, across / self.minor_px)
        # Level over slope is the distance to first order. At the centre both are zero.
        return np.divide(
            (level - 1) * level, slope, out=np.full_like(level, -self.minor_px), where=slope > 0
        )


@dataclass(frozen=True, slots=True)
class Line:
    """Straight stroke with round ends; its long edges are not part of a circle."""

    y: float
    x: float
    length_px: float
    width_px: float
    angle_rad: float
    grey: float

    @property
    def reach_px(self) -> float:
        """Radius about the centre outside which nothing is drawn."""
        return (self.length_px + self.width_px) / 2

    def distance(self, y: Floats, x: Floats) -> Floats:
        """Return the distance to the outline, pixels, negative inside."""
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        dy, dx = y - self.y, x - self.x
        beyond = np.maximum(np.abs(dx * cos + dy * sin) - self.length_px / 2, 0.0)
        return np.hypot(beyond, dy * cos - dx * sin) - self.width_px / 2


@dataclass(frozen=True, slots=True)
class Light:
    """Uneven light, added to the whole plane: ``amount`` at (y, x), falling to 0 at ``zero_px``."""

    amount: float
    y: float
    x: float
    zero_px: float

    def at(self, y: Floats, x: Floats) -> Floats:
        """Return the light at points, as a share of full scale."""
        squared = (y - self.y) ** 2 + (x - self.x) ** 2
        return self.amount * np.maximum(1 - squared / self.zero_px**2, 0.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """Content of an image before blur and noise; later shapes lie above earlier ones.

    ``adds``: whether a shape's grey value is added to the pixels beneath instead of covering them.
    """

    shape: YX
    background: float
    shapes: tuple[Shape, ...]
    adds: bool
    light: Light | None = None


def draw_scene(scene: Scene, *, antialias: bool) -> Floats:
    """Rasterise a scene: each pixel has the grey value at its centre, or of its whole area.

    Parameters
    ----------
    scene
        Scene to draw.
    antialias
        False: a pixel belongs to a shape if its centre does. True: pixels at an edge are mixed by
        the share of their area that is covered (64 points a pixel).

    Returns
    -------
    Clean image, axes (y, x), float64, shares of full scale, clipped to 0..1.

    Examples
    --------
    >>> scene = Scene((3, 4), 0.0, (Disc(1, 1, 1.2, 0.5), Disc(1, 2, 1.2, 0.25)), adds=True)
    >>> draw_scene(scene, antialias=False)
    array([[0.  , 0.5 , 0.25, 0.  ],
           [0.5 , 0.75, 0.75, 0.25],
           [0.  , 0.5 , 0.25, 0.  ]])
    """
    height, width = scene.shape
    image = np.full(scene.shape, float(scene.background))
    for shape in scene.shapes:
        reach = shape.reach_px + EDGE_REACH_PX
        top, bottom = (
            max(0, math.floor(shape.y - reach)),
            min(height, math.ceil(shape.y + reach) + 1),
        )
        left, right = (
            max(0, math.floor(shape.x - reach)),
            min(width, math.ceil(shape.x + reach) + 1),
        )
        if top >= bottom or left >= right:
            continue
        y, x = np.ogrid[float(top) : float(bottom), float(left) : float(right)]
        share = _covered_share(shape, y, x, antialias=antialias)
        under = image[top:bottom, left:right]
        under += share * (shape.grey if scene.adds else shape.grey - under)
    if scene.light is not None:
        y, x = np.ogrid[0.0 : float(height), 0.0 : float(width)]
        image += scene.light.at(y, x)
    return np.clip(image, 0.0, 1.0, out=image)


def _covered_share(shape: Shape, y: Floats, x: Floats, *, antialias: bool) -> Floats:
    """Return the covered share (0..1) of the pixels at ``y`` (n, 1) and ``x`` (1, m)."""
    distance = shape.distance(y, x)
    share = (distance <= 0).astype(np.float64)
    if antialias:
        rows, columns = np.nonzero(np.abs(distance) < EDGE_REACH_PX)
        offset = (np.arange(SUBPIXELS) + 0.5) / SUBPIXELS - 0.5
        fine_y = y[rows, 0][:, None, None] + offset[:, None]
        fine_x = x[0, columns][:, None, None] + offset[None, :]
        share[rows, columns] = (shape.distance(fine_y, fine_x) <= 0).mean(axis=(1, 2))
    return share


def edge_steps(scene: Scene, index: int) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return the clean grey values just inside and just outside a disc, along its circumference.

    They are computed from the shapes, at the circumference itself, with and without this disc, so
    neither the pixel grid nor the slope of uneven light adds or hides a step.

    Parameters
    ----------
    scene
        The scene.
    index
        Index in ``scene.shapes`` of a `Disc`.

    Returns
    -------
    inside, outside
        Grey values at `CIRCLE_SAMPLES` angles, float64, shares of full scale, clipped to 0..1.
    in_plane
        Whether the point of the circumference lies in the plane, bool.
    """
    disc = scene.shapes[index]
    angle = np.arange(CIRCLE_SAMPLES) * (2 * math.pi / CIRCLE_SAMPLES)
    y = disc.y + disc.reach_px * np.sin(angle)
    x = disc.x + disc.reach_px * np.cos(angle)
    inside = np.full(CIRCLE_SAMPLES, float(scene.background))
    outside = inside.copy()
    for number, shape in enumerate(scene.shapes):
        if number == index:
            inside = inside + disc.grey if scene.adds else np.full_like(inside, disc.grey)
        elif math.hypot(shape.y - disc.y, shape.x - disc.x) <= shape.reach_px + disc.reach_px:
            covered = shape.distance(y, x) <= 0
            for side in (inside, outside):
                side[covered] = side[covered] + shape.grey if scene.adds else shape.grey
    if scene.light is not None:
        light = scene.light.at(y, x)
        inside, outside = inside + light, outside + light
    height, width = scene.shape
    in_plane = (y >= -0.5) & (y < height - 0.5) & (x >= -0.5) & (x < width - 0.5)
    return np.clip(inside, 0.0, 1.0), np.clip(outside, 0.0, 1.0), in_plane
