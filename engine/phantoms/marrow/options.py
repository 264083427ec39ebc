"""Parameters of a set of synthetic marrow slides, and the traits of each slide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from engine.errors import ParameterError
from engine.geometry import YX

Format = Literal["png", "psd", "tiff"]
FORMATS = ("png", "psd", "tiff")

LARGEST_PX = 100_000
PSD_LARGEST_PX = 8_000
"""Largest side of a layered PSD: the format allows 30,000 px, but the file is made in memory."""

SUBJECTS = 3


@dataclass(frozen=True, slots=True)
class MarrowOptions:
    """Parameters of a set.

    Attributes
    ----------
    images
        Number of slides, distributed over three subjects in turn.
    size
        Height and width, pixels.
    scale
        Scale factor of all structures: 1 gives fat vacuoles of about 11 px radius.
    variety
        Variation of slides in stain, light, texture, blur and tissue structure: 0 is none, 1 is
        that of one laboratory over the years, 2 that of several.
    format
        "png" (slides and one folder of masks a class), "psd" (layers) or "tiff" (pyramidal, with
        mask pyramids beside).
    seed
        Seed; equal seeds give equal slides.
    """

    images: int = 6
    size: YX = (1400, 700)
    scale: float = 1.0
    variety: float = 1.0
    format: Format = "png"
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("images", self.images, self.images >= 1, "at least 1"),
            ("size", self.size, len(self.size) == 2, "height and width"),
            ("size", self.size, min(self.size) >= 128, "at least 128 px a side"),
            ("size", self.size, max(self.size) <= LARGEST_PX, f"at most {LARGEST_PX} px a side"),
            ("scale", self.scale, 0.3 <= self.scale <= 10, "from 0.3 to 10"),
            ("variety", self.variety, 0 <= self.variety <= 3, "from 0 to 3"),
            ("format", self.format, self.format in FORMATS, f"one of {', '.join(FORMATS)}"),
            ("seed", self.seed, self.seed >= 0, "at least 0"),
        )
        for parameter, value, holds, expected in checks:
            if not holds:
                raise ParameterError(parameter, value, expected)
        if self.format == "psd" and max(self.size) > PSD_LARGEST_PX:
            raise ParameterError("size", self.size, f"at most {PSD_LARGEST_PX} px a side as PSD")


@dataclass(frozen=True, slots=True)
class SlideTraits:
    """Traits of one slide; lengths in pixels, absorbances in decades of light.

    Attributes
    ----------
    bone_width, bone_cell
        Half width of a trabecula, and distance between trabeculae.
    bone_reach
        Cutoff of trabeculae, in standard deviations of a slow field: higher gives more bone.
    fat_radius, fat_spread, fat_share
        Median radius of vacuoles, its geometric spread, and the share of positions that hold one.
    hole_level
        Threshold of holes in the tissue, in standard deviations of a field: higher gives fewer.
    cellularity
        Density of nuclei, as a share of the highest.
    haematoxylin, eosin
        Strength of each stain.
    hue
        Rotation of the stains' colours, radians.
    ground, ground_tint
        Light transmitted by the bare glass, share of full scale, and its colour.
    uneven
        Fall-off of the light towards the corners, share.
    blur, noise
        Of the camera: Gaussian sd in pixels, and grey levels.
    debris
        Share of positions that hold a speck.
    """

    bone_width: float
    bone_cell: float
    bone_reach: float
    fat_radius: float
    fat_spread: float
    fat_share: float
    hole_level: float
    cellularity: float
    haematoxylin: float
    eosin: float
    hue: float
    ground: float
    ground_tint: tuple[float, float, float]
    uneven: float
    blur: float
    noise: float
    debris: float


def slide_rng(options: MarrowOptions, number: int, *stream: int) -> np.random.Generator:
    """Return the random numbers of one part of one slide, independent of any earlier draw."""
    key = (number, *stream)
    return np.random.default_rng(np.random.SeedSequence(options.seed, spawn_key=key))


def slide_traits(options: MarrowOptions, number: int) -> SlideTraits:
    """Return the traits of a slide.

    Examples
    --------
    >>> plain = MarrowOptions(variety=0)
    >>> slide_traits(plain, 0) == slide_traits(plain, 1)
    True
    """
    rng = slide_rng(options, number, 0)

    def about(middle: float, spread: float) -> float:
        """Return a value about a middle, by a factor; always draw, so that streams stay aligned."""
        return middle * float(np.exp(options.variety * spread * np.clip(rng.normal(), -2, 2)))

    def around(middle: float, spread: float) -> float:
        return middle + options.variety * spread * float(np.clip(rng.normal(), -2, 2))

    size = options.scale * about(1.0, 0.12)
    return SlideTraits(
        bone_width=size * about(19.0, 0.16),
        bone_cell=size * about(125.0, 0.13),
        bone_reach=around(0.75, 0.3),
        fat_radius=size * about(12.5, 0.1),
        fat_spread=about(0.22, 0.15),
        fat_share=float(np.clip(around(0.78, 0.13), 0.1, 0.97)),
        hole_level=around(1.75, 0.25),
        cellularity=float(np.clip(around(0.6, 0.17), 0.15, 1.0)),
        haematoxylin=about(1.0, 0.2),
        eosin=about(1.0, 0.2),
        hue=around(0.0, 0.07),
        ground=float(np.clip(around(0.945, 0.018), 0.85, 0.99)),
        ground_tint=tuple(around(1.0, 0.012) for _ in range(3)),  # type: ignore[arg-type]
        uneven=abs(around(0.03, 0.025)),
        blur=float(np.clip(about(0.8, 0.3), 0.3, 2.5)),
        noise=about(2.0, 0.35),
        debris=float(np.clip(around(0.25, 0.12), 0.0, 0.8)),
    )
