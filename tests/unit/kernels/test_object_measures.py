"""Measures of objects on examples: odd shapes, types, refusals, a photograph, large objects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.data import coins
from skimage.measure import label, regionprops_table

from engine.errors import ParameterError
from engine.kernels.objects.extents import object_extents
from engine.kernels.objects.measure import PROPERTIES, SHAPES, measure_objects
from engine.kernels.objects.relations import find_neighbours, parent_labels
from engine.kernels.objects.rings import ring_labels

LABELS = np.array(
    [
        [9, 9, 9, 0, 0, 2],
        [9, 0, 9, 0, 4, 0],
        [9, 9, 9, 4, 0, 0],
        [0, 0, 0, 0, 7, 7],
    ],
    np.uint16,
)
"""A square with a hole, a diagonal line, a pixel in a corner and a line on the border."""


def test_small_shapes() -> None:
    found = measure_objects(LABELS, None, SHAPES)
    assert found["label"].tolist() == [2, 4, 7, 9]
    assert found["area"].tolist() == [1, 2, 2, 8]
    assert found["area_convex"].tolist() == [1, 2, 2, 9]
    assert found["euler_number"].tolist() == [1, 1, 1, 0]
    assert found["perimeter"].tolist() == [0, 0, 0, 8]
    boxes = np.stack([found[f"bbox-{n}"] for n in range(4)], 1)
    assert boxes.tolist() == [[0, 5, 1, 6], [1, 3, 3, 5], [3, 4, 4, 6], [0, 0, 3, 3]]
    assert found["centroid-0"].tolist() == [0, 1.5, 3, 1]
    assert found["centroid-1"].tolist() == [5, 3.5, 4.5, 1]
    quarter, half = math.pi / 4, math.pi / 2
    assert found["orientation"].tolist() == [-quarter, -quarter, half, -quarter]
    assert found["eccentricity"].tolist() == [0, 1, 1, 0]
    assert found["axis_minor_length"].tolist()[:3] == [0, 0, 0]
    np.testing.assert_allclose(found["feret_diameter_max"] ** 2, [1, 5, 4, 13])


def test_small_intensities() -> None:
    values = np.arange(24).reshape(1, 4, 6)
    found = measure_objects(LABELS, values, ("intensity_median", "intensity_std", "label"))
    assert list(found) == ["intensity_median-0", "intensity_std-0", "label"]
    assert found["intensity_median-0"].tolist() == [5, 12.5, 22.5, 7]
    assert found["intensity_std-0"].tolist()[:3] == [0, 2.5, 0.5]


def test_small_objects_without_number_are_missing() -> None:
    values = np.zeros((1, 4, 6))
    values[0, 0, 0] = math.nan
    names = [name for name in PROPERTIES if name.startswith("intensity")]
    for column in measure_objects(LABELS, values, names).values():
        assert np.isnan(column).tolist() == [False, False, False, True]


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (0, 0)])
def test_small_nothing(shape: tuple[int, int]) -> None:
    labels = np.zeros(shape, np.uint8)
    found = measure_objects(labels, np.zeros((2, *shape)), PROPERTIES)
    due = regionprops_table(np.zeros((3, 4), np.uint8), np.zeros((3, 4, 2)), properties=PROPERTIES)
    assert {name: (column.dtype, len(column)) for name, column in found.items()} == {
        name: (column.dtype, 0) for name, column in due.items()
    }
    assert len(object_extents(labels).label) == 0
    assert ring_labels(labels, 3).shape == shape
    assert parent_labels(labels, labels).tolist() == []


def test_small_negative_labels_are_background() -> None:
    labels = np.array([[-3, 5, 5, -3]])
    assert measure_objects(labels, None, ("label",))["label"].tolist() == [5]
    assert ring_labels(labels, 1).tolist() == [[5, 0, 0, 5]]
    assert parent_labels(np.array([[1, 1, 1, 1]]), labels).tolist() == [5]


@pytest.mark.parametrize("dtype", ["?", ">u2", "f2", "i8", "f8", "g"])
def test_small_values_of_any_type(dtype: str) -> None:
    """Also in another order of bytes, and as views that lie otherwise in memory."""
    values = (np.arange(24).reshape(1, 4, 6) % 7).astype(dtype)
    found = measure_objects(LABELS.astype(">i4")[:, ::-1], values[:, :, ::-1], PROPERTIES)
    due = measure_objects(
        LABELS[:, ::-1].astype(np.int32), values[:, :, ::-1].astype(float), PROPERTIES
    )
    for name, column in due.items():
        np.testing.assert_array_equal(found[name], column)


REFUSED: list[tuple[NDArray[Any], NDArray[Any] | None, tuple[str, ...], str]] = [
    (np.zeros((2, 3, 3), int), None, ("area",), "labels"),
    (np.zeros((3, 3)), None, ("area",), "labels"),
    (np.zeros((3, 3), bool), None, ("area",), "labels"),
    (np.full((3, 3), 2**63, np.uint64), None, ("area",), "labels"),
    (LABELS, None, ("area", "roundness"), "properties"),
    (LABELS, None, ("area", "intensity_mean"), "intensities"),
    (LABELS, np.zeros((4, 6)), ("area",), "intensities"),
    (LABELS, np.zeros((1, 6, 4)), ("area",), "intensities"),
    (LABELS, np.zeros((1, 4, 6), complex), ("intensity_mean",), "intensities"),
]


@pytest.mark.parametrize(("labels", "values", "names", "parameter"), REFUSED)
def test_small_refusals(
    labels: NDArray[Any], values: NDArray[Any] | None, names: tuple[str, ...], parameter: str
) -> None:
    with pytest.raises(ParameterError) as refused:
        measure_objects(labels, values, names)
    assert refused.value.args[0] == parameter


def test_small_refusals_of_distances() -> None:
    for wrong in (0, -1, math.nan, math.inf):
        with pytest.raises(ParameterError):
            ring_labels(LABELS, wrong)
    for wrong in (0, math.nan):
        with pytest.raises(ParameterError):
            find_neighbours(np.zeros((2, 2)), wrong)
    with pytest.raises(ParameterError):
        parent_labels(LABELS, LABELS.T)


def test_small_rings_share_the_middle_by_label() -> None:
    rings = ring_labels(np.array([[0, 0, 5, 0, 3, 0, 0, 0]]), 2)
    assert rings.tolist() == [[5, 5, 0, 3, 0, 3, 3, 0]]


def test_a_photograph() -> None:
    grey = coins()
    labels = label(grey > 110, connectivity=2)
    values = np.stack([grey, 255 - grey])
    found = measure_objects(labels, values, PROPERTIES)
    due = regionprops_table(labels, np.moveaxis(values, 0, -1), properties=PROPERTIES)
    assert list(found) == list(due)
    assert len(found["label"]) > 80
    regular = found["eccentricity"] == 0
    for name, column in due.items():
        mine = np.where(regular, column, found[name]) if name == "orientation" else found[name]
        np.testing.assert_allclose(mine, column, rtol=1e-6, atol=1e-6, err_msg=name)


def test_large_squares_have_no_longer_axis() -> None:
    """Products of their sums leave int64, as multiples of 2**64 too."""
    labels = np.zeros((4096, 4096), np.uint8)
    labels[:, :] = 1
    found = measure_objects(labels, None, SHAPES)
    side = 4 * math.sqrt((4096**2 - 1) / 12)
    assert found["axis_major_length"] == pytest.approx(side, rel=1e-12)
    assert found["axis_minor_length"] == pytest.approx(side, rel=1e-12)
    assert found["orientation"] == [-math.pi / 4]
    assert found["eccentricity"] == pytest.approx(0, abs=1e-7)
    labels[:2048, :2048] = 0
    due = regionprops_table(labels, properties=("orientation", "eccentricity", "solidity"))
    found = measure_objects(labels, None, tuple(due))
    for name, column in due.items():
        np.testing.assert_allclose(found[name], column, rtol=1e-6)
