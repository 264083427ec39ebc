"""Positions of annotated slices in the patient, and detection of missing slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.header import (
    GAP,
    GAP_BY_THICKNESS,
    MISSING_PLANES,
    SAME_PLACE_MM,
    SLICE_DISTANCE,
    SLICE_GAP,
    SLICE_THICKNESS,
    UNEVEN,
)
from engine.ingest.series.dicom_series import gap_of_all

if TYPE_CHECKING:
    import pandas as pd

PLANE_MISSING, IN_PARTS = "plane_missing", "in_parts"
"""Reason codes and findings: a phase lacks planes drawn in other phases; a series is split over
stacks."""

_EXPECTED = {
    SLICE_GAP: "the header says {:.1f} mm (SpacingBetweenSlices)",
    GAP_BY_THICKNESS: "they are {:.1f} mm thick, and no SpacingBetweenSlices says that it should "
    "be so",
}


def places_of(images: pa.Table) -> dict[str, pa.Array]:
    """Return each image's position along its normal, mm, and the direction of its plane.

    Both are null if the header has no position or orientation. Two more columns hold the slice
    distance and slice thickness from the header, mm.
    """
    columns = (images[n].to_pylist() for n in ("position_mm", "orientation"))
    places: list[float | None] = []
    directions: list[str | None] = []
    for position, orientation in zip(*columns, strict=True):
        if not position or not orientation:
            places.append(None)
            directions.append(None)
            continue
        axes = np.reshape(orientation, (2, 3))
        places.append(float(np.cross(*axes) @ position))
        directions.append(" ".join(f"{v:.2f}" for v in np.round(orientation, 2) + 0.0))
    return {
        "_place_mm": pa.array(places, pa.float64()),
        "_direction": pa.array(directions, pa.string()),
        "_stated_mm": _terms(images, SLICE_DISTANCE),
        "_thickness_mm": _terms(images, SLICE_THICKNESS),
    }


def _terms(images: pa.Table, name: str) -> pa.Array:
    headers = images["header"].to_pylist() if "header" in images.column_names else []
    found = [dict(header or ()).get(name) for header in headers or [None] * len(images)]
    return pa.array([None if value is None else float(value) for value in found], pa.float64())


def planes_of_incomplete(images: pa.Table) -> list[tuple[str, int, int]]:
    """Return (stack, t, z) of each plane of a series that lacks planes in some phases."""
    if "findings" not in images.column_names:
        return []
    columns = (images[n].to_pylist() for n in ("findings", "stack", "t", "z"))
    return [
        (stack, t, z)
        for findings, stack, t, z in zip(*columns, strict=True)
        if z is not None and MISSING_PLANES in (findings or ())
    ]


def distances_mm(members: pd.DataFrame) -> NDArray[np.float64] | None:
    """Return the distances between successive drawn slices; None if a position is unknown.

    Parameters
    ----------
    members
        Rows with ``_z`` and ``_place_mm``, in any order, of one phase or several.
    """
    slices = members.drop_duplicates("_z").sort_values("_z")
    if slices["_place_mm"].isna().any():
        return None
    return np.abs(np.diff(slices["_place_mm"].to_numpy(float)))


def gap_between(
    members: pd.DataFrame, distances: NDArray[np.float64], usual_mm: float
) -> str | None:
    """Return the reason if slices are missing between some drawn slices, or between all."""
    every = _gap_of_all(members, usual_mm)
    if every is not None:
        return every[0]
    return SLICE_GAP if (distances >= GAP * usual_mm).any() else None


def _gap_of_all(members: pd.DataFrame, usual_mm: float) -> tuple[str, float] | None:
    import pandas as pd

    stated, thickness = (
        None if pd.isna(value) else float(value)
        for value in (members["_stated_mm"].iloc[0], members["_thickness_mm"].iloc[0])
    )
    return gap_of_all(usual_mm, stated, thickness)


def widths_mm(distances: NDArray[np.float64] | None, count: int, usual_mm: float) -> list[float]:
    """Return the width of each slice: half-way to both neighbours, mirrored at the ends.

    If all distances are within 2 % of the usual one, all widths equal the usual one.

    Examples
    --------
    >>> widths_mm(np.array([8.0, 10.0]), 3, 8.0)
    [8.0, 9.0, 10.0]
    >>> widths_mm(np.array([8.0, 8.1]), 3, 8.0)
    [8.0, 8.0, 8.0]
    """
    if distances is None or not len(distances) or not is_uneven(distances, usual_mm).any():
        return [usual_mm] * count
    around = np.concatenate([distances[:1], distances, distances[-1:]])
    return [float(w) for w in (around[:-1] + around[1:]) / 2]


def is_uneven(distances: NDArray[np.float64], usual_mm: float) -> NDArray[np.bool_]:
    """Return which distances differ from the usual one."""
    return np.abs(distances - usual_mm) > UNEVEN * usual_mm


def parted_series(frame: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Return the number of further slices in other stacks, for the series of each (stack, set).

    Planes of a later ingest form a separate stack, so no volume covers all slices.
    """
    known = frame[frame["_place_mm"].notna() & frame["_series"].notna()]
    parted: dict[tuple[str, str], int] = {}
    key: Any
    for key, members in known.groupby(["_series", "annotation", "_direction"], sort=True):
        part = np.where(members["_z"].notna(), members["_stack"], "")
        if len(set(part)) < 2:
            continue
        places = members["_place_mm"].to_numpy(float)
        for stack in {*part} - {""}:
            own = places[part == stack]
            others = places[part != stack]
            further = np.sort(others[np.abs(others[:, None] - own).min(axis=1) > SAME_PLACE_MM])
            if len(further):
                parted[stack, key[1]] = 1 + int((np.diff(further) > SAME_PLACE_MM).sum())
    return parted


