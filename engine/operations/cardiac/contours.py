"""`contours`: measure annotated contours in physical units, and check them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from engine.kernels.contours.checks import (
    canonical_ring,
    closing_gap_px,
    count_crossings,
    count_nested,
    share_inside,
    share_outside_image,
)
from engine.kernels.contours.geometry import area_px, centroid, count_inside
from engine.kernels.contours.ventricle import wall_thickness_mm
from engine.operations.base import Image, Operation
from engine.operations.cardiac.structures import structures_of
from engine.operations.cardiac.tables import (
    SUMMARIES,
    finish_summaries,
    summarise_slice,
)
from engine.operations.outlines import Outline
from engine.store.catalog.annotations import Contour
from engine.store.digests import digest_bytes

OBJECTS = pa.schema(
    [
        ("y", pa.float64()),
        ("x", pa.float64()),
        ("annotation", pa.string()),
        ("structure", pa.string()),
        ("rings", pa.int64()),
        ("points", pa.int64()),
        ("area_px", pa.float64()),
        ("area_mm2", pa.float64()),
        ("mask_area_px", pa.int64()),
        ("mask_gap", pa.float64()),
        ("crossings", pa.int64()),
        ("nested", pa.int64()),
        ("closing_gap_px", pa.float64()),
        ("longest_step_px", pa.float64()),
        ("outside_share", pa.float64()),
        ("inside_share", pa.float64()),
        ("thickness_mean_mm", pa.float64()),
        ("thickness_min_mm", pa.float64()),
        ("thickness_max_mm", pa.float64()),
        ("points_digest", pa.string()),
        ("outline", pa.list_(pa.list_(pa.float32()))),
    ]
)
"""One row per contour; null if a figure does not apply. ``y``, ``x`` is the centroid, pixels;
``mask_gap`` is the mask's area over the polygon's, less 1; ``inside_share`` is the share of the
inner contour in the outer one, and the row of the outer contour has the thickness."""

UM_PER_MM = 1000.0


class Contours(Operation):
    """Measurement and checks of annotated contours: areas, wall, volumes, ejection fraction, mass.

    Parameters
    ----------
    annotations
        Name of the set in cohort.toml; by default all sets, of which only one may draw a structure.
    inner, outer
        Structures that bound the wall: endocardium and epicardium.
    least_inside
        Minimum share of the inner contour's area inside the outer contour.
    mask_tolerance
        Maximum relative difference between the areas of polygon and mask; more is a finding.
    jump_mm
        Maximum movement of the centroid from one slice to the next, millimetres; more is a finding.
    """

    name: ClassVar[str] = "contours"
    version: ClassVar[int] = 2
    object_schema: ClassVar[pa.Schema] = OBJECTS
    inputs: ClassVar[tuple[str, ...]] = ("content", "spacing", "annotation")
    object_name: ClassVar[str] = "contour"
    hidden_columns: ClassVar[frozenset[str]] = frozenset({"outline"})
    cohort_tables: ClassVar[tuple[str, ...]] = SUMMARIES
    cohort_tables_version: ClassVar[int] = 4  # slices that are not drawn are findings, too

    annotations: str | None = None
    inner: str = "inner"
    outer: str = "outer"
    least_inside: float = Field(default=0.995, gt=0.0, le=1.0)
    mask_tolerance: float = Field(default=0.02, gt=0.0)
    jump_mm: float = Field(default=10.0, gt=0.0)

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Return the columns of `OBJECTS`, one row per contour; see `Operation.measure`."""
        found = structures_of(image, self.annotations)
        spacing = image.spacing_um
        spacing_mm = None if spacing is None else (spacing[0] / UM_PER_MM, spacing[1] / UM_PER_MM)
        shape = image.full_shape or (int(image.pixels.shape[-2]), int(image.pixels.shape[-1]))
        inner, outer = found.get(self.inner), found.get(self.outer)
        rows = []
        for structure, contour in found.items():
            if not _belongs(contour, image, shape):
                continue
            row = _measure(contour, shape, spacing_mm)
            if structure == self.inner and outer is not None:
                row["inside_share"] = _number(share_inside(contour.rings, outer.rings))
            if structure == self.outer and inner is not None and spacing_mm is not None:
                thickness = wall_thickness_mm(inner.rings, contour.rings, spacing_mm)
                if np.isfinite(thickness).any():
                    row["thickness_mean_mm"] = float(np.nanmean(thickness))
                    row["thickness_min_mm"] = float(np.nanmin(thickness))
                    row["thickness_max_mm"] = float(np.nanmax(thickness))
            rows.append(row)
        return {name: [row.get(name) for row in rows] for name in OBJECTS.names}

    def outlines(self, found: Mapping[str, NDArray[Any]]) -> list[Outline]:
        """Return the contours as drawn, labelled with their structure."""
        return [
            Outline(np.asarray(ring, np.float64).reshape(-1, 2), str(structure))
            for structure, rings in zip(found["structure"], found["outline"], strict=True)
            for ring in rings
        ]

    def summarise_slice(self, objects: pa.Table, images: pa.Table) -> pa.Table:
        """Extract the data of each contour for the tables of series and of the cohort."""
        return summarise_slice(objects, images)

    def finish_summaries(self, merged: pa.Table) -> Mapping[str, pa.Table]:
        """Return the tables of findings, quantities, volumes and function."""
        return finish_summaries(self, merged)


def _belongs(contour: Contour, image: Image, shape: tuple[int, int]) -> bool:
    """Return whether the block holds a contour's centre, or the border point nearest to it."""
    if image.core_region is None:
        return True
    y, x = centroid(contour.rings)
    return image.core_region.holds(
        min(max(y, 0.0), shape[0] - 1.0), min(max(x, 0.0), shape[1] - 1.0)
    )


def _measure(
    contour: Contour, shape: tuple[int, int], spacing_mm: tuple[float, float] | None
) -> dict[str, Any]:
    layered = contour.rings
    y, x = centroid(layered)
    area = area_px(layered)
    inside = count_inside(layered, shape)
    outside = share_outside_image(layered, shape)
    crossings = count_crossings(layered)
    rings = [ring for ring in layered if len(ring)]
    gaps = [closing_gap_px(ring) for ring in rings]
    gap, step = max(gaps, key=lambda pair: pair[0] - pair[1])
    points = sorted(canonical_ring(np.round(ring, 3)).tobytes() for ring in rings)
    return {
        "y": y,
        "x": x,
        "annotation": contour.annotation,
        "structure": contour.structure,
        "rings": len(rings),
        "points": sum(len(ring) for ring in rings),
        "area_px": area,
        "area_mm2": None if spacing_mm is None else area * spacing_mm[0] * spacing_mm[1],
        "mask_area_px": inside,
        "mask_gap": inside / area - 1.0 if area > 0 and outside == 0.0 else None,
        "crossings": crossings,
        "nested": count_nested(layered),
        "closing_gap_px": gap,
        "longest_step_px": step,
        "outside_share": outside,
        "points_digest": digest_bytes(b"".join(points)),
        "outline": [np.asarray(ring, np.float32).ravel().tolist() for ring in rings],
    }


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
