"""`circles`: detect circles in an image and measure position, size and brightness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from engine.errors import ParameterError, UsageError
from engine.kernels.circles.detect import (
    DEFAULT_SUPPORT,
    LARGEST_PX,
    detect_circles,
    halo_px,
    is_compiled,
)
from engine.kernels.circles.measure import MEASURES, measure_circles
from engine.kernels.circles.rims import Polarity, make_rims
from engine.kernels.colour import luminance
from engine.operations.base import Image, ImageFailed, Operation
from engine.operations.channels import Channel
from engine.operations.spacings import isotropic_spacing

if TYPE_CHECKING:
    import pandas as pd

RING_OUTER_RADII = 1.2
"""Outer radius of the background's ring, in radii (see `measure_circles`)."""

RING_PX = 5.0
"""Minimum width added to the ring for the smallest circles, pixels."""

SPACING_NEEDED = "spacing_needed"
"""Reason code of an image without the spacing that a range in micrometres needs."""

COMPILES = "The first run on a machine compiles the kernels: some 20 s before the first image."

OBJECTS = pa.schema(
    [
        ("y", pa.float64()),
        ("x", pa.float64()),
        ("radius_px", pa.float64()),
        ("radius_um", pa.float64()),
        ("spacing_um", pa.float64()),
        ("support", pa.float64()),
        # Whole numbers are stored as float64 too.
        *(
            (n, pa.bool_() if MEASURES[n].kind == "b" else pa.float64())
            for n in MEASURES.names or ()
        ),
    ]
)


