"""Tables of contours: findings, quantities by image, volumes by phase, function by series.

Each contour contributes one small row. Workers extract these rows from slices of images and
concatenate them; the tables are built from all rows at once, since a copied contour may be
anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.kernels.contours.ventricle import ejection_fraction, myocardial_mass_g, volume_ml
from engine.operations.cardiac.findings import COLUMNS as FINDING_COLUMNS
from engine.operations.cardiac.findings import ContourChecks, find_all
from engine.operations.cardiac.slices import (
    IN_PARTS,
    PLANE_MISSING,
    distances_mm,
    gap_between,
    lacking,
    parted_series,
    places_of,
    planes_by_phase,
    planes_of_incomplete,
    widths_mm,
)
from engine.operations.column_order import LAST_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

FINDINGS, QUANTITIES = "contour_findings", "contour_quantities"
VOLUMES, FUNCTION = "contour_volumes", "contour_function"
SUMMARIES = (FINDINGS, QUANTITIES, VOLUMES, FUNCTION)

OF_OBJECT = (
    "annotation", "structure", "y", "x", "area_px", "area_mm2", "mask_gap", "crossings", "nested",
    "closing_gap_px", "longest_step_px", "outside_share", "inside_share",
    "thickness_mean_mm", "thickness_min_mm", "thickness_max_mm", "points_digest",
)  # fmt: skip
"""Figures of a contour that the tables need."""

OF_IMAGE = ("stack", "t", "z", "spacing_y_um", "spacing_x_um")
"""Catalog columns that the tables need. They get a leading underscore, since a layout field may
have the same name."""

LEAST_SLICES_SHARE = 0.5
"""Minimum share of the slices drawn in the fullest phase. A phase with fewer does not cover the
whole ventricle. In end-systole the base has moved away, so one or two slices less are normal."""

REASONS = {
    "no_series": "The image is not a plane of a series.",
    "no_spacing": "The pixel spacing is not known.",
    "no_slice_spacing": "The distance of slices is not known.",
    "slice_missing": "Between the first and the last slice that is drawn, one is not.",
    "slice_gap": "The series lacks a slice between those that are drawn.",
    "slice_gap_by_thickness": "Slices are at least twice their thickness apart, and their header "
    "does not say that they should: the series seems to lack those between.",
    "plane_missing": "The series lacks a plane of this phase that is drawn in others.",
    "in_parts": "Further slices of the series came later, and lie in another stack.",
    "few_slices": "In fewer than half the slices of another phase anything is drawn.",
    "one_phase": "Contours of at least two whole phases are needed.",
    "outer_missing": "Not every slice with an inner contour has an outer one.",
    "inner_missing": "No inner contour is drawn.",
}
"""Reasons for null quantities."""


def summarise_slice(objects: pa.Table, images: pa.Table) -> pa.Table:
    """Return one small row per contour of a slice of images.

    Parameters
    ----------
    objects
        Rows of the table ``contours``, with ``_image``: the image's row in ``images``.
    images
        The catalog's rows.
    """
    row = objects["_image"]
    taken = {*OF_OBJECT, *LAST_COLUMNS, "contour", "_image"}
    fields = [name for name in objects.column_names if name not in taken and name not in _MEASURED]
    columns: dict[str, Any] = {name: objects[name] for name in (*fields, *OF_OBJECT, *LAST_COLUMNS)}
    for name in OF_IMAGE:
        columns[f"_{name}"] = images[name].take(row)
    there = set(images.column_names)
    for name, kind in (("series", pa.string()), ("spacing_z_um", pa.float64())):
        found = images[name].take(row) if name in there else pa.nulls(len(objects), kind)
        columns[f"_{name}"] = pc.cast(found, kind)
    columns.update({name: found.take(row) for name, found in places_of(images).items()})
    columns["_patient"] = _patient(columns)
    found = pa.table(columns)
    # Missing planes of a phase can be inferred only from existing planes, annotated or not.
    planes = [{"_stack": stack, "_t": t, "_z": z} for stack, t, z in planes_of_incomplete(images)]
    return pa.concat_tables([found, pa.Table.from_pylist(planes, schema=found.schema)])


_MEASURED = frozenset({"rings", "points", "mask_area_px"})


def _patient(columns: Mapping[str, Any]) -> pa.Array:
    """Return each image's patient: its subject, or its folder if the layout has no subject."""
    subjects = columns["subject"].to_pylist()
    folders = [source.rpartition("/")[0] for source in columns["source"].to_pylist()]
    return pa.array([s or f for s, f in zip(subjects, folders, strict=True)], pa.string())


