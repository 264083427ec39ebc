"""`bloodpool`: segment the blood pool inside an outer contour without a network, and score it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.kernels.contours.geometry import centroid, fill_contour
from engine.kernels.contours.trace import trace_mask
from engine.kernels.segmentation.bloodpool import dice, segment_bloodpool
from engine.operations.base import Image, ImageFailed, Operation
from engine.operations.cardiac.structures import structures_of
from engine.operations.channels import Channel
from engine.operations.outlines import Outline

if TYPE_CHECKING:
    import pandas as pd

BY_SUBJECT = "bloodpool_by_subject"

OBJECTS = pa.schema(
    [
        ("y", pa.float64()),
        ("x", pa.float64()),
        ("threshold", pa.float64()),
        ("area_px", pa.int64()),
        ("drawn_area_px", pa.int64()),
        ("dice", pa.float64()),
        ("area_ratio", pa.float64()),
        ("outline", pa.list_(pa.list_(pa.float32()))),
    ]
)
"""One row per image with an outer contour. ``drawn_area_px``, ``dice`` and ``area_ratio`` (found
over drawn) are null if the image has no inner contour."""

BY_SUBJECT_SCHEMA = pa.schema(
    [
        ("subject", pa.string()),
        ("images", pa.int64()),
        ("scored", pa.int64()),
        ("dice_mean", pa.float64()),
        ("dice_sd", pa.float64()),
        ("dice_min", pa.float64()),
        ("area_ratio_mean", pa.float64()),
    ]
)


class Bloodpool(Operation):
    """Segmentation of the blood pool inside the outer contour by Otsu's threshold, with a score.

    Parameters
    ----------
    annotations
        Name of the set in cohort.toml; by default all sets, of which only one may draw a structure.
    inner, outer
        Structures: endocardium, used as reference for the score, and epicardium.
    channel
        Channel to measure.
    """

    name: ClassVar[str] = "bloodpool"
    version: ClassVar[int] = 1
    object_schema: ClassVar[pa.Schema] = OBJECTS
    inputs: ClassVar[tuple[str, ...]] = ("content", "annotation")
    object_name: ClassVar[str] = "pool"
    averaged_columns: ClassVar[tuple[str, ...]] = ()
    hidden_columns: ClassVar[frozenset[str]] = frozenset({"outline"})
    cohort_tables: ClassVar[tuple[str, ...]] = (BY_SUBJECT,)

    annotations: str | None = None
    inner: str = "inner"
    outer: str = "outer"
    channel: Channel = 0

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Return the columns of `OBJECTS`: one row if an outer contour is drawn, else none."""
        found = structures_of(image, self.annotations)
        outer, inner = found.get(self.outer), found.get(self.inner)
        if outer is None:
            return {name: [] for name in OBJECTS.names}
        plane = image.pixels[image.channel(self.channel)]
        shape = (int(plane.shape[0]), int(plane.shape[1]))
        if image.is_block:  # Otsu's threshold is only valid for a whole heart
            raise ImageFailed("giant_image")
        pool, threshold = segment_bloodpool(plane, fill_contour(outer.rings, shape))
        if not pool.any():
            raise ImageFailed("one_grey_level")
        rings = trace_mask(pool)
        y, x = centroid(rings)
        row: dict[str, Any] = {
            "y": y,
            "x": x,
            "threshold": threshold,
            "area_px": int(pool.sum()),
            "outline": [np.asarray(ring, np.float32).ravel().tolist() for ring in rings],
        }
        if inner is not None:
            drawn = fill_contour(inner.rings, shape)
            row["drawn_area_px"] = int(drawn.sum())
            row["dice"] = dice(pool, drawn)
            row["area_ratio"] = int(pool.sum()) / int(drawn.sum()) if drawn.any() else None
        return {name: [row.get(name)] for name in OBJECTS.names}

    def outlines(self, found: Mapping[str, NDArray[Any]]) -> list[Outline]:
        """Return the outline of the segmented blood pool."""
        return [
            Outline(np.asarray(ring, np.float64).reshape(-1, 2), "blood pool")
            for rings in found["outline"]
            for ring in rings
        ]

    def summarise_slice(self, objects: pa.Table, images: pa.Table) -> pa.Table:
        """Return the scores by image."""
        return objects.select(["subject", "image_id", "dice", "area_ratio"])

    def finish_summaries(self, merged: pa.Table) -> Mapping[str, pa.Table]:
        """Return the scores by subject."""
        frame: pd.DataFrame = merged.to_pandas()
        groups = frame.groupby("subject", sort=True)
        table = groups.agg(
            images=("image_id", "size"),
            scored=("dice", "count"),
            dice_mean=("dice", "mean"),
            dice_sd=("dice", "std"),
            dice_min=("dice", "min"),
            area_ratio_mean=("area_ratio", "mean"),
        ).reset_index()
        return {BY_SUBJECT: pa.Table.from_pandas(table, BY_SUBJECT_SCHEMA, preserve_index=False)}
