"""Tiled inference with functions in place of networks, of which everything is known."""

from __future__ import annotations

import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.errors import ParameterError, TilingError
from engine.geometry import Region, plan_tiles
from engine.kernels.tiling.inference import (
    Band,
    Batches,
    NoMemoryLeft,
    Plane,
    classes_of,
    predict_planes,
    predict_tiled,
)
from engine.kernels.tiling.plan import TiledPlan, plan_grid, plan_tiled

sizes = st.integers(1, 60)


def whole(bands: list[Band], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Put bands together, each pixel once."""
    planes = np.full((len(bands[0].planes), *shape), np.nan, np.float32)
    for band in bands:
        assert np.isnan(planes[:, *band.region.slices]).all()
        planes[:, *band.region.slices] = band.planes
    assert not np.isnan(planes).any()
    return planes


def reader(pixels: NDArray[Any]) -> Any:
    return lambda region: pixels[:, *region.slices]


def box_sum(batch: NDArray[Any]) -> NDArray[np.float32]:
    """Sum each pixel's 5 x 5 neighbourhood, with zeros beyond the edge: reaches 2 pixels."""
    padded = np.pad(batch.astype(np.float32), ((0, 0), (0, 0), (2, 2), (2, 2)))
    height, width = batch.shape[2:]
    return np.sum(
        [padded[:, :, y : y + height, x : x + width] for y in range(5) for x in range(5)],
        axis=0,
        dtype=np.float32,
    )


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, st.integers(1, 30), st.integers(1, 30), st.integers(0, 9), st.data())
def test_windows_are_those_of_the_tiles_and_weights_sum_to_one(
    height: int, width: int, tile_y: int, tile_x: int, halo: int, data: st.DataObject
) -> None:
    blend = data.draw(st.none() | st.integers(0, halo))
    plan = plan_tiled((height, width), (tile_y, tile_x), halo, blend)
    windows = [Region((y.start, x.start), (y.stop, x.stop)) for y in plan.y for x in plan.x]
    tiles = plan_tiles((height, width), (tile_y, tile_x), halo)
    assert windows == [tile.read for tile in tiles]
    for size, spans in ((height, plan.y), (width, plan.x)):
        total = np.zeros(size)
        for span in spans:
            assert span.weights.min() >= 0
            total[span.first : span.last] += span.weights
        np.testing.assert_allclose(total, 1, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(sizes, sizes, st.integers(4, 30), st.integers(2, 9), st.integers(1, 5), st.data())
def test_tiled_equals_whole_where_the_halo_reaches(
    height: int, width: int, tile: int, halo: int, batch: int, data: st.DataObject
) -> None:
    blend = data.draw(st.integers(0, halo - 2))
    pixels = np.random.default_rng(0).integers(0, 255, (1, height, width)).astype(np.uint8)
    plan = plan_tiled((height, width), (tile, tile), halo, blend)
    bands = list(predict_tiled(reader(pixels), plan, Batches(box_sum, batch)))
    np.testing.assert_allclose(whole(bands, (height, width)), box_sum(pixels[None])[0], rtol=1e-5)
    starts = [max(band.region.start) for band in bands]
    assert starts == sorted(starts)


def test_answers_fade_into_one_another() -> None:
    """Two tiles that say 0 and 1 meet in a slope as wide as twice the blend."""
    plan = plan_tiled((4, 64), (32, 32), halo=16, blend=8)
    said = iter((0.0, 1.0))
    answer = Batches(lambda batch: np.full((len(batch), 1, *batch.shape[2:]), next(said)), 1)
    row = whole(list(predict_tiled(reader(np.zeros((1, 4, 64))), plan, answer)), (4, 64))[0, 0]
    assert (row[:24] == 0).all()
    assert (row[40:] == 1).all()
    np.testing.assert_allclose(np.diff(row[24:40]), 1 / 16, rtol=1e-5)


def test_a_grid_of_ones_own_must_cover_the_plane() -> None:
    profile = np.ones(8, np.float32)
    plan = plan_grid((8, 14), ((0,), (0, 4, 6)), (profile, profile))
    assert sum(span.weights[-1] for span in plan.x) > 0
    for starts in ((0, 7), (2, 6), (0, 4, 5)):
        with pytest.raises(TilingError):
            plan_grid((8, 14), ((0,), starts), (profile, profile))


@pytest.mark.parametrize(
    ("tile", "halo", "blend", "multiple"),
    [((0, 4), 0, None, 1), ((4, 4), -1, None, 1), ((4, 4), 2, 3, 1), ((4, 4), 2, None, 4)],
)
def test_what_can_not_be_tiled_is_refused(
    tile: tuple[int, int], halo: int, blend: int | None, multiple: int
) -> None:
    with pytest.raises(TilingError):
        plan_tiled((16, 16), tile, halo, blend, multiple)


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    seen: list[int] = []

    def limited(batch: NDArray[Any]) -> NDArray[np.float32]:
        seen.append(len(batch))
        if len(batch) > 3:
            raise MemoryError
        return batch.astype(np.float32)

    pixels = np.random.default_rng(1).random((2, 160, 160), np.float32)
    batches = Batches(limited, 16)
    plan = plan_tiled((160, 160), (8, 8), halo=4)
    bands = list(predict_tiled(reader(pixels), plan, batches))
    np.testing.assert_allclose(whole(bands, (160, 160)), pixels, rtol=1e-5)
    assert batches.size == 2
    assert [size for size in seen if size > 3] == [16, 8, 4], "it learns once, not at every batch"


def test_a_tile_that_never_fits_is_named() -> None:
    def none(batch: NDArray[Any]) -> NDArray[np.float32]:
        raise MemoryError

    plan = plan_tiled((40, 40), (8, 8), halo=4)
    with pytest.raises(NoMemoryLeft, match="12 x 12 px") as caught:
        list(predict_tiled(reader(np.zeros((1, 40, 40))), plan, Batches(none, 4)))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(ParameterError, match="batch"):
        Batches(none, 0)


def test_an_error_of_the_reader_comes_through() -> None:
    def torn(region: Region) -> NDArray[Any]:
        if region.start[1] > 0:
            raise OSError("torn")
        return np.zeros((1, *region.shape))

    plan = plan_tiled((8, 40), (8, 8), halo=0)
    with pytest.raises(OSError, match="torn"):
        list(predict_tiled(torn, plan, Batches(lambda batch: batch.astype(np.float32), 1)))


def peak_bytes(plan: TiledPlan) -> int:
    def read(region: Region) -> NDArray[Any]:
        return np.zeros((3, *region.shape), np.uint8)

    def four(batch: NDArray[Any]) -> NDArray[np.float32]:
        return np.ones((len(batch), 4, *batch.shape[2:]), np.float32)

    tracemalloc.start()
    pixels = sum(b.planes[0].size for b in predict_tiled(read, plan, Batches(four, 4)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pixels == plan.shape[0] * plan.shape[1]
    return peak


@pytest.mark.parametrize("transposed", [False, True])
def test_memory_is_that_of_the_shorter_side(transposed: bool) -> None:
    shapes = [(1000, 500), (8000, 500)]
    short, long = (
        peak_bytes(plan_tiled(shape[::-1] if transposed else shape, (128, 128), 32))
        for shape in shapes
    )
    assert long < 1.15 * short


def test_of_equal_classes_the_first_is_taken() -> None:
    planes = np.array([[[0.4, 0.1]], [[0.4, 0.8]], [[0.2, 0.1]], [[0.9, 0.9]]], np.float32)
    assert classes_of(planes, 3).tolist() == [[0, 1]]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(sizes, sizes), min_size=1, max_size=4), st.integers(1, 7))
def test_planes_that_share_batches_answer_as_each_alone(
    shapes: list[tuple[int, int]], batch: int
) -> None:
    rng = np.random.default_rng(3)
    pixels = [rng.integers(0, 255, (1, *shape)).astype(np.uint8) for shape in (*shapes, (9, 9))]
    planes = [Plane(reader(p), plan_tiled((p.shape[1], p.shape[2]), (8, 8), 3)) for p in pixels]
    found: dict[int, list[Band]] = {}
    for number, band in predict_planes(iter(planes), Batches(box_sum, batch)):
        found.setdefault(number, []).append(band)
    assert list(found) == list(range(len(pixels)))
    for number, plane in enumerate(planes):
        alone = predict_tiled(plane.read, plane.plan, Batches(box_sum, 1))
        together = whole(found[number], plane.plan.shape)
        np.testing.assert_array_equal(together, whole(list(alone), plane.plan.shape))


def test_small_planes_fill_batches_together() -> None:
    seen: list[int] = []

    def counting(batch: NDArray[Any]) -> NDArray[np.float32]:
        seen.append(len(batch))
        return batch.astype(np.float32)

    planes = [Plane(reader(np.zeros((1, 16, 16))), plan_tiled((16, 16), (16, 16), 4))] * 10
    assert len(list(predict_planes(planes, Batches(counting, 4)))) == 10
    assert seen == [4, 4, 2]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(4, 20))
def test_a_block_is_answered_as_in_the_whole(top: int, left: int, side: int) -> None:
    pixels = np.random.default_rng(4).integers(0, 255, (1, 40, 40)).astype(np.uint8)
    height, width = min(side, 40 - top), min(side, 40 - left)
    around = ((top, 40 - top - height), (left, 40 - left - width))
    plan = plan_tiled((height, width), (8, 8), halo=3, blend=1, around=around)

    def read(region: Region) -> NDArray[Any]:
        (y, x), (stop_y, stop_x) = region.start, region.stop
        return pixels[:, y + top : stop_y + top, x + left : stop_x + left]

    found = whole(list(predict_tiled(read, plan, Batches(box_sum, 4))), (height, width))
    due = box_sum(pixels[None])[0][:, top : top + height, left : left + width]
    np.testing.assert_allclose(found, due, rtol=1e-5)
