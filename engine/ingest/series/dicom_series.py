"""Assign DICOM planes to series: the stack of each plane, and its (t, z) in it. Pure.

Rules, in this order, for the planes of one SeriesInstanceUID in one round of an ingest (planes of a
later ingest or round form a stack of their own):

1. Planes of one size, type, spacing and orientation belong together; the rest are other parts.
2. Slices (z) ascend along the normal, by ImagePositionPatient projected on it.
3. Phases (t) of a slice ascend by time, then temporal position, then instance number. If some
   slices lack phases, each plane goes to the nearest time (or temporal position) of the slice with
   the most phases.
4. A second plane at one (t, z) goes to a further part.
5. Without position or orientation, the frames of one file are phases; files are single images.
6. A part of one plane is a single image, in a stack with similar images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.header import (
    GAP,
    GAP_BY_THICKNESS,
    MISSING_PLANES,
    SAME_PLACE_MM,
    SLICE_GAP,
    UNEVEN,
    Header,
)
from engine.store.pixels.layout import IncomingPlane, SeriesGeometry

SAME_DIRECTION = 1e-3
"""Maximum difference between components of unit vectors that count as one orientation."""

SAME_SPACING = 1e-3
"""Maximum relative difference of pixel spacings that count as one."""

TWICE = 1.96
"""Ratio of slice distance to thickness from which slices seem to be missing, if the header has no
distance: gaps of a slice's own width are rarely planned."""

_UM_PER_MM = 1000.0


@dataclass(frozen=True, slots=True)
class _Plane:
    arrival: IncomingPlane
    header: Header

    @property
    def when(self) -> tuple[float, int, int, int, str]:
        """Sort key of phases."""
        h = self.header
        return (
            -1.0 if h.time_ms is None else h.time_ms,
            h.order or 0,
            h.instance or 0,
            h.frame or 0,
            self.arrival.source,
        )


def assign_series_positions(arrivals: Sequence[IncomingPlane]) -> list[IncomingPlane]:
    """Assign (t, z) to the planes of medical images; other planes are returned unchanged.

    Parameters
    ----------
    arrivals
        New planes, in any order.

    Returns
    -------
    The same planes in the same order, with ``place``, ``series``, ``lattice`` and the findings
    (`engine.header.FINDINGS`) in their headers.
    """
    series: dict[str, list[_Plane]] = defaultdict(list)
    for arrival in arrivals:
        if arrival.header is not None:
            series[arrival.header.identity.series].append(_Plane(arrival, arrival.header))
    arranged: dict[tuple[str, str], IncomingPlane] = {}
    for name, planes in series.items():
        planes.sort(key=lambda p: (p.header.instance or 0, p.header.frame or 0, p.arrival.source))
        for plane in _arrange(name, planes):
            arranged[plane.source, plane.fragment] = plane
    return [arranged.get((a.source, a.fragment), a) for a in arrivals]


def _arrange(name: str, planes: list[_Plane]) -> Iterable[IncomingPlane]:
    found: set[str] = set()
    if len({plane.header.identity.frame_of_reference for plane in planes}) > 1:
        found.add("frame_of_reference_differs")
    groups = _alike(planes)
    if len(groups) > 1:
        found.add("mixed_geometry")
    part = 0
    for group in groups:
        first = group[0].header
        left, duplicate = group, False
        while left:
            series = f"{name}/{part}"
            odd: set[str] = {"duplicate_plane"} if duplicate else set()
            rest: list[_Plane] = []
            if first.position_mm is None or first.orientation is None:
                placed = _by_frame(left)
            else:
                placed, rest, more = _by_position(left)
                odd |= more
            yield from _finish(series, placed, found | odd)
            part, left, duplicate = part + 1, rest, True


def _alike(planes: list[_Plane]) -> list[list[_Plane]]:
    """Group planes by size, type, spacing and orientation; the largest group first."""
    groups: list[list[_Plane]] = []
    for plane in planes:
        for group in groups:
            if _fits(group[0], plane):
                group.append(plane)
                break
        else:
            groups.append([plane])
    return sorted(groups, key=len, reverse=True)


