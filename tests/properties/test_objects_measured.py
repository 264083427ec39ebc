"""Measures of objects: every column is regionprops_table's, over images of all kinds of objects."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from skimage.draw import ellipse, line
from skimage.measure import regionprops_table

from engine.kernels.objects.extents import object_extents
from engine.kernels.objects.measure import PROPERTIES, SHAPES, measure_objects
from engine.kernels.objects.relations import find_neighbours, parent_labels
from engine.kernels.objects.rings import ring_labels

LABEL_TYPES = ("u1", "u2", "u4", "i4", "i8")
VALUE_TYPES = ("u1", "u2", "f4")
EXACT = ("area", "area_convex")


def drawn(seed: int, height: int, width: int, count: int) -> NDArray[np.int64]:
    """Return objects that touch, overlap, leave the image and have holes; labels with gaps."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int64)
    for label in rng.choice(np.arange(1, 256), count, replace=False):
        y, x = rng.integers(0, height), rng.integers(0, width)
        kind = rng.integers(0, 5)
        if kind == 0:
            labels[y, x] = label
        elif kind == 1:
            labels[line(y, x, rng.integers(0, height), rng.integers(0, width))] = label
        elif kind == 2:
            labels[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = label
        else:
            radii = rng.uniform(0.5, 9, 2)
            angle = rng.uniform(-3, 3)
            labels[ellipse(y, x, *radii, labels.shape, angle)] = label
            if kind == 3:
                labels[ellipse(y, x, *radii / 3, labels.shape)] = 0
    labels[rng.random(labels.shape) < rng.choice([0, 0, 0.1])] = 0
    return labels


@st.composite
def label_images(draw: st.DrawFn) -> NDArray[np.integer]:
    dtype = draw(st.sampled_from(LABEL_TYPES))
    side = st.integers(1, 9)
    noise = arrays(np.int64, st.tuples(side, side), elements=st.sampled_from([0, 0, 1, 2, 7, 200]))
    objects = st.builds(
        drawn, st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.integers(0, 12)
    )
    return draw(noise | objects).astype(dtype)


def values(seed: int, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    plane = rng.integers(0, 256, (2, *shape)) * rng.choice([1, 0.01])
    if dtype == "f4" and rng.random() < 0.5:
        plane[rng.random(plane.shape) < 0.02] = np.nan
        plane[rng.random(plane.shape) < 0.02] = rng.choice([np.inf, -np.inf])
    return plane.astype(dtype)


def expected(labels: NDArray[Any], intensities: NDArray[Any] | None) -> dict[str, NDArray[Any]]:
    """Return scikit-image's columns; float32 in double precision, as it adds up in float32."""
    last = None
    if intensities is not None:
        last = np.moveaxis(intensities, 0, -1)
        last = last.astype(np.float64) if last.dtype.kind == "f" else last
    names = SHAPES if last is None else PROPERTIES
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # infinite values have no deviation
        return regionprops_table(labels, last, properties=names)


def same(found: dict[str, NDArray[Any]], due: dict[str, NDArray[Any]]) -> None:
    assert list(found) == list(due)
    for name, column in due.items():
        assert found[name].dtype == column.dtype, name
        mine = found[name]
        if column.dtype.kind == "i" or name in EXACT:
            np.testing.assert_array_equal(mine, column, name)
        elif name == "orientation":
            # Up to half a turn; an object without a longer axis has that of rounding errors.
            regular = found["eccentricity"] == 0
            assert (mine[regular] == -np.pi / 4).all()
            np.testing.assert_allclose(np.sin(mine - column)[~regular], 0, atol=1e-6)
            assert (np.abs(mine) <= np.pi / 2).all()
        else:
            near = np.isclose(mine, column, rtol=1e-6, atol=0, equal_nan=True)
            # Rounding errors of scikit-image, instead of 0: roots of the last digit.
            tiny = (np.abs(mine) < 1e-6) & (np.abs(column) < 1e-5)
            rounded = ("axis_minor_length", "eccentricity", "intensity_std")
            assert (near | (tiny & name.startswith(rounded))).all(), (name, mine, column)


@settings(deadline=None, max_examples=300)
@given(label_images(), st.integers(0, 10**6), st.sampled_from(VALUE_TYPES), st.booleans())
def test_every_column_is_that_of_regionprops_table(
    labels: NDArray[np.integer], seed: int, dtype: str, plain: bool
) -> None:
    intensities = None if plain else values(seed, labels.shape, dtype)
    names = SHAPES if plain else PROPERTIES
    same(measure_objects(labels, intensities, names), expected(labels, intensities))


def test_float32_is_within_the_precision_of_scikit_image() -> None:
    labels = drawn(5, 90, 90, 12).astype(np.uint16)
    intensities = np.random.default_rng(1).uniform(100, 200, (2, 90, 90)).astype(np.float32)
    due = regionprops_table(labels, np.moveaxis(intensities, 0, -1), properties=PROPERTIES)
    found = measure_objects(labels, intensities, PROPERTIES)
    for name, column in due.items():
        if name.startswith("intensity"):
            np.testing.assert_allclose(found[name], column, rtol=2e-5)


@settings(deadline=None, max_examples=60)
@given(label_images(), st.integers(0, 3), st.integers(0, 3))
def test_a_crop_that_holds_an_object_measures_the_same(
    labels: NDArray[np.integer], above: int, left: int
) -> None:
    intensities = values(3, labels.shape, "u2")
    whole = measure_objects(labels, intensities, PROPERTIES)
    for n, label in enumerate(whole["label"]):
        box = [int(whole[f"bbox-{k}"][n]) for k in range(4)]
        y, x = max(0, box[0] - above), max(0, box[1] - left)
        part = (slice(y, box[2] + left), slice(x, box[3] + above))
        crop = measure_objects(labels[part], intensities[:, *part], PROPERTIES)
        at = list(crop["label"]).index(label)
        offsets = {"bbox-0": y, "bbox-1": x, "bbox-2": y, "bbox-3": x}
        for name, column in crop.items():
            if name.startswith("centroid"):
                assert column[at] + (y, x)[int(name[-1])] == pytest.approx(whole[name][n], 1e-12)
            else:
                np.testing.assert_equal(column[at] + offsets.get(name, 0), whole[name][n])


@settings(deadline=None, max_examples=150)
@given(label_images())
def test_extents_are_those_of_the_pixels(labels: NDArray[np.integer]) -> None:
    found = object_extents(labels)
    assert list(found.label) == list(np.unique(labels[labels > 0]))
    height, width = labels.shape
    for n, label in enumerate(found.label):
        y, x = np.nonzero(labels == label)
        assert found.first[n] == np.flatnonzero(labels == label)[0]
        assert found.area[n] == len(y)
        assert list(found.box[n]) == [y.min(), x.min(), y.max() + 1, x.max() + 1]
        assert list(found.sums[n]) == [y.sum(), x.sum()]
        sides = [0 in y, height - 1 in y, 0 in x, width - 1 in x]
        assert list(found.touches[n]) == sides


def brute_rings(labels: NDArray[np.integer], ring_px: float) -> NDArray[np.integer]:
    """Return the rings by comparing each pixel with all pixels of objects."""
    rings = np.zeros_like(labels)
    objects = np.argwhere(labels > 0)
    for pixel in np.argwhere(labels <= 0):
        apart = ((objects - pixel) ** 2).sum(1)
        if len(objects) and np.sqrt(apart.min()) <= ring_px:
            rings[tuple(pixel)] = labels[tuple(objects[apart == apart.min()].T)].min()
    return rings


@settings(deadline=None, max_examples=150)
@given(
    label_images(),
    st.floats(0.1, 12) | st.integers(1, 90).map(lambda n: float(np.sqrt(n))),
)  # fmt: skip
def test_rings_are_those_of_the_nearest_pixels(labels: NDArray[np.integer], ring_px: float) -> None:
    found = ring_labels(labels, ring_px)
    assert found.dtype == labels.dtype
    np.testing.assert_array_equal(found, brute_rings(labels, ring_px))


@settings(deadline=None, max_examples=100)
@given(label_images(), st.integers(0, 10**6), st.sampled_from(LABEL_TYPES))
def test_parents_hold_most_pixels(labels: NDArray[np.integer], seed: int, dtype: str) -> None:
    others = drawn(seed, *labels.shape, 5).astype(dtype)
    due = []
    for label in np.unique(labels[labels > 0]):
        counts = np.bincount(others[labels == label], minlength=2)
        counts[0] = 0
        due.append(int(counts.argmax()) if counts.any() else 0)
    assert parent_labels(labels, others).tolist() == due


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30),
    st.floats(0.1, 12) | st.integers(1, 9),
)
def test_neighbours_are_those_of_all_distances(
    centroids: list[tuple[int, int]], radius: float
) -> None:
    points = np.array(centroids, float).reshape(-1, 2)
    found = find_neighbours(points, radius)
    assert len(found.distance) == len(found.number) == len(points)
    apart = cdist(points, points)
    np.fill_diagonal(apart, np.inf)
    assert found.number.tolist() == (apart <= radius).sum(1).tolist()
    if len(points) > 1:
        np.testing.assert_allclose(found.distance, apart.min(1))
    else:
        assert np.isnan(found.distance).all()
