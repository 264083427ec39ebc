"""Geometry in time and in the patient of series whose files have no medical header."""

from __future__ import annotations

from dataclasses import dataclass

from engine.sources import Plane
from engine.sources.affine import place_series, position_of
from engine.store.pixels.layout import SeriesGeometry

_HALF_PX = 0.5


@dataclass(frozen=True, slots=True)
class FileGeometry:
    """Geometry of a plane: that of its series, its own position, and findings.

    ``spacing_um`` is the pixel spacing (y, x) of the file, or of the affine if the file has none.
    """

    spacing_um: tuple[float, float] | None
    lattice: SeriesGeometry | None = None
    position_mm: tuple[float, float, float] | None = None
    findings: tuple[str, ...] = ()


def geometry_of(plane: Plane, last_slice: int) -> FileGeometry:
    """Return the geometry that a file states for a plane.

    Parameters
    ----------
    plane
        Plane of a source.
    last_slice
        Greatest z of its series, by which sheared slices are judged.
    """
    steps = SeriesGeometry(plane.step_ms, plane.step_um)
    stated = steps if plane.step_ms or plane.step_um else None
    if plane.affine is None:
        return FileGeometry(plane.spacing_um, stated)
    found = place_series(plane.affine, plane.spacing_um)
    if found is None:
        return FileGeometry(plane.spacing_um, stated, findings=("orientation_invalid",))
    return FileGeometry(
        plane.spacing_um or found.spacing_um,
        SeriesGeometry(
            step_ms=plane.step_ms,
            distance_um=found.step_um,
            origin_um=found.origin_um,
            position_mm=position_of(plane.affine, 0),
            orientation=found.orientation,
            affine=plane.affine,
        ),
        position_of(plane.affine, 0 if plane.place is None else plane.place[1]),
        ("shifted_slices",) if found.drift_px * last_slice > _HALF_PX else (),
    )