def planes_by_phase(planes: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], set[int]]:
    """Return the existing slices of each (stack, phase), from rows of planes."""
    present: dict[tuple[str, int], set[int]] = {}
    for plane in planes:
        present.setdefault((plane["_stack"], plane["_t"]), set()).add(plane["_z"])
    return present


def lacking(
    present: Mapping[tuple[str, int], Set[int]], stack: str, phase: int, drawn: Set[int]
) -> Set[int]:
    """Return the slices ``drawn`` in any phase that have no plane in this phase."""
    there = present.get((stack, phase))
    return set() if there is None else drawn - there


def find_lacking(
    frame: pd.DataFrame, planes: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[int, str, float, str]]:
    """Yield (row, check, figure, meaning) for problems that prevent volumes of all slices.

    Each refers to the row of the first drawn slice: of its phase, or of the set.
    """
    placed = frame[frame["_z"].notna()].sort_values(["_z", "_t"], kind="stable")
    present, parted = planes_by_phase(planes), parted_series(frame)
    key: Any
    for key, members in placed.groupby(["_stack", "annotation"], sort=True):
        if key in parted:
            yield int(members.index[0]), IN_PARTS, float(parted[key]), (
                f"{parted[key]} further slices of the series are drawn that came later and lie in "
                "another stack, so no volume is given."
            )  # fmt: skip
        drawn = {int(z) for z in members["_z"]}
        phase: Any
        for phase, of_phase in members.groupby("_t", sort=True):
            absent = lacking(present, key[0], int(phase), drawn)
            if absent:
                yield int(of_phase.index[0]), PLANE_MISSING, float(len(absent)), (
                    f"The series lacks {len(absent)} planes of this phase that are drawn in "
                    "others, so no volume of it is given."
                )  # fmt: skip


def find_gaps(frame: pd.DataFrame) -> Iterator[tuple[int, str, float, str]]:
    """Yield (row, check, figure, meaning) for each unusual distance between slices."""
    placed = frame[frame["_z"].notna() & frame["_spacing_z_um"].notna()]
    for _, members in placed.groupby(["_stack", "annotation"], sort=True, dropna=False):
        slices = members.sort_values(["_z", "_t"], kind="stable").drop_duplicates("_z")
        usual = float(slices["_spacing_z_um"].iloc[0]) / 1000.0
        every = _gap_of_all(slices, usual)
        if every is not None:
            check, due = every
            yield int(slices.index[0]), check, usual, (
                f"Slices are {usual:.1f} mm apart, and {_EXPECTED[check].format(due)}: the series "
                "seems to lack one between each two, so no volume is given."
            )  # fmt: skip
        distances = distances_mm(members)
        if distances is None or not len(distances):
            continue
        neighbours = np.diff(slices["_z"].to_numpy(int)) == 1
        uneven = is_uneven(distances, usual) & neighbours
        row: Any
        for row, distance, odd in zip(slices.index[1:], distances, uneven, strict=True):
            if odd and distance >= GAP * usual:
                yield int(row), SLICE_GAP, float(distance), (
                    f"The slice before is {distance:.1f} mm away; {usual:.1f} mm are usual: the "
                    "series lacks a slice, so no volume is given."
                )  # fmt: skip
            elif odd:
                yield int(row), "uneven_slices", float(distance), (
                    f"The slice before is {distance:.1f} mm away; {usual:.1f} mm are usual. In a "
                    "volume each slice reaches half-way to its neighbours."
                )  # fmt: skip
