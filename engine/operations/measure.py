"""Measurement of objects that another operation found, in every channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from engine.errors import UsageError
from engine.geometry import Region
from engine.kernels.objects.measure import SHAPES, measure_objects
from engine.kernels.objects.relations import find_neighbours, parent_labels
from engine.kernels.objects.rings import ring_labels
from engine.kernels.objects.values import STATISTICS
from engine.kernels.segmentation.instances import begin_in
from engine.operations.base import Found, Image, ImageFailed, Operation
from engine.operations.spacings import isotropic_spacing

LENGTHS = ("axis_major_length", "axis_minor_length", "perimeter", "feret_diameter_max",
           "equivalent_diameter_area")  # fmt: skip
"""Properties that are lengths: pixels, and micrometres in a column with ``_um``."""

RATIOS = ("eccentricity", "orientation", "solidity", "extent")

RING = tuple(f"ring_{name}" for name in STATISTICS)

OBJECTS = pa.schema(
    [
        ("y", pa.float64()),
        ("x", pa.float64()),
        ("area", pa.float64()),
        ("area_um2", pa.float64()),
        ("area_convex", pa.float64()),
        *((name, pa.float64()) for length in LENGTHS for name in (length, f"{length}_um")),
        *((name, pa.float64()) for name in RATIOS),
        ("euler_number", pa.int64()),
        *((f"bbox_{n}", pa.int64()) for n in range(4)),
        ("touches_border", pa.bool_()),
        ("cut", pa.bool_()),
        ("spacing_um", pa.float64()),
        ("neighbour_distance", pa.float64()),
        ("neighbours", pa.int64()),
        ("parent", pa.int64()),
        *((name, pa.list_(pa.float64())) for name in (*STATISTICS, *RING)),
        ("number", pa.int64()),
    ]
)
"""Columns of an object, see `Measure`. Those of intensities have a value for each channel."""


class Measure(Operation):
    """Shape, intensities and neighbours of each object of another operation.

    Columns have the names and definitions of scikit-image's ``regionprops_table``, in pixels:
    ``area``, ``area_convex``, ``axis_major_length``, ``axis_minor_length``, ``eccentricity``,
    ``equivalent_diameter_area``, ``euler_number``, ``extent``, ``feret_diameter_max``,
    ``orientation``, ``perimeter``, ``solidity``, ``bbox_0`` to ``bbox_3`` (top, left, bottom and
    right, half-open); ``y`` and ``x`` are the centroid. Lengths and the area are in micrometres too
    where the spacing is known (``_um``, ``_um2``). ``intensity_mean``, ``_min``, ``_max``, ``_std``
    and ``_median`` have a column for each channel, by its name or else its number:
    ``intensity_mean_DAPI``. Each object of a giant image is measured whole.

    Parameters
    ----------
    objects
        Operation whose objects to measure; a trial as ``name@<key8>``. Their numbers are in the
        column of its name.
    within
        Another operation with objects, e.g. tissue or cells: ``parent`` is the number of the object
        that holds most of an object's pixels, 0 for none.
    ring_px
        Width of a ring around each object, outside of all objects, pixels: columns
        ``ring_intensity_mean`` etc. of cytoplasm or of the background. No ring by default.
    radius_px
        Radius in which ``neighbours`` counts the centroids of other objects, pixels.
        ``neighbour_distance`` is that of the nearest one, pixels.
    """

    name: ClassVar[str] = "measure"
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ("content", "spacing")
    object_schema: ClassVar[pa.Schema] = OBJECTS
    order_columns: ClassVar[tuple[str, ...]] = ("number",)
    hidden_columns: ClassVar[frozenset[str]] = frozenset({"number"})
    upstream_parameters: ClassVar[tuple[str, ...]] = ("objects", "within")
    whole_objects: ClassVar[str | None] = "objects"
    channel_columns: ClassVar[tuple[str, ...]] = (*STATISTICS, *RING)
    pixel_sizes: ClassVar[tuple[str, ...]] = ("area", *LENGTHS)
    column_labels: ClassVar[Mapping[str, str]] = {"area": "area, px", "area_um2": "area, um²"}

    objects: str = "nuclei"
    within: str | None = None
    ring_px: float = Field(default=0.0, ge=0.0, le=500.0)
    radius_px: float = Field(default=100.0, gt=0.0)

    @property
    def object_name(self) -> str:  # type: ignore[override]
        """Name of the operation that found the objects: the column of their numbers."""
        return self.objects.partition("@")[0]

    @property
    def averaged_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """Area, and the mean intensity of each channel."""
        return ("area", "area_um2", "eccentricity", *self.expanded_columns("intensity_mean"))

    @property
    def unused_columns(self) -> frozenset[str]:
        """Those of rings and parents, without these."""
        rings = () if self.ring_px else RING
        return frozenset((*rings, *(() if self.within else ("parent",))))

    @property
    def halo_px(self) -> int:
        """Pixels around the objects: the ring, and what may be nearer to its pixels."""
        return 2 * int(np.ceil(self.ring_px)) + 1

    def with_upstream(self, found: Mapping[str, Operation]) -> Self:
        """Return the operation with those whose results it reads.

        Raises
        ------
        UsageError
            If they do not find objects.
        """
        for parameter, one in found.items():
            if not one.has_instances:
                raise UsageError(
                    f"measure needs objects, which {one.name} ({parameter}) does not number: name "
                    "an operation that finds instances, such as nuclei."
                )
        return super().with_upstream(found)

    def measure(self, image: Image) -> Found:
        """Measure the objects that begin in the core region; see `Operation.measure`."""
        name = self.object_name
        labels, rows = image.labels[name], image.objects[name]
        height, width = image.full_shape or image.pixels.shape[1:]
        core = image.core_region or Region((0, 0), (height, width))
        mine = begin_in(rows["first"].to_numpy(), width, core)
        numbers = np.flatnonzero(mine) + 1
        owned = np.where(np.concatenate([[False], mine])[labels], labels, 0)
        found = measure_objects(owned, image.pixels, ("label", *SHAPES, *STATISTICS))
        if not np.array_equal(found["label"], numbers):
            raise ImageFailed("upstream_changed")
        channels = len(image.pixels)
        columns: dict[str, Any] = {n: found[n] for n in ("area", "area_convex", *LENGTHS, *RATIOS)}
        side = isotropic_spacing(image.spacing_um)
        area = np.nan if image.spacing_um is None else float(np.prod(image.spacing_um))
        columns |= {f"{n}_um": _known(found[n] * side) for n in LENGTHS}
        columns["area_um2"] = _known(found["area"] * area)
        columns["spacing_um"] = _known(np.full(len(numbers), side))
        columns["euler_number"] = found["euler_number"]
        for axis, at in zip("yx", range(2), strict=True):
            columns[axis] = found[f"centroid-{at}"] + image.origin[at]
        for at in range(4):
            columns[f"bbox_{at}"] = found[f"bbox-{at}"] + image.origin[at % 2]
        for n in ("touches_border", "cut"):
            columns[n] = rows[n].to_numpy()[mine]
        around = find_neighbours(
            np.stack([rows["y"].to_numpy(), rows["x"].to_numpy()], axis=1), self.radius_px
        )
        columns["neighbour_distance"] = _known(around.distance[mine])
        columns["neighbours"] = around.number[mine]
        columns["parent"] = self._parents(owned, image)
        columns |= {n: _by_channel(found, n, channels) for n in STATISTICS}
        columns |= self._rings(labels, numbers, image)
        columns["number"] = numbers
        return columns

    def _parents(self, owned: NDArray[Any], image: Image) -> pa.Array:
        if self.within is None:
            return pa.nulls(len(np.unique(owned[owned > 0])), pa.int64())
        return pa.array(parent_labels(owned, image.labels[self.within.partition("@")[0]]))

    def _rings(
        self, labels: NDArray[Any], numbers: NDArray[np.int64], image: Image
    ) -> dict[str, pa.Array]:
        """Return the statistics of the rings: null without a ring."""
        if not self.ring_px:
            return {name: pa.nulls(len(numbers), pa.list_(pa.float64())) for name in RING}
        rings = ring_labels(labels, self.ring_px)
        found = measure_objects(
            np.where(np.isin(rings, numbers), rings, 0), image.pixels, ("label", *STATISTICS)
        )
        place = np.searchsorted(found["label"], numbers)
        there = np.isin(numbers, found["label"])
        columns = {}
        for name, ring in zip(STATISTICS, RING, strict=True):
            values = np.full((len(numbers), len(image.pixels)), np.nan)
            for n in range(len(image.pixels)):
                values[there, n] = found[f"{name}-{n}"][place[there]]
            columns[ring] = _lists(values)
        return columns


def _by_channel(found: Mapping[str, NDArray[Any]], name: str, channels: int) -> pa.Array:
    return _lists(np.stack([found[f"{name}-{n}"] for n in range(channels)], axis=1))


def _lists(values: NDArray[Any]) -> pa.Array:
    """Return rows (n, channels) as lists; NaN is null."""
    flat = pa.array(values.ravel().astype(np.float64), from_pandas=True)
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1])
    return pa.ListArray.from_arrays(offsets, flat)


def _known(values: NDArray[np.floating[Any]]) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)
