"""Where drawn slices are in the patient: what a series lacks between them, or elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from engine.header import MISSING_PLANES
from engine.operations.series import GAP, SAME_PLACE_MM, UNEVEN


def places_of(images: pa.Table) -> dict[str, pa.Array]:
    """Return where each image lies along its normal, mm, and the direction of its plane.

    Both are null where the header has no position or orientation.
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
    }


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
    """Return the distances from each drawn slice to the next; None where a position is unknown.

    Parameters
    ----------
    members
        Rows with ``_z`` and ``_place_mm``, in any order, of one phase or several.
    """
    slices = members.drop_duplicates("_z").sort_values("_z")
    if slices["_place_mm"].isna().any():
        return None
    return np.abs(np.diff(slices["_place_mm"].to_numpy(float)))


def has_gap(distances: NDArray[np.float64], usual_mm: float) -> bool:
    """Tell whether slices are missing between those that are drawn."""
    return bool((distances >= GAP * usual_mm).any())


def widths_mm(distances: NDArray[np.float64] | None, count: int, usual_mm: float) -> list[float]:
    """Return what each slice stands for: half-way to both neighbours, and as far at the ends.

    Distances that differ by no more than 2 % are all taken for the usual one.

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
    """Tell which distances are others than the usual one."""
    return np.abs(distances - usual_mm) > UNEVEN * usual_mm


def parted_series(frame: pd.DataFrame) -> set[tuple[str, str]]:
    """Return the (stack, set) of which further slices of the series are drawn in another stack.

    Planes that come in a later ingest make a stack of their own, so no volume is of all slices.
    """
    known = frame[frame["_place_mm"].notna() & frame["_series"].notna()]
    parted: set[tuple[str, str]] = set()
    for _, members in known.groupby(["_series", "annotation", "_direction"], sort=True):
        part = np.where(members["_z"].notna(), members["_stack"], "")
        if len(set(part)) < 2:
            continue
        places = members["_place_mm"].to_numpy(float)
        for stack in {*part} - {""}:
            own = places[part == stack]
            others = places[part != stack]
            nearest = np.abs(others[:, None] - own).min(axis=1)
            if (nearest > SAME_PLACE_MM).any():
                parted |= {(stack, name) for name in members["annotation"].unique()}
    return parted


def lacking(
    present: Mapping[tuple[str, int], Set[int]], stack: str, phase: int, drawn: Set[int]
) -> Set[int]:
    """Return the slices of those ``drawn`` in any phase that this phase has no plane of."""
    there = present.get((stack, phase))
    return set() if there is None else drawn - there


def find_gaps(frame: pd.DataFrame) -> Iterator[tuple[int, str, float, str]]:
    """Yield (row, check, figure, meaning) for each distance that is not the usual one."""
    placed = frame[frame["_z"].notna() & frame["_spacing_z_um"].notna()]
    for _, members in placed.groupby(["_stack", "annotation"], sort=True, dropna=False):
        ordered = members.sort_values(["_z", "_t"], kind="stable")
        slices = ordered.drop_duplicates("_z")
        distances = distances_mm(members)
        if distances is None or not len(distances):
            continue
        usual = float(slices["_spacing_z_um"].iloc[0]) / 1000.0
        neighbours = np.diff(slices["_z"].to_numpy(int)) == 1
        uneven = is_uneven(distances, usual) & neighbours
        row: Any
        for row, distance, odd in zip(slices.index[1:], distances, uneven, strict=True):
            if odd and distance >= GAP * usual:
                yield int(row), "slice_gap", float(distance), (
                    f"The slice before is {distance:.1f} mm away; {usual:.1f} mm are usual: the "
                    "series lacks a slice, so no volume is given."
                )  # fmt: skip
            elif odd:
                yield int(row), "uneven_slices", float(distance), (
                    f"The slice before is {distance:.1f} mm away; {usual:.1f} mm are usual. In a "
                    "volume each slice reaches half-way to its neighbours."
                )  # fmt: skip
