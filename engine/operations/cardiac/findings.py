"""Contour checks: within an image, between slices of a series, and across patients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from engine.operations.cardiac.slices import find_gaps, find_lacking

if TYPE_CHECKING:
    import pandas as pd


class ContourChecks(Protocol):
    """Parameters of the operation `contours` that its checks and tables read."""

    inner: Any
    outer: Any
    least_inside: Any
    mask_tolerance: Any
    jump_mm: Any


ERROR, WARNING = "error", "warning"
"""Severity of a wrong contour, and of one that needs review."""

CHECKS = {
    "not_contained": "share of the inner contour's area that lies inside the outer one",
    "self_intersection": "places where the outline passes through itself",
    "nested": "outlines that lie inside another one of the same structure",
    "unclosed": "distance from the last point to the first, pixels",
    "outside_image": "share of the area that lies outside of the image",
    "no_area": "area, pixels",
    "mask_area": "area of the mask over that of the polygon, less 1",
    "centroid_jump": "movement of the centroid from the slice before, millimetres",
    "slice_missing": "slices between this one and the one before that are not drawn",
    "slice_gap": "distance from slice to slice, millimetres: the series lacks one",
    "slice_gap_by_thickness": "distance of slices, millimetres: twice their thickness or more",
    "plane_missing": "planes that a phase lacks, and that are drawn in others",
    "in_parts": "slices of the series that came later, and lie in another stack",
    "uneven_slices": "distance from the slice before, millimetres: another one than usual",
    "duplicate": "contours with the very same points under another patient",
}
"""Checks, and the meaning of their figure."""

CLOSING_PX, CLOSING_STEPS = 2.0, 2.0
"""An outline is open if the distance between its last and first point exceeds both this many pixels
and this multiple of its longest step: outlines of few points have long steps, but are closed."""

NEXT_TO_NOTHING_PX = 1.0
"""Area below which a contour counts as empty, pixels."""

COLUMNS = pa.schema(
    [
        ("check", pa.string()),
        ("severity", pa.string()),
        ("annotation", pa.string()),
        ("structure", pa.string()),
        ("figure", pa.float64()),
        ("means", pa.string()),
    ]
)
"""Columns between an image's fields and its source in the table of findings."""

Finding = tuple[int, str, str, float, str]
"""Row number, check, severity, figure, meaning."""


def find_all(
    frame: pd.DataFrame, operation: ContourChecks, planes: Sequence[Mapping[str, Any]]
) -> list[Finding]:
    """Return all findings on a cohort's contours, by row, then check.

    Parameters
    ----------
    frame
        One row per contour, see `engine.operations.cardiac.tables`.
    planes
        (stack, t, z) of all planes of the incomplete series.
    """
    found = [
        *_of_images(frame, operation),
        *_of_series(frame, operation, planes),
        *_of_cohort(frame),
    ]
    order = list(CHECKS)
    return sorted(found, key=lambda finding: (finding[0], order.index(finding[1])))


def _of_images(frame: pd.DataFrame, operation: ContourChecks) -> Iterator[Finding]:
    row: Any
    for n, row in enumerate(frame.itertuples(index=False)):
        inside = _float(row.inside_share)
        if inside is not None and inside < operation.least_inside:
            yield n, "not_contained", ERROR, inside, (
                f"Only {inside:.2%} of the inner contour's area lies inside the outer one; "
                f"{operation.least_inside:.1%} must. One of the two may be of another slice."
            )  # fmt: skip
        if row.crossings > 0:
            yield n, "self_intersection", ERROR, float(row.crossings), (
                f"The outline passes through itself {row.crossings} times, so parts of its inside "
                "count as outside."
            )  # fmt: skip
        if row.nested > 0:
            yield n, "nested", WARNING, float(row.nested), (
                f"{row.nested} outlines lie inside another one of the structure and change "
                "nothing, since the structure is their union. If a hole is meant, draw it as one."
            )  # fmt: skip
        open_by = max(CLOSING_PX, CLOSING_STEPS * row.longest_step_px)
        if row.closing_gap_px > open_by:
            yield n, "unclosed", ERROR, row.closing_gap_px, (
                f"The last point is {row.closing_gap_px:.1f} pixels from the first, more than "
                "twice any other step: a part of the outline is missing."
            )  # fmt: skip
        if row.outside_share > 0:
            yield n, "outside_image", ERROR, row.outside_share, (
                f"{row.outside_share:.1%} of the area lies outside of the image."
            )  # fmt: skip
        if row.area_px < NEXT_TO_NOTHING_PX and row.crossings == 0:
            yield n, "no_area", ERROR, row.area_px, (
                "The outline encloses less than one pixel: nothing is drawn."
            )  # fmt: skip
        gap = _float(row.mask_gap)
        if gap is not None and abs(gap) > operation.mask_tolerance and row.crossings == 0:
            yield n, "mask_area", WARNING, gap, (
                f"The mask's area differs from the polygon's by {gap:+.1%}: the structure is small "
                "against the pixels, or folded. Areas in the tables are the polygon's."
            )  # fmt: skip


def _of_series(
    frame: pd.DataFrame, operation: ContourChecks, planes: Sequence[Mapping[str, Any]]
) -> Iterator[Finding]:
    numbered = frame.reset_index(drop=True)
    for n, check, count, meaning in find_lacking(numbered, planes):
        yield n, check, WARNING, count, meaning
    placed = numbered[numbered["_z"].notna() & numbered["_spacing_y_um"].notna()]
    keys = ["_stack", "_t", "annotation", "structure"]
    key: Any
    for key, members in placed.groupby(keys, sort=True, dropna=False):
        of_volume = key[-1] in (operation.inner, operation.outer)
        ordered = members.sort_values("_z", kind="stable")
        steps = ordered["_z"].diff().to_numpy()
        moved = np.hypot(
            (ordered["y"].diff() * ordered["_spacing_y_um"] / 1000.0).to_numpy(),
            (ordered["x"].diff() * ordered["_spacing_x_um"] / 1000.0).to_numpy(),
        )
        for n, step, distance in zip(ordered.index, steps, moved, strict=True):
            if step > 1 and of_volume:
                yield n, "slice_missing", WARNING, float(step - 1), (
                    f"{step - 1:.0f} slices between this one and the one before that is drawn are "
                    "not, so no volume is given."
                )  # fmt: skip
            if step == 1 and distance > operation.jump_mm:
                yield n, "centroid_jump", WARNING, float(distance), (
                    f"The centroid is {distance:.1f} mm from that of the slice before; "
                    f"{operation.jump_mm:g} mm are usual at most. The patient may have breathed "
                    "differently, or the contour is of another slice."
                )  # fmt: skip

    for n, check, distance, meaning in find_gaps(placed):
        yield n, check, WARNING, distance, meaning


def _of_cohort(frame: pd.DataFrame) -> Iterator[Finding]:
    numbered = frame.reset_index(drop=True)
    for _, members in numbered.groupby("points_digest", sort=True):
        patients = members["_patient"].nunique()
        if patients < 2:
            continue
        for n, patient in zip(members.index, members["_patient"], strict=True):
            others = int((members["_patient"] != patient).sum())
            yield n, "duplicate", ERROR, float(others), (
                f"The very same points are drawn under {patients} patients: a file was copied to "
                "the wrong one."
            )  # fmt: skip


def _float(value: Any) -> float | None:
    import pandas as pd

    return None if value is None or pd.isna(value) else float(value)
