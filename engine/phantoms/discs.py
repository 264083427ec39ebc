"""Made images of discs: what can be asked for, and the drawing of any one of them by its number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.geometry import YX
from engine.phantoms.drawing import (
    Disc,
    Ellipse,
    Light,
    Line,
    Scene,
    Shape,
    draw_scene,
    edge_steps,
)
from engine.phantoms.placing import Placement, place_discs

VISIBLE_STEP = 10 / 255
"""An edge is visible where the clean image steps by 10 of 255 grey levels."""

SMALLEST_RADIUS_PX = 1.0
"""A radius drawn from a normal distribution is never smaller."""


class Stream(IntEnum):
    """Independent random streams of an image: the same discs with and without the rest."""

    DISCS = 0
    DISTRACTORS = 1
    LIGHT = 2
    NOISE = 3


@dataclass(frozen=True, slots=True)
class Uniform:
    """Values between two bounds."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Return random values, shape (count,)."""
        return rng.uniform(self.low, self.high, count)


@dataclass(frozen=True, slots=True)
class Normal:
    """Values about a mean, with a standard deviation that may be 0."""

    mean: float
    sd: float

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Return random values, shape (count,)."""
        return rng.normal(self.mean, self.sd, count)


@dataclass(frozen=True, slots=True)
class Folder:
    """Where a lab keeps images of one session: ``<date>/<subject>/<experiment>``."""

    date: str
    subject: str
    experiment: str


FOLDERS = (
    Folder("2018-03-01", "s1", "exp1"),
    Folder("2018-04-01", "s1", "exp1"),
    Folder("2018-04-02", "s2", "exp1"),
    Folder("2018-04-02", "s2", "exp2"),
)
"""Image number i is of folder i modulo 4, so a larger set holds the smaller one unchanged."""

LAB_RADIUS_PX = {"s1": Normal(45, 5), "s2": Normal(25, 0)}
LAB_GREY = {"s1": Normal(200 / 255, 20 / 255), "s2": Normal(100 / 255, 0)}
"""What the two subjects differ in, so that a table by subject shows something."""


@dataclass(frozen=True, slots=True)
class DiscOptions:
    """What a set of made images holds; the defaults are a small lab cohort of 12 images.

    Parameters
    ----------
    images
        Number of images, laid evenly over the four folders of `FOLDERS`.
    size
        Height and width, pixels, or (height, width).
    placement
        How the discs lie, see `Placement`. It also sets the defaults of the next five.
    discs
        Fewest and most discs in an image. Default: 30 for ``adding``, otherwise 3 to 14.
    radius_px
        Smallest and largest radius, pixels, drawn uniformly. Default: by subject for ``adding``
        (s1: 45, sd 5; s2: 25), otherwise 10 to 40.
    grey
        Lowest and highest grey value of a disc, shares of full scale, drawn uniformly. Default: by
        subject for ``adding`` (s1: 200, sd 20, s2: 100, of 255), otherwise 0.4 to 0.9.
    background
        Grey value between the discs, share of full scale. Default: 0 for ``adding``, else 0.2.
    antialias
        Mix the pixels at an edge by the area covered. Default: not for ``adding``, where a pixel
        belongs to a disc if its centre does.
    noise
        Standard deviation of normal noise, share of full scale.
    blur_px
        Standard deviation of a Gaussian blur, applied before the noise, pixels.
    uneven
        Light added at the brightest place, share of full scale; it falls to 0 at the far corner.
    distractors
        Number of ellipses and lines in an image, drawn beneath the discs.
    dtype
        ``"uint8"`` or ``"uint16"``.
    seed
        Any non-negative integer. An image follows from the options, the seed and its number alone.

    Raises
    ------
    ParameterError
        If a value is out of its range.

    Examples
    --------
    >>> DiscOptions(images=40, size=512, placement="separate", noise=0.03, blur_px=1).shape
    (512, 512)
    """

    images: int = 12
    size: int | YX = 1024
    placement: Placement | Literal["adding", "separate", "covering"] = Placement.ADDING
    discs: tuple[int, int] | None = None
    radius_px: tuple[float, float] | None = None
    grey: tuple[float, float] | None = None
    background: float | None = None
    antialias: bool | None = None
    noise: float = 0.0
    blur_px: float = 0.0
    uneven: float = 0.0
    distractors: int = 0
    dtype: Literal["uint8", "uint16"] = "uint8"
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            placement = Placement(self.placement)
        except ValueError:
            names = ", ".join(Placement)
            raise ParameterError("placement", self.placement, f"one of {names}") from None
        object.__setattr__(self, "placement", placement)
        if self.dtype not in ("uint8", "uint16"):
            raise ParameterError("dtype", self.dtype, "uint8 or uint16")
        _need("images", self.images, self.images >= 1, "at least 1")
        _need("size", self.size, min(self.shape) >= 1, "positive, pixels")
        _need("distractors", self.distractors, self.distractors >= 0, "0 or more")
        _need("seed", self.seed, self.seed >= 0, "0 or more")
        for name, share in (("noise", self.noise), ("uneven", self.uneven)):
            _need(name, share, 0 <= share <= 1, "a share of full scale, 0 to 1")
        blur_fits = 0 <= self.blur_px <= min(self.shape)
        _need("blur_px", self.blur_px, blur_fits, "0 or more pixels, and less than the image")
        if self.background is not None:
            shown = 0 <= self.background <= 1
            _need("background", self.background, shown, "a share of full scale, 0 to 1")
        _need_range("discs", self.discs, 0, math.inf, "0 or more, fewest first")
        _need_range(
            "radius_px",
            self.radius_px,
            SMALLEST_RADIUS_PX,
            min(self.shape) / 2,
            "1 px to half the image, smallest first",
        )
        _need_range("grey", self.grey, 0, 1, "shares of full scale, 0 to 1, lowest first")

    @property
    def shape(self) -> YX:
        """Height and width, pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def full_scale(self) -> int:
        """Highest grey level of the files."""
        return int(np.iinfo(self.dtype).max)