def finish_summaries(operation: ContourChecks, merged: pa.Table) -> dict[str, pa.Table]:
    """Build the tables from the rows of all images.

    Parameters
    ----------
    operation
        Names of structures and limits of checks.
    merged
        Rows of `summarise_slice`, by image_id.
    """
    drawn = pc.is_valid(merged["image_id"])
    planes = merged.filter(pc.invert(drawn)).select(["_stack", "_t", "_z"]).to_pylist()
    merged = merged.filter(drawn)
    frame = merged.to_pandas()
    volumes = _volumes(frame, operation, planes)
    return {
        FINDINGS: _findings(merged, frame, operation, planes),
        QUANTITIES: _quantities(merged, frame, operation),
        VOLUMES: pa.Table.from_pylist(volumes, schema=VOLUME_SCHEMA),
        FUNCTION: pa.Table.from_pylist(_function(volumes), schema=FUNCTION_SCHEMA),
    }


def _fields(merged: pa.Table) -> list[str]:
    """Return the layout's fields and the subjects' columns, which begin every table."""
    names: list[str] = merged.column_names
    return names[: names.index(OF_OBJECT[0])]


def _findings(
    merged: pa.Table, frame: pd.DataFrame, operation: ContourChecks, planes: list[dict[str, Any]]
) -> pa.Table:
    found = find_all(frame, operation, planes)
    rows = pa.array([finding[0] for finding in found], pa.int64())
    named = ("annotation", "structure")
    columns: dict[str, Any] = {name: merged[name].take(rows) for name in _fields(merged)}
    columns["check"] = pa.array([finding[1] for finding in found], pa.string())
    columns["severity"] = pa.array([finding[2] for finding in found], pa.string())
    columns.update({name: merged[name].take(rows) for name in named})
    columns["figure"] = pa.array([finding[3] for finding in found], pa.float64())
    columns["means"] = pa.array([finding[4] for finding in found], pa.string())
    columns.update({name: merged[name].take(rows) for name in LAST_COLUMNS})
    return pa.table(columns).select([*_fields(merged), *FINDING_COLUMNS.names, *LAST_COLUMNS])


def _quantities(merged: pa.Table, frame: pd.DataFrame, operation: ContourChecks) -> pa.Table:
    """Return one row per image and set: areas inside both outlines, and the wall between them."""
    first: dict[tuple[str, str], int] = {}
    inner: dict[tuple[str, str], int] = {}
    outer: dict[tuple[str, str], int] = {}
    for n, (image_id, annotation, structure) in enumerate(
        zip(frame["image_id"], frame["annotation"], frame["structure"], strict=True)
    ):
        key = (image_id, annotation)
        first.setdefault(key, n)
        if structure == operation.inner:
            inner[key] = n
        elif structure == operation.outer:
            outer[key] = n
    rows = pa.array(list(first.values()), pa.int64())
    columns: dict[str, Any] = {name: merged[name].take(rows) for name in _fields(merged)}
    columns["annotation"] = merged["annotation"].take(rows)
    for column, source, owners in (
        ("inner_area_mm2", "area_mm2", inner),
        ("outer_area_mm2", "area_mm2", outer),
        ("inside_share", "inside_share", inner),
        ("thickness_mean_mm", "thickness_mean_mm", outer),
        ("thickness_min_mm", "thickness_min_mm", outer),
        ("thickness_max_mm", "thickness_max_mm", outer),
    ):
        columns[column] = merged[source].take(pa.array([owners.get(k) for k in first], pa.int64()))
    myocardium = pc.subtract(columns["outer_area_mm2"], columns["inner_area_mm2"])
    columns["myocardium_area_mm2"] = myocardium
    columns.update({name: merged[name].take(rows) for name in LAST_COLUMNS})
    return pa.table(columns)


# Volumes.

SERIES_COLUMNS = [
    ("subject", pa.string()),
    ("experiment", pa.string()),
    ("series", pa.string()),
    ("annotation", pa.string()),
]

VOLUME_SCHEMA = pa.schema(
    [
        *SERIES_COLUMNS,
        ("phase", pa.int64()),
        ("slices", pa.int64()),
        ("slice_spacing_mm", pa.float64()),
        ("inner_volume_ml", pa.float64()),
        ("outer_volume_ml", pa.float64()),
        ("inner_reason", pa.string()),
        ("outer_reason", pa.string()),
    ]
)

FUNCTION_SCHEMA = pa.schema(
    [
        *SERIES_COLUMNS,
        ("phases", pa.int64()),
        ("end_diastole", pa.int64()),
        ("end_systole", pa.int64()),
        ("end_diastolic_ml", pa.float64()),
        ("end_systolic_ml", pa.float64()),
        ("stroke_ml", pa.float64()),
        ("ejection_fraction_percent", pa.float64()),
        ("ejection_fraction_reason", pa.string()),
        ("mass_g", pa.float64()),
        ("mass_reason", pa.string()),
    ]
)