def _fits(one: _Plane, other: _Plane) -> bool:
    a, b = one.arrival, other.arrival
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if (one.header.position_mm is None) != (other.header.position_mm is None):
        return False
    for x, y, rtol, atol in (
        (a.spacing_um, b.spacing_um, SAME_SPACING, 0.0),
        (one.header.orientation, other.header.orientation, 0.0, SAME_DIRECTION),
    ):
        if (x is None) != (y is None):
            return False
        if x is not None and y is not None and not np.allclose(x, y, rtol=rtol, atol=atol):
            return False
    return True


Placed = list[tuple[_Plane, tuple[int, int], SeriesGeometry | None]]


def _by_frame(planes: list[_Plane]) -> Placed:
    """Place the frames of one file as phases; each file is separate."""
    files: dict[str, list[_Plane]] = defaultdict(list)
    for plane in planes:
        files[plane.arrival.source].append(plane)
    placed: Placed = []
    for frames in files.values():
        times = [p.header.time_ms for p in frames if p.header.time_ms is not None]
        lattice = SeriesGeometry(step_ms=_step(np.asarray(times, float)))
        placed += [(plane, (t, 0), lattice) for t, plane in enumerate(frames)]
    return placed


def _by_position(planes: list[_Plane]) -> tuple[Placed, list[_Plane], set[str]]:
    """Place planes by position and time; return planes with a (t, z) that is already taken, too."""
    orientation = np.asarray(planes[0].header.orientation, float)
    row, column = orientation[:3], orientation[3:]
    axes = np.stack([np.cross(row, column), column, row])  # z, y, x of the image
    where = np.asarray([plane.header.position_mm for plane in planes], float) @ axes.T
    level, levels = _cluster(where[:, 0])
    slices: list[list[_Plane]] = [[] for _ in levels]
    for plane, z in zip(planes, level, strict=True):
        slices[z].append(plane)
    found = _look_at_slices(levels, where, planes[0])
    rest: list[_Plane] = []
    moment = _moment_of(slices)
    if moment is not None:
        slices, rest = _without_doubles(slices)
    for members in slices:
        members.sort(key=lambda plane: plane.when)
    counts = {len(members) for members in slices}
    phases: list[list[int]] = [list(range(len(members))) for members in slices]
    if len(counts) > 1:
        found.add(MISSING_PLANES)
        if moment is not None:
            phases = _on_common_times(slices, moment)
    taken: set[tuple[int, int]] = set()
    placed: Placed = []
    lattice = _lattice_of(planes, where, levels, slices)
    for z, (members, steps) in enumerate(zip(slices, phases, strict=True)):
        for plane, t in zip(members, steps, strict=True):
            if (t, z) in taken:
                rest.append(plane)
                continue
            taken.add((t, z))
            placed.append((plane, (t, z), lattice))
    return placed, rest, found


def _cluster(values: NDArray[np.float64]) -> tuple[list[int], NDArray[np.float64]]:
    """Return the index of each value's level, and the levels, ascending."""
    order = np.argsort(values, kind="stable")
    numbers = np.zeros(len(values), int)
    jumps = np.diff(values[order]) > SAME_PLACE_MM
    numbers[order] = np.concatenate([[0], np.cumsum(jumps)])
    levels = np.asarray([values[numbers == n].mean() for n in range(int(jumps.sum()) + 1)])
    return [int(n) for n in numbers], levels


def _look_at_slices(
    levels: NDArray[np.float64], where: NDArray[np.float64], first: _Plane
) -> set[str]:
    found: set[str] = set()
    steps = np.diff(levels)
    if len(steps):
        usual = _usual_step(steps)
        if (steps > GAP * usual).any():
            found.add(SLICE_GAP)
        every = gap_of_all(usual, first.header.distance_mm, first.header.thickness_mm)
        if every is not None:
            found.add(every[0])
        near = steps[steps <= GAP * usual]
        if (np.abs(near - usual) > UNEVEN * usual).any():
            found.add("uneven_slices")
    spacing = first.arrival.spacing_um
    if spacing is not None:
        half_mm = np.asarray(spacing) / _UM_PER_MM / 2
        if (np.ptp(where[:, 1:], axis=0) > half_mm).any():
            found.add("shifted_slices")
    return found


