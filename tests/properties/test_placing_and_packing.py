"""Plans as pure data: every plane has a slot, every image a unit, every pixel a tile."""

from __future__ import annotations

import math
import string
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import AlignmentError, TilingError, UsageError
from engine.geometry import plan_tiles
from engine.runs.plan import UNIT_BYTES, UNIT_IMAGES, UNITS_A_SLOT, PlanItem, pack_units
from engine.store.catalog.tables import latest_versions
from engine.store.config import Limits
from engine.store.digests import BLOCK_PX, digest_block, digest_content, digest_of, digest_plane
from engine.store.path_pattern import PathPattern
from engine.store.pixels.layout import (
    GIANT_SHARD_PX,
    SMALLEST_LEVEL_PX,
    IncomingPlane,
    bucket_side,
    count_blocks,
    level_shapes,
    plan_stack_layouts,
)
from engine.store.pixels.ome_metadata import group_attributes
from engine.store.pixels.stacks import shard_key

LIMITS = Limits(giant_bytes=200_000, shard_bytes=60_000, shard_images=5)

shapes = st.tuples(st.integers(1, 3), st.integers(1, 300), st.integers(1, 300))
kinds = st.tuples(
    st.sampled_from([(1, 40, 40), (1, 41, 40), (3, 40, 40), (1, 200, 200), (1, 500, 500)]) | shapes,
    st.sampled_from(["uint8", "float32"]),
    st.sampled_from([None, (0.5, 0.5)]),
)


@st.composite
def arrivals(draw: st.DrawFn) -> list[IncomingPlane]:
    found = []
    for n, (shape, dtype, spacing) in enumerate(draw(st.lists(kinds, max_size=40))):
        found.append(IncomingPlane(f"r/f{n}.tif", "", shape, dtype, spacing))
    for n in range(draw(st.integers(0, 3))):
        for series in range(draw(st.integers(1, 2))):
            frames, planes = draw(st.integers(1, 4)), draw(st.integers(1, 9))
            shape = draw(st.sampled_from([(1, 30, 30), (2, 150, 150)]))
            found += [
                IncomingPlane(
                    f"r/s{n}.tif", f"#{series}-{t}-{z}", shape, "uint8", None, (t, z), series
                )
                for t in range(frames)
                for z in range(planes)
            ]
    repeated = draw(st.booleans())
    if repeated and found and found[-1].place is not None:
        last = found[-1]  # a file whose metadata gives two planes one place
        found.append(
            IncomingPlane(last.source, "#x", last.shape, last.dtype, None, last.place, last.series)
        )
    return found


