"""One synthetic image of discs by number, with its truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from engine.phantoms.discs.options import (
    SMALLEST_RADIUS_PX,
    DiscOptions,
    Folder,
    Normal,
    Uniform,
    image_path,
    image_place,
)
from engine.phantoms.discs.placement import Placement, place_discs
from engine.phantoms.discs.shapes import (
    Disc,
    Ellipse,
    Light,
    Line,
    Scene,
    Shape,
    draw_scene,
    edge_steps,
)

VISIBLE_STEP = 10 / 255
"""Least step of the clean image across a visible edge: 10 of 255 grey levels."""

SMALLEST_RATIO = 1.6
"""Least ratio of length to width of ellipses, so that none resembles a disc."""


class Stream(IntEnum):
    """Independent random streams of an image: distractors and noise do not change the discs."""

    DISCS = 0
    DISTRACTORS = 1
    LIGHT = 2
    NOISE = 3


@dataclass(frozen=True, slots=True, eq=False)
class DiscImage:
    """One synthetic image and its truth.

    ``pixels`` has axes (y, x). ``circles`` has shape (n, 3): y, x, radius, pixels, float64, in the
    order of drawing. ``grey`` (n,) is in grey levels of the file, float64; ``visible_edge`` (n,)
    is the share of each circumference that can be seen (see `draw_disc_image`).
    """

    number: int
    folder: Folder
    name: str
    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    circles: NDArray[np.float64]
    grey: NDArray[np.float64]
    visible_edge: NDArray[np.float64]

    @property
    def path(self) -> str:
        """Path of the file relative to the root of the set, with forward slashes."""
        return image_path(self.folder, self.name)


def make_scene(options: DiscOptions, number: int) -> tuple[Scene, tuple[Disc, ...]]:
    """Return all shapes of an image, distractors first, and its discs.

    Parameters
    ----------
    options
        Parameters of the set.
    number
        Number of the image, from 0.

    Returns
    -------
    The scene, before blur and noise, and the discs at the end of its shapes.

    Raises
    ------
    ParameterError
        If the number is out of range, or the discs don't fit.
    """
    content = options.content(image_place(options, number)[0].subject)
    placement = Placement(options.placement)
    rng = _rng(options, number, Stream.DISCS)
    count = int(rng.integers(*content.discs, endpoint=True))
    # A normal distribution has no lower bound.
    radii = np.maximum(content.radius_px.draw(rng, count), SMALLEST_RADIUS_PX)
    greys = np.maximum(content.grey.draw(rng, count), 0.0)
    centres = place_discs(rng, options.shape, radii, placement)
    discs = tuple(
        Disc(float(y), float(x), float(r), float(g))
        for (y, x), r, g in zip(centres, radii, greys, strict=True)
    )
    scene = Scene(
        shape=options.shape,
        background=content.background,
        shapes=(*_distractors(options, number, content.grey), *discs),
        adds=placement is Placement.ADDING,
        light=_light(options, number),
    )
    return scene, discs


def draw_disc_image(options: DiscOptions, number: int) -> DiscImage:
    """Draw one image of a set, independently of all others.

    Shapes are drawn and clipped to full scale, then blurred, then noise is added, and the sum is
    clipped again and rounded to the nearest grey level.

    Parameters
    ----------
    options
        Parameters of the set.
    number
        Number of the image, from 0.

    Returns
    -------
    Pixels and truth. ``visible_edge`` is the share of the circumference, sampled every half
    degree, that lies in the image and across which the clean image (drawn, clipped, rounded to
    grey levels; not blurred, no noise) steps by 10 of 255 grey levels or more.

    Raises
    ------
    ParameterError
        If the number is out of range, or the discs don't fit.

    Examples
    --------
    >>> image = draw_disc_image(DiscOptions(), 0)
    >>> image.path, image.pixels.shape, image.circles.shape
    ('2018-03-01/s1/exp1/field-001.png', (1024, 1024), (30, 3))
    """
    scene, discs = make_scene(options, number)
    folder, name = image_place(options, number)
    image = draw_scene(scene, antialias=options.content(folder.subject).antialias)
    if options.blur_px > 0:
        from skimage.filters import gaussian  # slow to import, and not every image is blurred

        image = gaussian(image, options.blur_px, mode="nearest", preserve_range=True)
    if options.noise > 0:
        image += _rng(options, number, Stream.NOISE).normal(0.0, options.noise, image.shape)
    first = len(scene.shapes) - len(discs)
    return DiscImage(
        number=number,
        folder=folder,
        name=name,
        pixels=_levels(image, options).astype(options.dtype),
        circles=np.array([(d.y, d.x, d.radius_px) for d in discs], np.float64).reshape(-1, 3),
        grey=np.array([d.grey * options.full_scale for d in discs], np.float64),
        visible_edge=np.array(
            [_visible_edge(scene, first + index, options) for index in range(len(discs))]
        ),
    )


def _levels(shares: NDArray[np.float64], options: DiscOptions) -> NDArray[np.float64]:
    return np.rint(np.clip(shares, 0.0, 1.0) * options.full_scale)


def _visible_edge(scene: Scene, index: int, options: DiscOptions) -> float:
    inside, outside, in_plane = edge_steps(scene, index)
    step = np.abs(_levels(inside, options) - _levels(outside, options))
    # Integer grey levels are compared, so a step of exactly 10 of 255 counts in any dtype.
    return float((in_plane & (step >= round(VISIBLE_STEP * options.full_scale))).mean())


def _rng(options: DiscOptions, number: int, stream: Stream) -> np.random.Generator:
    key = (number, int(stream))
    return np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=key))


def _light(options: DiscOptions, number: int) -> Light | None:
    if options.uneven == 0:
        return None
    height, width = options.shape
    y, x = _rng(options, number, Stream.LIGHT).uniform((0, 0), (height - 1, width - 1))
    far = math.hypot(max(y, height - 1 - y), max(x, width - 1 - x))
    return Light(options.uneven, float(y), float(x), max(far, 1.0))


def _distractors(options: DiscOptions, number: int, grey: Uniform | Normal) -> list[Shape]:
    """Return ellipses and strokes alternately."""
    rng = _rng(options, number, Stream.DISTRACTORS)
    extent = min(options.shape)
    shapes: list[Shape] = []
    for index in range(options.distractors):
        y, x = (float(v) for v in rng.uniform((0, 0), options.shape))
        angle, level = float(rng.uniform(0, math.pi)), max(0.0, float(grey.draw(rng, 1)[0]))
        if index % 2 == 0:
            major = float(rng.uniform(0.04, 0.12)) * extent
            minor = major / float(rng.uniform(SMALLEST_RATIO, 3.0))
            shapes.append(Ellipse(y, x, major, minor, angle, level))
        else:
            length, line_width = float(rng.uniform(0.2, 0.8)) * extent, float(rng.uniform(1.5, 5.0))
            shapes.append(Line(y, x, length, line_width, angle, level))
    return shapes