def _need(parameter: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ParameterError(parameter, value, expected)


def _need_range(
    parameter: str, value: tuple[float, float] | None, low: float, high: float, expected: str
) -> None:
    if value is not None:
        holds = len(value) == 2 and low <= value[0] <= value[1] <= high
        _need(parameter, value, holds, f"two numbers: {expected}")


@dataclass(frozen=True, slots=True, eq=False)
class DiscImage:
    """One made image and all that is true of it.

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


def image_path(folder: Folder, name: str) -> str:
    """Return ``<date>/<subject>/<experiment>/<name>.png``."""
    return f"{folder.date}/{folder.subject}/{folder.experiment}/{name}.png"


def image_place(options: DiscOptions, number: int) -> tuple[Folder, str]:
    """Return folder and name (no suffix) of an image; names sort in the order of numbers.

    Examples
    --------
    >>> image_place(DiscOptions(), 6)
    (Folder(date='2018-04-02', subject='s2', experiment='exp1'), 'field-002')
    """
    _need("number", number, 0 <= number < options.images, f"0 to {options.images - 1}")
    digits = max(3, len(str(math.ceil(options.images / len(FOLDERS)))))
    return FOLDERS[number % len(FOLDERS)], f"field-{number // len(FOLDERS) + 1:0{digits}d}"


def make_scene(options: DiscOptions, number: int) -> tuple[Scene, tuple[Disc, ...]]:
    """Return all shapes of an image, distractors first, and its discs.

    Parameters
    ----------
    options
        What the set holds.
    number
        Number of the image, from 0.

    Returns
    -------
    The scene, before blur and noise, and the discs at the end of its shapes.

    Raises
    ------
    ParameterError
        If there is no such image, or its discs don't fit.
    """
    subject = image_place(options, number)[0].subject
    placement = Placement(options.placement)
    adds = placement is Placement.ADDING
    radius: Uniform | Normal = LAB_RADIUS_PX[subject] if adds else Uniform(10, 40)
    if options.radius_px is not None:
        radius = Uniform(*options.radius_px)
    grey: Uniform | Normal = LAB_GREY[subject] if adds else Uniform(0.4, 0.9)
    if options.grey is not None:
        grey = Uniform(*options.grey)
    background = options.background
    if background is None:
        background = 0.0 if adds else 0.2

    rng = _rng(options, number, Stream.DISCS)
    fewest, most = options.discs or ((30, 30) if adds else (3, 14))
    count = int(rng.integers(fewest, most, endpoint=True))
    radii = np.maximum(radius.draw(rng, count), SMALLEST_RADIUS_PX)
    greys = np.maximum(grey.draw(rng, count), 0.0)
    centres = place_discs(rng, options.shape, radii, placement)
    discs = tuple(
        Disc(float(y), float(x), float(r), float(g))
        for (y, x), r, g in zip(centres, radii, greys, strict=True)
    )
    shapes = (*_distractors(options, number, grey), *discs)
    return Scene(options.shape, background, shapes, adds, _light(options, number)), discs


def draw_disc_image(options: DiscOptions, number: int) -> DiscImage:
    """Draw one image of a set; it is the same whichever others are drawn, in whatever order.

    Shapes are drawn and clipped to full scale, then blurred, then noise is added, and the sum is
    clipped again and rounded to the nearest grey level.

    Parameters
    ----------
    options
        What the set holds.
    number
        Number of the image, from 0.

    Returns
    -------
    Pixels and truth. ``visible_edge`` is the share of the circumference, judged every half
    degree, that lies in the image and across which the clean image (drawn, clipped, rounded to
    grey levels; not blurred, no noise) steps by 10 of 255 grey levels or more.

    Raises
    ------
    ParameterError
        If there is no such image, or its discs don't fit.

    Examples
    --------
    >>> image = draw_disc_image(DiscOptions(), 0)
    >>> image.path, image.pixels.shape, image.circles.shape
    ('2018-03-01/s1/exp1/field-001.png', (1024, 1024), (30, 3))
    """
    scene, discs = make_scene(options, number)
    antialias = options.antialias
    if antialias is None:
        antialias = not scene.adds
    image = draw_scene(scene, antialias=antialias)
    if options.blur_px > 0:
        from skimage.filters import gaussian  # slow to import, and not every image is blurred

        image = gaussian(image, options.blur_px, mode="nearest", preserve_range=True)
    if options.noise > 0:
        image += _rng(options, number, Stream.NOISE).normal(0.0, options.noise, image.shape)
    first = len(scene.shapes) - len(discs)
    folder, name = image_place(options, number)
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
    # Whole grey levels are compared, so a step of exactly 10 of 255 counts in any dtype.
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
    """Return ellipses at least 1.6 times as long as wide, and strokes, in turn."""
    rng = _rng(options, number, Stream.DISTRACTORS)
    extent = min(options.shape)
    shapes: list[Shape] = []
    for index in range(options.distractors):
        y, x = (float(v) for v in rng.uniform((0, 0), options.shape))
        angle, level = float(rng.uniform(0, math.pi)), max(0.0, float(grey.draw(rng, 1)[0]))
        if index % 2 == 0:
            major = float(rng.uniform(0.04, 0.12)) * extent
            minor = major / float(rng.uniform(1.6, 3.0))
            shapes.append(Ellipse(y, x, major, minor, angle, level))
        else:
            length, line_width = float(rng.uniform(0.2, 0.8)) * extent, float(rng.uniform(1.5, 5.0))
            shapes.append(Line(y, x, length, line_width, angle, level))
    return shapes