@given(arrivals())
@settings(max_examples=150, deadline=None)
def test_every_arrival_has_one_place_of_its_own(found: list[IncomingPlane]) -> None:
    plans = plan_stack_layouts(found, "i", LIMITS)
    placed = [slot.arrival for plan in plans for slot in plan.slots]
    assert Counter(placed) == Counter(found)
    assert len({plan.name for plan in plans}) == len(plans)
    assert plan_stack_layouts(found, "i", LIMITS) == plans
    for plan in plans:
        places = [(slot.t, slot.z) for slot in plan.slots]
        assert len(set(places)) == len(places)
        assert len(plan.shape) == len(plan.chunk) == len(plan.shard)
        for side, chunk, shard in zip(plan.shape, plan.chunk, plan.shard, strict=True):
            assert side >= 1
            assert chunk >= 1
            assert shard % chunk == 0
        for slot in plan.slots:
            arrival = slot.arrival
            assert (arrival.dtype, arrival.spacing_um) == (plan.dtype, plan.spacing_um)
            assert arrival.shape[0] == plan.shape[1]
            assert all(a <= b for a, b in zip(arrival.shape[1:], plan.shape[-2:], strict=True))
            assert (plan.kind == "giant") == (
                arrival.place is None and arrival.nbytes > LIMITS.giant_bytes
            )
            assert (plan.kind == "series") == (arrival.place is not None)
            at = (slot.t, 0) if slot.z is None else (slot.t, 0, slot.z)
            index = [n // s for n, s in zip((*at, 0, 0), plan.shard, strict=True)]
            if plan.kind != "giant":
                assert slot.shard == np.ravel_multi_index(index, plan.grid)
            assert 0 <= slot.shard < math.prod(plan.grid)
        if plan.kind == "stack":
            assert sorted(slot.t for slot in plan.slots) == list(range(plan.shape[0]))
            nbytes = math.prod(plan.shard) * np.dtype(plan.dtype).itemsize
            assert plan.shard[0] == 1 or nbytes <= LIMITS.shard_bytes
            assert plan.shard[0] <= LIMITS.shard_images
        if plan.kind == "series":
            assert len({(s.arrival.source, s.arrival.series) for s in plan.slots}) == 1


@given(st.integers(1, 100_000))
def test_a_bucket_wastes_at_most_half(side: int) -> None:
    bucket = bucket_side(side)
    assert bucket >= side
    assert side <= 64 or bucket < 1.5 * side
    assert bucket_side(bucket) == bucket
    assert bucket_side(side + 1) >= bucket


@st.composite
def items(draw: st.DrawFn) -> list[PlanItem]:
    found = []
    for stack in range(draw(st.integers(0, 4))):
        giant = draw(st.booleans())
        side = draw(st.sampled_from([64, 3000]))
        t = 0
        for shard in range(draw(st.integers(1, 12))):
            for _ in range(1 if giant else draw(st.integers(0, 9))):
                found.append(
                    PlanItem(
                        (f"{stack}-{shard}-{t}",), f"{stack}-{shard}-{t}", f"s{stack}",
                        0 if giant else shard, 0 if giant else t, None, (1, side, side),
                        "uint8", (), None, "src", shard if giant else None,
                    )
                )  # fmt: skip
                t += 1
    return found


@given(items(), st.integers(1, 64))
@settings(deadline=None)
def test_units_are_a_partition_into_whole_shards(found: list[PlanItem], slots: int) -> None:
    units = pack_units(found, slots)
    assert [item for unit in units for item in unit.items] == found
    assert [unit.number for unit in units] == list(range(len(units)))
    assert all(unit.items for unit in units)
    owners: dict[tuple[str, int], set[int]] = {}
    for unit in units:
        for item in unit.items:
            shard = item.shard if item.block is None else item.block
            owners.setdefault((item.stack, shard), set()).add(unit.number)
    assert all(len(numbers) == 1 for numbers in owners.values())
    for unit in units:
        shards = {(i.stack, i.shard if i.block is None else i.block) for i in unit.items}
        if len(shards) > 1:
            assert unit.images <= UNIT_IMAGES
            assert sum(item.nbytes for item in unit.items) <= UNIT_BYTES
    for one, other in pairwise(units):  # no two neighbours would have fitted into one
        share = UNITS_A_SLOT * slots
        first = (other.items[0].stack, other.items[0].shard, other.items[0].block)
        started = [i for i in other.items if (i.stack, i.shard, i.block) == first]
        assert len(one.items) + len(started) > min(
            UNIT_IMAGES, max(1, -(-len(found) // share))
        ) or sum(i.nbytes for i in (*one.items, *started)) > min(
            UNIT_BYTES, max(1, -(-sum(i.nbytes for i in found) // share))
        )


def test_packing_needs_a_slot() -> None:
    with pytest.raises(UsageError, match="slots is 0"):
        pack_units([], 0)


sides = st.integers(1, 40)


@given(st.tuples(sides, sides), st.tuples(sides, sides), st.integers(0, 70))
@settings(max_examples=40, deadline=None)
def test_tiles_write_every_pixel_once(
    shape: tuple[int, int], tile: tuple[int, int], halo: int
) -> None:
    written = np.zeros(shape, int)
    points = np.zeros(shape, int)
    for found in plan_tiles(shape, tile, halo):
        written[found.write.slices] += 1
        read = found.read
        assert read.start == tuple(max(0, n - halo) for n in found.write.start)
        assert read.stop == tuple(
            min(side, n + halo) for n, side in zip(found.write.stop, shape, strict=True)
        )
        for y in range(shape[0]):
            for x in {0, shape[1] // 2, shape[1] - 1}:
                # A point on the border between two pixels, too, lies in one tile only.
                points[y, x] += found.write.holds(y - 0.5, x - 0.5)
    assert (written == 1).all()
    assert (points[:, [0, shape[1] // 2, shape[1] - 1]] == 1).all()


@pytest.mark.parametrize(
    ("shape", "tile", "halo"), [((0, 1), (1, 1), 0), ((1, 1), (1, 0), 0), ((1, 1), (1, 1), -1)]
)
def test_impossible_tilings(shape: tuple[int, int], tile: tuple[int, int], halo: int) -> None:
    with pytest.raises(TilingError):
        plan_tiles(shape, tile, halo)


@given(st.integers(1, 3), st.integers(1, 20_000), st.integers(1, 20_000))
def test_pyramids_halve_until_small(channels: int, height: int, width: int) -> None:
    levels = level_shapes((1, channels, height, width))
    assert levels[0] == (1, channels, height, width)
    for above, below in pairwise(levels):
        assert max(above[-2:]) > SMALLEST_LEVEL_PX
        assert below == (*above[:2], (above[2] + 1) // 2, (above[3] + 1) // 2)
    assert max(levels[-1][-2:]) <= SMALLEST_LEVEL_PX
    assert count_blocks(height, width) == len(
        plan_tiles((height, width), (GIANT_SHARD_PX, GIANT_SHARD_PX), 0)
    )
    transforms = group_attributes("n", levels, (0.5, 0.25))["ome"]["multiscales"][0]["datasets"]
    for level, dataset in enumerate(transforms):
        scale = dataset["coordinateTransformations"][0]["scale"]
        assert scale[-2:] == [0.5 * 2**level, 0.25 * 2**level]
        if level:  # the first pixel of a level covers the first 2^n of the finest
            shift = dataset["coordinateTransformations"][1]["translation"][-1]
            assert shift == np.mean(np.arange(2**level)) * 0.25


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.data())
def test_shard_keys_count_the_grid(grid: list[int], data: st.DataObject) -> None:
    keys = [shard_key(grid, n) for n in range(math.prod(grid))]
    assert len(set(keys)) == len(keys)
    index = data.draw(st.integers(0, len(keys) - 1))
    parts = [int(part) for part in keys[index].removeprefix("c/").split("/")]
    assert np.ravel_multi_index(parts, grid) == index
    for wrong in (-1, len(keys)):
        with pytest.raises(AlignmentError):
            shard_key(grid, wrong)


@given(st.sampled_from(["uint8", "uint16", "float32"]), st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_digests_are_of_values_whatever_the_memory(dtype: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 99, (2, 30, 40)).astype(dtype)
    due = digest_plane(pixels)
    assert digest_plane(np.asfortranarray(pixels)) == due
    assert digest_plane(pixels.astype(np.dtype(dtype).newbyteorder(">"))) == due
    assert digest_plane(np.repeat(pixels, 2, axis=2)[:, :, ::2]) == due
    changed = pixels.copy()
    changed[1, seed % 30, seed % 40] += 1
    others = [changed, pixels.reshape(2, 40, 30), pixels[:1], pixels.view(f"i{pixels.itemsize}")]
    assert due not in [digest_plane(other) for other in others]


def test_digests_of_blocks_make_the_digest_of_a_plane() -> None:
    pixels = np.random.default_rng(1).integers(0, 9, (1, BLOCK_PX + 3, BLOCK_PX + 5), np.uint8)
    blocks = [
        digest_block(pixels[:, y : y + BLOCK_PX, x : x + BLOCK_PX])
        for y in (0, BLOCK_PX)
        for x in (0, BLOCK_PX)
    ]
    assert digest_content("uint8", pixels.shape, blocks) == digest_plane(pixels)
    assert digest_content("uint8", pixels.shape, blocks[::-1]) != digest_plane(pixels)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.none() | st.text(max_size=3)))
@settings(max_examples=30, deadline=None)
def test_digests_know_no_order(values: dict[str, object]) -> None:
    assert digest_of(values) == digest_of(dict(reversed(list(values.items()))))


words = st.text(string.ascii_letters + string.digits + "-. é", min_size=1, max_size=8).filter(
    lambda word: word.strip(". ")
)


@given(st.lists(words, min_size=4, max_size=4), st.lists(words, max_size=3))
def test_layouts_read_the_end_of_a_path(parts: list[str], above: list[str]) -> None:
    date, subject, experiment, name = parts
    path = "/".join([*above, date, subject, experiment, f"{name}.tif"])
    assert PathPattern().fields(path) == {
        "date": date, "subject": subject, "experiment": experiment, "name": name
    }  # fmt: skip
    assert PathPattern().fields(f"{name}.tif") == {"name": name}
    assert PathPattern("x_{a}/{b}").fields(f"{subject}/x_{date}/{name}.tif") == {
        "a": date,
        "b": name,
    }


versions = st.lists(st.tuples(st.sampled_from("abcdé"), st.integers(1, 6)), unique=True)


@given(versions, st.randoms())
def test_the_current_version_is_the_greatest(rows: list[tuple[str, int]], random: object) -> None:
    table = pa.table(
        {
            "image_id": pa.array([i for i, _ in rows], pa.string()),
            "version": pa.array([v for _, v in rows], pa.int32()),
        }
    )
    due = {i: max(v for j, v in rows if i == j) for i, _ in rows}
    found = latest_versions(table)
    assert dict(zip(*found.to_pydict().values(), strict=True)) == due
    assert found["image_id"].to_pylist() == sorted(due)
