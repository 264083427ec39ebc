"""Parameters of a set of synthetic images, and the paths of its images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.geometry import YX
from engine.phantoms.discs.placement import Placement

SMALLEST_RADIUS_PX = 1.0
"""Least radius; smaller discs may contain no pixel centre."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """Uniform distribution between two bounds."""

    low: float
    high: float

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Return random values, shape (count,)."""
        return rng.uniform(self.low, self.high, count)


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal distribution; its standard deviation may be 0."""

    mean: float
    sd: float

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Return random values, shape (count,)."""
        return rng.normal(self.mean, self.sd, count)


@dataclass(frozen=True, slots=True)
class Folder:
    """Folder of one session's images: ``<date>/<subject>/<experiment>``."""

    date: str
    subject: str
    experiment: str


FOLDERS = (
    Folder("2018-03-01", "s1", "exp1"),
    Folder("2018-04-01", "s1", "exp1"),
    Folder("2018-04-02", "s2", "exp1"),
    Folder("2018-04-02", "s2", "exp2"),
)
"""Image number i is in folder i modulo 4, so a larger set contains the smaller one unchanged."""


@dataclass(frozen=True, slots=True)
class Content:
    """Content of an image: fewest and most discs; the rest as in `DiscOptions`."""

    discs: tuple[int, int]
    radius_px: Uniform | Normal
    grey: Uniform | Normal
    background: float
    antialias: bool


LAB = {
    "s1": Content((30, 30), Normal(45, 5), Normal(200 / 255, 20 / 255), 0.0, antialias=False),
    "s2": Content((30, 30), Normal(25, 0), Normal(100 / 255, 0), 0.0, antialias=False),
}
"""The two subjects differ, so that a table by subject shows a difference."""

TEST_SET = Content((3, 14), Uniform(10, 40), Uniform(0.4, 0.9), 0.2, antialias=True)
"""Test set for detectors: discs on a grey background, with antialiased edges."""


@dataclass(frozen=True, slots=True)
class DiscOptions:
    """Parameters of a set of synthetic images; the defaults are a small lab cohort of 12 images.

    Parameters
    ----------
    images
        Number of images, distributed evenly over the four folders of `FOLDERS`.
    size
        Height and width, pixels, or (height, width).
    placement
        Layout of the discs, see `Placement`. It also sets the defaults of the next five.
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
        Light added at the brightest position, share of full scale; it falls to 0 at the far corner.
    distractors
        Number of ellipses and lines in an image, drawn beneath the discs.
    dtype
        ``"uint8"`` or ``"uint16"``.
    seed
        Any non-negative integer. An image depends only on the options, the seed and its number.

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
        for name, count, least in (
            ("images", self.images, 1),
            ("distractors", self.distractors, 0),
            ("seed", self.seed, 0),
        ):
            whole = isinstance(count, int) and count >= least
            _need(name, count, whole, f"a whole number, {least} or more")
        plane = len(self.shape) == 2 and all(isinstance(n, int) and n >= 1 for n in self.shape)
        _need("size", self.size, plane, "one or two whole numbers of pixels, 1 or more")
        for name, share in (("noise", self.noise), ("uneven", self.uneven)):
            _need(name, share, 0 <= share <= 1, "a share of full scale, 0 to 1")
        blur_fits = 0 <= self.blur_px <= min(self.shape)
        _need("blur_px", self.blur_px, blur_fits, "0 to the image's smaller side, pixels")
        if self.background is not None:
            shown = 0 <= self.background <= 1
            _need("background", self.background, shown, "a share of full scale, 0 to 1")
        _need_range("discs", self.discs, 0, math.inf, "whole, 0 or more, fewest first")
        if self.discs is not None:
            whole = all(isinstance(count, int) for count in self.discs)
            _need("discs", self.discs, whole, "two whole numbers")
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
        return self.size if isinstance(self.size, tuple) else (self.size, self.size)

    @property
    def full_scale(self) -> int:
        """Highest grey level of the files."""
        return int(np.iinfo(self.dtype).max)

    def content(self, subject: str) -> Content:
        """Return the content of a subject's images, with the defaults of the placement filled in.

        Examples
        --------
        >>> DiscOptions().content("s2").radius_px
        Normal(mean=25, sd=0)
        >>> DiscOptions(radius_px=(10, 20)).content("s2").radius_px
        Uniform(low=10, high=20)
        """
        adds = self.placement is Placement.ADDING
        default = LAB[subject] if adds else TEST_SET
        return Content(
            discs=default.discs if self.discs is None else self.discs,
            radius_px=default.radius_px if self.radius_px is None else Uniform(*self.radius_px),
            grey=default.grey if self.grey is None else Uniform(*self.grey),
            background=default.background if self.background is None else self.background,
            antialias=default.antialias if self.antialias is None else self.antialias,
        )


def _need(parameter: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ParameterError(parameter, value, expected)


def _need_range(
    parameter: str, value: tuple[float, float] | None, low: float, high: float, expected: str
) -> None:
    if value is not None:
        holds = len(value) == 2 and low <= value[0] <= value[1] <= high
        _need(parameter, value, holds, f"two numbers: {expected}")


def image_path(folder: Folder, name: str) -> str:
    """Return ``<date>/<subject>/<experiment>/<name>.png``."""
    return f"{folder.date}/{folder.subject}/{folder.experiment}/{name}.png"


def image_place(options: DiscOptions, number: int) -> tuple[Folder, str]:
    """Return folder and name (no suffix) of an image; names in a folder sort by number.

    Examples
    --------
    >>> image_place(DiscOptions(), 6)
    (Folder(date='2018-04-02', subject='s2', experiment='exp1'), 'field-002')
    """
    _need("number", number, 0 <= number < options.images, f"0 to {options.images - 1}")
    digits = max(3, len(str(math.ceil(options.images / len(FOLDERS)))))
    return FOLDERS[number % len(FOLDERS)], f"field-{number // len(FOLDERS) + 1:0{digits}d}"
