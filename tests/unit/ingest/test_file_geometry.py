"""Unit tests for the geometry of series whose files have no medical header."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.ingest.series.file_geometry import geometry_of
from engine.sources import Plane
from engine.sources.affine import Affine, affine_of_ras

HALF_MM = (500.0, 500.0)


def affine_of(matrix: Any) -> Affine:
    return affine_of_ras(np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(matrix, float))


def sheared(shift_mm: float) -> Affine:
    return affine_of([[0.5, 0, shift_mm, 1], [0, 0.5, 0, 2], [0, 0, 3, 4], [0, 0, 0, 1]])


@given(
    angles=st.tuples(*[st.floats(-3.0, 3.0)] * 3),
    sides=st.tuples(*[st.floats(0.01, 50.0)] * 3),
    origin=st.tuples(*[st.floats(-500.0, 500.0)] * 3),
    flipped=st.booleans(),
    z=st.integers(0, 99),
)
def test_the_terms_of_dicom_lead_to_the_same_points(
    angles: Any, sides: Any, origin: Any, flipped: bool, z: int
) -> None:
    """Any rotation: position, orientation, spacings and direction of slices are the affine."""
    turned = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [n for n in range(3) if n != axis]
        one = np.eye(3)
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        turned = turned @ one
    matrix = np.eye(4)
    matrix[:3, :3] = turned @ np.diag([*sides[:2], -sides[2] if flipped else sides[2]])
    matrix[:3, 3] = origin
    found = geometry_of(Plane("", (1, 8, 8), "uint8", place=(0, z), affine=affine_of(matrix)), 99)
    assert found.findings == ()
    assert found.lattice is not None
    assert found.spacing_um is not None
    row, column = np.split(np.array(found.lattice.orientation), 2)
    normal = np.cross(row, column) * (-1 if flipped else 1)
    y, x = np.array(found.spacing_um) / 1000.0
    point = np.array(found.position_mm) + 3 * x * row + 5 * y * column
    np.testing.assert_allclose(point, (matrix @ (3, 5, z, 1))[:3], atol=1e-6)
    assert found.lattice.distance_um is not None
    first = np.array(found.lattice.position_mm)
    step = np.array(found.position_mm) - first
    np.testing.assert_allclose(step, normal * z * found.lattice.distance_um / 1000.0, atol=1e-6)
    axes = np.array([normal, column, row])
    np.testing.assert_allclose(found.lattice.origin_um, axes @ first * 1000.0, atol=1e-2)


@pytest.mark.parametrize(("shift_mm", "codes"), [(0.02, ()), (0.03, ("shifted_slices",))])
def test_sheared_slices_are_named(shift_mm: float, codes: tuple[str, ...]) -> None:
    """Of eleven slices the last is shifted by 0.4 and by 0.6 pixels."""
    plane = Plane("", (1, 8, 8), "uint8", HALF_MM, (0, 0), affine=sheared(shift_mm))
    found = geometry_of(plane, 10)
    assert found.findings == codes
    assert found.lattice is not None
    assert found.lattice.distance_um == 3000.0  # along the normal


@pytest.mark.parametrize(
    "affine",
    [
        affine_of([[0.5, 0.1, 0, 1], [0, 0.5, 0, 2], [0, 0, 3, 4], [0, 0, 0, 1]]),
        affine_of([[0.6, 0, 0, 1], [0, 0.5, 0, 2], [0, 0, 3, 4], [0, 0, 0, 1]]),
        affine_of([[0.5, 0, 0, 1], [0, 0.5, 0, 2], [0, 0, 0, 4], [0, 0, 0, 1]]),
        affine_of([[0.5, 0, 0, np.nan], [0, 0.5, 0, 2], [0, 0, 3, 4], [0, 0, 0, 1]]),
        ((0.5, 0.0, 0.0, 1.0), (0.0, 0.5, 0.0, 2.0), (0.0, 0.0, 3.0, 4.0), (0.0, 0.0, 0.0, 2.0)),
    ],
)
def test_an_affine_of_no_pixels_is_left_out(affine: Affine) -> None:
    plane = Plane("", (1, 8, 8), "uint8", HALF_MM, (0, 0), step_um=2000.0, affine=affine)
    found = geometry_of(plane, 10)
    assert found.findings == ("orientation_invalid",)
    assert found.position_mm is None
    assert found.lattice is not None
    assert (found.lattice.distance_um, found.lattice.affine) == (2000.0, None)


def test_a_plane_without_any_has_none() -> None:
    found = geometry_of(Plane("", (1, 8, 8), "uint8", HALF_MM), 0)
    assert (found.spacing_um, found.lattice, found.findings) == (HALF_MM, None, ())