class Circles(Operation):
    """Detection and measurement of all circles with a radius in a given range.

    A circle cut by the image's border is found if its centre lies inside. A circle with its centre
    outside is found if a third of the circumference is visible (slightly more for radii below 10
    px) and half of that shows an edge; its ``y`` or ``x`` is then negative or beyond the last
    pixel. Intensities, ``area_px``, ``background_mean`` and ``contrast`` of a cut circle use only
    the pixels in the image, and ``touches_border`` is true; ``radius_px`` is that of the whole
    circle. ``radius_um`` and ``spacing_um`` are empty if the spacing is unknown, or differs by more
    than 1 % between y and x.

    Parameters
    ----------
    radius_px
        Minimum and maximum radius, pixels; 10 to 60 by default.
    radius_um
        Alternative range in micrometres, converted to pixels by each image's spacing. An image
        fails as ``spacing_needed`` if it has no spacing, or spacings along y and x that differ by
        more than 1 %, and as ``radius_out_of_range`` if the minimum radius is below a pixel.
    polarity
        "bright" (brighter inside than outside), "dark" or "any"; "rim" for rings such as bubbles:
        two concentric edges of opposite polarity count as one circle, that of the outer edge, and
        other edges are ignored.
    rim_width_px
        Maximum width of a rim, pixels, also with ``radius_um``; for "rim" by default two fifths of
        its radius. If given for "any", the two edges of a rim also count as one circle, in addition
        to all other circles; by default each edge is a circle of its own.
    min_support
        Minimum share of a circle's visible circumference that must show an edge.
    channel
        Channel to measure, by its number from 0 or its name; by default the only one, or the
        luminance of RGB and RGBA (alpha is ignored). For channels that are not colours, such as
        stains, one must be chosen.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :96]
    >>> plane = np.where((y - 30) ** 2 + (x - 50) ** 2 <= 12**2, 200, 50).astype(np.uint8)
    >>> Circles(radius_px=(8, 20))(plane)[["circle", "y", "x", "mean_intensity"]].round(1)
       circle     y     x  mean_intensity
    0       1  30.0  50.0           200.0
    """

    name: ClassVar[str] = "circles"
    version: ClassVar[int] = 3
    inputs: ClassVar[tuple[str, ...]] = ("content", "spacing")
    object_schema: ClassVar[pa.Schema] = OBJECTS
    object_name: ClassVar[str] = "circle"
    averaged_columns: ClassVar[tuple[str, ...]] = ("radius_px", "radius_um", "mean_intensity")
    pixel_sizes: ClassVar[tuple[str, ...]] = ("radius_px",)
    qc_columns: ClassVar[tuple[str, ...]] = ("support",)
    column_labels: ClassVar[Mapping[str, str]] = {
        "radius_px": "radius, px",
        "radius_um": "radius, um",
        "mean_intensity": "mean intensity, grey levels",
        "support": "support, share of the edge that was seen",
    }

    alternatives: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"radius_px", "radius_um"}),)

    radius_px: tuple[float, float] | None = (10.0, 60.0)
    radius_um: tuple[float, float] | None = None
    polarity: Polarity = "any"
    rim_width_px: float | None = None
    min_support: float = Field(default=DEFAULT_SUPPORT, gt=0.0, le=1.0)
    channel: Channel | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_of_both(cls, given: dict[str, Any]) -> dict[str, Any]:
        if given.get("radius_um") is None:
            return given
        if given.get("radius_px") is not None:
            raise UsageError("radius_px and radius_um are both given; give one of them.")
        return {**given, "radius_px": None}

    @field_validator("radius_px")
    @classmethod
    def _range(cls, radius_px: tuple[float, float] | None) -> tuple[float, float] | None:
        if radius_px is not None:
            halo_px(radius_px)
        return radius_px

    @field_validator("radius_um")
    @classmethod
    def _range_um(cls, radius_um: tuple[float, float] | None) -> tuple[float, float] | None:
        if radius_um is not None and not 0.0 < radius_um[0] <= radius_um[1]:
            raise ParameterError("radius_um", radius_um, "a range above 0, e.g. 4:12")
        return radius_um

    @model_validator(mode="after")
    def _rims(self) -> Self:
        if self.radius_px is None and self.radius_um is None:
            raise ParameterError("radius_px", None, "a range, e.g. 10:60")
        make_rims(self.polarity, self.rim_width_px)
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters as plain JSON values; ``radius_um`` is omitted if None.

        So keys of ranges in pixels are the same as before ``radius_um`` existed.
        """
        given = super().parameters
        return {n: value for n, value in given.items() if n != "radius_um" or value is not None}

    @property
    def halo_px(self) -> int:
        """Halo of a block for ``radius_px``; `halo_of` also handles ``radius_um``."""
        return self.halo_of(None)

    def halo_of(self, spacing_um: tuple[float, float] | None) -> int:
        """Return the halo of a block, for detection and for neighbours in a circle's ring."""
        try:
            radii = self._radii_px(spacing_um)
        except ImageFailed:  # each block of this image will fail
            return 0
        detection = halo_px(radii, self.polarity, self.rim_width_px)
        return detection + math.ceil((1.0 + RING_OUTER_RADII) * radii[1] + RING_PX)

    def __call__(self, array: NDArray[Any]) -> pd.DataFrame:
        """Measure one array, see `Operation.__call__`; ``radius_um`` needs an array with a spacing.

        Raises
        ------
        UsageError
            If ``radius_um`` is given and the array has no spacing.
        """
        try:
            return super().__call__(array)
        except ImageFailed as error:
            if error.args[0] != SPACING_NEEDED:
                raise
            raise UsageError(
                "radius_um needs one pixel spacing along y and x, which this array does not say. "
                "Give an image of cohort.images() that has one, or the range in pixels as "
                "radius_px."
            ) from None

    def first_run_notice(self) -> str | None:
        """Announce the compilation of kernels; see `Operation.first_run_notice`."""
        return None if is_compiled() else COMPILES

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Return the columns of `OBJECTS`, sorted by y, then x; see `Operation.measure`."""
        plane, noise = self._plane(image)
        if not image.is_block and not _has_values(plane):
            raise ImageFailed("no_usable_values")
        circles = detect_circles(
            plane,
            radius_px=self._radii_px(image.spacing_um),
            noise_sd=noise,
            polarity=self.polarity,
            rim_width_px=self.rim_width_px,
            min_support=self.min_support,
            origin=image.origin,
        )
        measures = measure_circles(plane, circles - np.array([*image.origin, 0, 0]))
        if image.core_region is not None and len(circles):
            mine = np.array([image.owns(y, x) for y, x in circles[:, :2]])
            circles, measures = circles[mine], measures[mine]
        columns: dict[str, Any] = dict(
            zip(("y", "x", "radius_px", "support"), circles.T, strict=True)
        )
        spacing = isotropic_spacing(image.spacing_um)
        # Null, not NaN: tables are compared, and averaged by more tools than pandas.
        columns["radius_um"] = pa.array(columns["radius_px"] * spacing, from_pandas=True)
        columns["spacing_um"] = pa.array(np.full(len(circles), spacing), from_pandas=True)
        return {**columns, **{name: measures[name] for name in MEASURES.names or ()}}

    def _radii_px(self, spacing_um: tuple[float, float] | None) -> tuple[float, float]:
        """Return the range of radii for an image of a spacing, pixels."""
        if self.radius_px is not None:
            return self.radius_px
        spacing = isotropic_spacing(spacing_um)
        if self.radius_um is None or math.isnan(spacing):
            raise ImageFailed(SPACING_NEEDED)
        low, high = (radius / spacing for radius in self.radius_um)
        if low < 1.0 or high > LARGEST_PX:
            raise ImageFailed("radius_out_of_range")
        return low, high

    def _plane(self, image: Image) -> tuple[NDArray[Any], float | None]:
        """Return the grey plane to measure, and its noise if known."""
        channels = image.pixels.shape[0]
        noise = dict(enumerate(image.noise_sd))
        if self.channel is not None:
            chosen = image.channel(self.channel)
            return image.pixels[chosen], noise.get(chosen)
        if not image.has_luminance:
            raise ImageFailed("channel_needed")
        return luminance(image.pixels), noise.get(channels if channels > 1 else 0)


def _has_values(plane: NDArray[Any]) -> bool:
    """Return whether any value is usable; an image without any must fail, not count 0 circles."""
    if plane.dtype.kind != "f":
        return True
    with np.errstate(over="ignore"):
        return bool(np.isfinite(plane.astype(np.float32, copy=False)).any())