def gap_of_all(
    usual_mm: float, stated_mm: float | None, thickness_mm: float | None
) -> tuple[str, float] | None:
    """Return the finding if a series seems to lack a slice between any two of its slices.

    Parameters
    ----------
    usual_mm
        Distance between slices, by their positions.
    stated_mm
        Value of SpacingBetweenSlices, negative on some systems. If it is less than the thickness,
        and both together make the usual distance, it is the gap between slices.
    thickness_mm
        Slice thickness; used if there is no stated distance.

    Returns
    -------
    The finding, and the expected distance, mm; None if there is no problem.

    Examples
    --------
    >>> gap_of_all(16.0, 8.0, 8.0), gap_of_all(16.0, None, 8.0)
    (('slice_gap', 8.0), ('slice_gap_by_thickness', 8.0))
    >>> gap_of_all(10.0, 2.0, 8.0), gap_of_all(10.0, None, 6.0)
    (None, None)
    """
    stated, thick = abs(stated_mm or 0.0), abs(thickness_mm or 0.0)
    if stated:
        between = stated < (1 - UNEVEN) * thick
        if between and abs(stated + thick - usual_mm) <= UNEVEN * usual_mm:
            return None
        return (SLICE_GAP, stated) if usual_mm >= GAP * stated else None
    return (GAP_BY_THICKNESS, thick) if thick and usual_mm >= TWICE * thick else None


def _usual_step(steps: NDArray[np.float64]) -> float:
    """Return the usual distance; the lower of two, since one of few slices may be missing."""
    return float(np.quantile(steps, 0.5, method="lower"))


def _moment_of(slices: list[list[_Plane]]) -> str | None:
    """Return the attribute that orders phases: all planes have it, and it varies in a slice."""
    for name in ("time_ms", "order"):
        facts = [[getattr(plane.header, name) for plane in members] for members in slices]
        there = all(fact is not None for members in facts for fact in members)
        if there and any(len(set(members)) > 1 for members in facts):
            return name
    return None


def _without_doubles(slices: list[list[_Plane]]) -> tuple[list[list[_Plane]], list[_Plane]]:
    kept: list[list[_Plane]] = []
    rest: list[_Plane] = []
    for members in slices:
        by_time: dict[tuple[float, int], _Plane] = {}
        for plane in members:
            moment = plane.when[:2]
            if moment in by_time:
                rest.append(plane)
            else:
                by_time[moment] = plane
        kept.append(list(by_time.values()))
    return kept, rest


def _on_common_times(slices: list[list[_Plane]], moment: str) -> list[list[int]]:
    """Return the phase of each plane: the nearest time of the slice with the most phases."""
    times = [[float(getattr(p.header, moment)) for p in members] for members in slices]
    common = np.asarray(max(times, key=len))
    return [[int(np.abs(common - time).argmin()) for time in members] for members in times]


def _lattice_of(
    planes: list[_Plane],
    where: NDArray[np.float64],
    levels: NDArray[np.float64],
    slices: list[list[_Plane]],
) -> SeriesGeometry:
    header = planes[0].header
    steps = np.diff(levels)
    distance = _usual_step(steps) if len(steps) else None
    if distance is None:
        distance = header.distance_mm or header.thickness_mm
    lowest = planes[int(where[:, 0].argmin())]
    fullest = max(slices, key=len)
    times = [plane.header.time_ms for plane in fullest if plane.header.time_ms is not None]
    z, y, x = where[int(where[:, 0].argmin())] * _UM_PER_MM
    return SeriesGeometry(
        step_ms=_step(np.asarray(times, float)),
        distance_um=None if not distance or distance <= 0 else distance * _UM_PER_MM,
        origin_um=(float(z), float(y), float(x)),
        position_mm=lowest.header.position_mm,
        orientation=header.orientation,
    )


def _step(times: NDArray[np.float64]) -> float | None:
    steps = np.diff(np.unique(times))
    return float(np.median(steps)) if len(steps) else None


def _finish(series: str, placed: Placed, found: set[str]) -> Iterable[IncomingPlane]:
    """Set places and findings in the planes; a single plane gets no place."""
    single = Counter(_stack_of(series, plane) for plane, _, _ in placed)
    for plane, place, lattice in placed:
        header = plane.header
        codes = tuple(sorted({*header.findings, *found}))
        stack = _stack_of(series, plane)
        arrival = replace(plane.arrival, header=replace(header, findings=codes), lattice=lattice)
        if single[stack] == 1:
            yield arrival
        else:
            yield replace(arrival, place=place, series=stack)


def _stack_of(series: str, plane: _Plane) -> str:
    """Return the name of a plane's stack: without positions, each file is one."""
    return series if plane.header.position_mm else f"{series}/{plane.arrival.source}"