def _volumes(
    frame: pd.DataFrame, operation: ContourChecks, planes: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return one row per series, set and phase, with a reason for each null volume.

    ``planes`` are the planes of the incomplete series.
    """
    import pandas as pd

    present = planes_by_phase(planes)
    parted = parted_series(frame)
    placed = frame[frame["_z"].notna()]
    placed = placed.assign(_series=placed["_series"].fillna(placed["_stack"]))
    of_set = {
        key: {int(z) for z in slices}
        for key, slices in placed.groupby(["_stack", "annotation"], sort=False)["_z"]
    }
    rows: list[dict[str, Any]] = []
    # Group by stack too: slices in another stack are reported as `IN_PARTS`, never summed.
    keys = ["_series", "_stack", "annotation", "_t"]
    key: Any
    for key, members in placed.groupby(keys, sort=True):
        series, stack, annotation, phase = key
        spacing = members["_spacing_z_um"].iloc[0] / 1000.0
        absent = lacking(present, stack, phase, of_set[stack, annotation])
        lacks = IN_PARTS if (stack, annotation) in parted else PLANE_MISSING if absent else None
        inner, outer = (
            _disc_sum(members[members["structure"] == name], spacing, missing, lacks)
            for name, missing in (
                (operation.inner, "inner_missing"),
                (operation.outer, "outer_missing"),
            )
        )
        rows.append(
            {
                "subject": members["subject"].iloc[0],
                "experiment": members["experiment"].iloc[0],
                "series": series,
                "annotation": annotation,
                "phase": int(phase),
                "slices": len(inner[2]),
                "slice_spacing_mm": None if pd.isna(spacing) else float(spacing),
                "inner_volume_ml": inner[0],
                "outer_volume_ml": outer[0],
                "inner_reason": inner[1],
                "outer_reason": outer[1],
                "_slices": (inner[2], outer[2]),
            }
        )
    _drop_partial_phases(rows)
    return rows


def _drop_partial_phases(rows: list[dict[str, Any]]) -> None:
    most: dict[tuple[str, str], int] = {}
    for row in rows:
        key = (row["series"], row["annotation"])
        most[key] = max(most.get(key, 0), row["slices"])
    for row in rows:
        whole = LEAST_SLICES_SHARE * most[row["series"], row["annotation"]]
        if row["inner_volume_ml"] is not None and row["slices"] < whole:
            row["inner_volume_ml"], row["inner_reason"] = None, "few_slices"


def _disc_sum(
    members: pd.DataFrame, spacing_mm: float, missing: str, lacks: str | None
) -> tuple[float | None, str | None, frozenset[int]]:
    """Return a volume, or the reason for its absence, and the drawn slices.

    ``missing`` and ``lacks`` are the reasons for no contours, and for planes elsewhere.
    """
    slices = frozenset(members["_z"].astype(int).tolist())
    areas = members["area_mm2"].to_numpy(float)
    distances = distances_mm(members)
    reason = None
    if not slices:
        reason = missing
    elif np.isnan(areas).any():
        reason = "no_spacing"
    elif math.isnan(spacing_mm):
        reason = "no_slice_spacing"
    elif max(slices) - min(slices) + 1 != len(slices):
        reason = "slice_missing"
    else:
        gap = None if distances is None else gap_between(members, distances, spacing_mm)
        reason = gap or lacks
    if reason:
        return None, reason, slices
    width = dict(zip(sorted(slices), widths_mm(distances, len(slices), spacing_mm), strict=True))
    volume = volume_ml(areas.tolist(), [width[int(z)] for z in members["_z"]])
    return volume, None, slices


def _function(volumes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per series and set: end-diastolic and end-systolic volumes, and function."""
    series: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in volumes:
        series.setdefault((row["series"], row["annotation"]), []).append(row)
    rows = []
    for members in series.values():
        whole = [row for row in members if row["inner_volume_ml"] is not None]
        row = {name: members[0][name] for name, _ in SERIES_COLUMNS}
        row["phases"] = len(whole)
        if not whole:
            reason = members[0]["inner_reason"]
            rows.append({**row, "ejection_fraction_reason": reason, "mass_reason": reason})
            continue
        full = max(whole, key=lambda r: r["inner_volume_ml"])
        least = min(whole, key=lambda r: r["inner_volume_ml"])
        row["end_diastole"], row["end_diastolic_ml"] = full["phase"], full["inner_volume_ml"]
        if len(whole) < 2 or full["inner_volume_ml"] == 0:
            row["ejection_fraction_reason"] = "one_phase"
        else:
            ends = full["inner_volume_ml"], least["inner_volume_ml"]
            row["end_systole"], row["end_systolic_ml"] = least["phase"], ends[1]
            row["stroke_ml"] = ends[0] - ends[1]
            row["ejection_fraction_percent"] = ejection_fraction(*ends)
        if full["outer_volume_ml"] is None:
            row["mass_reason"] = full["outer_reason"]
        elif full["_slices"][0] != full["_slices"][1]:
            row["mass_reason"] = "outer_missing"
        else:
            row["mass_g"] = myocardial_mass_g(full["inner_volume_ml"], full["outer_volume_ml"])
        rows.append(row)
    return rows
