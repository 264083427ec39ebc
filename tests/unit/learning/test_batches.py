"""Batches: every image once, the same in any number of processes, and no silence."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engine
from engine.errors import CorruptStore, MissingExtra, NothingFound, ParameterError
from engine.learning.datasets.batches import WrongState
from engine.learning.datasets.masks import ContourMasks, NoMask
from engine.store.catalog.tables import read_images, read_shards
from engine.store.pixels import read_planes as planes
from engine.store.pixels.stacks import StackReader

MASKS = {"outer": 2, "inner": 1}
SMALL = "giant == False"


def names(batches: Iterable[Any]) -> list[list[str]]:
    return [batch["image_id"] for batch in batches]


def same(ours: Iterable[Any], theirs: Iterable[Any]) -> None:
    """Check that two runs of batches are equal to the last bit."""
    for a, b in itertools.zip_longest(ours, theirs):
        assert a.keys() == b.keys()
        for key in a:
            equal = np.array_equal(a[key], b[key])
            assert equal, (key, a["batch"])


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_gives_every_image_once_in_modality_units(
    hearts: engine.Cohort, shuffle: bool
) -> None:
    images = hearts.images()
    masks = ContourMasks(MASKS).open(hearts.store, read_images(hearts.store)[1])
    batches = hearts.batches(masks=MASKS, batch_size=5, shuffle=shuffle, buffer_bytes=200_000)
    assert len(batches) == 8
    given = list(batches.numpy())
    assert [len(batch["image_id"]) for batch in given] == [5] * 7 + [1]
    assert [(batch["epoch"], batch["batch"]) for batch in given] == [(0, n) for n in range(8)]
    seen = list(itertools.chain(*names(given)))
    assert sorted(seen) == sorted(images.frame["image_id"])
    lowest = []
    for batch in given:
        assert (batch["image"].dtype, batch["mask"].dtype) == (np.float32, np.uint8)
        for n, image_id in enumerate(batch["image_id"]):
            np.testing.assert_array_equal(batch["image"][n], images.by_id(image_id).to_numpy())
            np.testing.assert_array_equal(batch["mask"][n], masks.read(image_id))
            lowest.append(batch["image"][n].min())
    assert sum(value < 0 for value in lowest) == 12, "slope and intercept of one patient"
    frame = images.frame.set_index("image_id").loc[seen]
    places = frame[["stack", "shard", "t", "z"]].apply(tuple, axis=1).tolist()
    assert (places == sorted(places)) is not shuffle


def test_images_of_many_shapes_are_batched_by_shape(pictures: engine.Cohort) -> None:
    images = pictures.images(SMALL)
    for buffer_bytes in (1, 10**9):  # with the least buffer, items are read again by themselves
        batches = pictures.batches(SMALL, batch_size=4, seed=2, buffer_bytes=buffer_bytes)
        given = list(batches.numpy())
        assert len(given) == len(batches) == 9
        assert sorted(itertools.chain(*names(given))) == sorted(images.frame["image_id"])
        for batch in given:
            for n, image_id in enumerate(batch["image_id"]):
                np.testing.assert_array_equal(batch["image"][n], images.by_id(image_id).to_numpy())
    shorter = pictures.batches(SMALL, batch_size=4, seed=2, drop_last=True)
    assert [len(batch) for batch in names(shorter.numpy())] == [4] * 5
    assert len(shorter) == 5


@pytest.mark.parametrize("waste", [0, 10**9])
def test_planes_are_themselves_however_many_are_read_at_once(
    hearts: engine.Cohort, pictures: engine.Cohort, monkeypatch: pytest.MonkeyPatch, waste: int
) -> None:
    monkeypatch.setattr(planes, "WASTE_BYTES", waste)
    random = np.random.default_rng(1)
    for cohort in (hearts, pictures):
        images = cohort.images(SMALL, stored=True)
        frame = images.frame.astype({"z": "Int64"})
        reader = StackReader(cohort.store, {row.path: row for row in read_shards(cohort.store)})
        for (stack, _), rows in frame.groupby(["stack", "shard"]):
            some = rows.sample(random.integers(1, len(rows) + 1), random_state=random)
            places = {
                (row.t, None if pd.isna(row.z) else int(row.z)): row.image_id
                for row in some.itertuples()
            }
            read = dict(planes.read_planes(reader, str(stack), list(places)))
            assert read.keys() == places.keys()
            for place, image_id in places.items():
                stored = images.by_id(image_id).to_numpy()
                channels, height, width = stored.shape
                np.testing.assert_array_equal(read[place][:channels, :height, :width], stored)


def flip() -> Any:
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomAffine(20, (0.1, 0.1)), v2.RandomHorizontalFlip()])


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_any_number_of_workers_gives_the_same(hearts: engine.Cohort) -> None:
    torch = pytest.importorskip("torch")
    how = {"masks": MASKS, "batch_size": 5, "seed": 4, "buffer_bytes": 200_000, "augment": flip()}
    alone = hearts.batches(**how)
    assert isinstance(alone, torch.utils.data.IterableDataset)
    expected = [list(alone.numpy()) for _ in range(2)]
    assert names(expected[0]) != names(expected[1]), "each epoch has its order"
    same(expected[0], hearts.batches(**how, workers=3))
    ours = hearts.batches(**how)
    loader = torch.utils.data.DataLoader(
        ours, batch_size=None, num_workers=2, persistent_workers=True
    )
    assert len(loader) == 8
    for epoch in expected:
        same(epoch, loader)
    ours.epoch = 1
    same(expected[1], torch.utils.data.DataLoader(ours, batch_size=None))


def resumed(cohort: engine.Cohort, after: int, how: dict[str, Any]) -> Iterator[Any]:
    """Yield an epoch that was broken off, and went on in another process's place."""
    first = cohort.batches(**how)
    first.epoch = 1
    yield from itertools.islice(first, after)
    saved = json.loads(json.dumps(first.state_dict()))
    second = cohort.batches(**how)
    second.load_state_dict(saved)
    yield from second
    assert second.epoch == 2
    assert second.state_dict()["batch"] == 0


@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(after=st.integers(0, 8), batch_size=st.integers(5, 9), seed=st.integers(0, 9))
def test_a_saved_position_goes_on_where_it_was(
    hearts: engine.Cohort, after: int, batch_size: int, seed: int
) -> None:
    pytest.importorskip("torch")
    how = {"masks": MASKS, "batch_size": batch_size, "seed": seed, "buffer_bytes": 200_000}
    whole = hearts.batches(**how)
    whole.epoch = 1
    same(whole, resumed(hearts, min(after, len(whole) - 1), how))


def test_a_saved_position_counts_what_was_given_out_not_what_was_read_ahead(
    hearts: engine.Cohort,
) -> None:
    pytest.importorskip("torch")
    how = {"batch_size": 4, "seed": 6, "workers": 1}
    whole = hearts.batches(batch_size=4, seed=6)
    whole.epoch = 1
    same(whole, resumed(hearts, 3, how))
    state = whole.state_dict()
    with pytest.raises(WrongState, match="batch_size, seed, images differ"):
        hearts.batches("z == 0", batch_size=5, seed=7).load_state_dict(state)
    with pytest.raises(WrongState):
        whole.load_state_dict({"epoch": 0, "batch": 1})


def test_an_iteration_that_was_broken_off_begins_anew(hearts: engine.Cohort) -> None:
    batches = hearts.batches(batch_size=6)
    peek = next(batches.numpy())
    assert batches.state_dict()["batch"] == 1
    again = list(batches.numpy())
    assert len(again) == 6
    same([peek], again[:1])
    assert batches.epoch == 1


def test_image_and_mask_move_together_by_chance_of_their_own(hearts: engine.Cohort) -> None:
    torch = pytest.importorskip("torch")
    from torchvision.transforms import v2

    from engine.learning.datasets.transforms import augment_item

    nearest = v2.InterpolationMode.NEAREST
    turn = v2.RandomAffine(40, (0.2, 0.2), interpolation=nearest)
    change = v2.Compose([turn, v2.RandomHorizontalFlip()])
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 8:30] = 2
    results = []
    torch.manual_seed(1)
    before = torch.default_generator.get_state()
    for seed in range(4):
        image = mask[None].astype(np.float32)
        moved, labels = augment_item(change, image, mask, (seed,))
        assert labels is not None
        np.testing.assert_array_equal(moved[0], labels)
        assert set(np.unique(labels)) == {0, 2}
        results.append(labels.tobytes())
        again, _ = augment_item(change, mask[None].astype(np.float32), mask, (seed,))
        np.testing.assert_array_equal(moved, again)
    assert len(set(results)) == 4
    assert torch.equal(before, torch.default_generator.get_state()), (
        "the caller's chance is its own"
    )
    cropped = next(iter(hearts.batches(masks=MASKS, augment=v2.RandomCrop(64))))
    assert (cropped["image"].shape, cropped["mask"].shape) == ((8, 1, 64, 64), (8, 64, 64))
    assert cropped["mask"].dtype == torch.uint8
    for wrong in (
        lambda image, mask: image,
        lambda image, mask: (image[0], mask),
        lambda image, mask: (image, mask[:9]),
        lambda image, mask: (image, mask.float()),
    ):
        with pytest.raises(ParameterError, match="augment"):
            next(hearts.batches(masks=MASKS, augment=wrong).numpy())
    uneven = iter(range(64, 99))
    with pytest.raises(ParameterError, match="keeps to one size"):
        next(hearts.batches(augment=lambda image: image[:, : next(uneven)]).numpy())


def test_without_torch_arrays_are_there_and_tensors_are_refused(
    hearts: engine.Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(hearts.batches(masks=MASKS).numpy())
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "engine.learning.datasets.transforms", raising=False)
    batches = hearts.batches(masks=MASKS)
    assert type(batches).__name__ == "Batches"
    same(expected, batches.numpy())
    for ask in (
        lambda: next(iter(batches)),
        lambda: hearts.batches(augment=print),
        lambda: hearts.batches(workers=1),
    ):
        with pytest.raises(MissingExtra, match="cohort-engine\\[segment\\]"):
            ask()


def test_what_is_asked_for_and_is_not_there_is_said(
    hearts: engine.Cohort, pictures: engine.Cohort
) -> None:
    ids = hearts.images("t == 1").frame["image_id"].tolist()
    assert len(ids) == 9
    for images in (ids, "t == 1", hearts.images("t == 1")):
        seen = itertools.chain(*names(hearts.batches(images, masks=MASKS).numpy()))
        assert sorted(seen) == sorted(ids)
    with pytest.raises(NothingFound, match="1 of 2 images have no pixels here"):
        hearts.batches([ids[0], "nobody"])
    with pytest.raises(NothingFound, match="No image is chosen"):
        hearts.batches("t > 100")
    with pytest.raises(NoMask, match="but nothing"):
        pictures.batches(masks=MASKS)
    with pytest.raises(ParameterError, match=r"1 giant images \(files/giant.png, ...\)"):
        pictures.batches()
    for wrong in ({"batch_size": 0}, {"seed": -1}, {"buffer_bytes": 0}, {"workers": -1}):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            hearts.batches(**wrong)


def test_a_flipped_bit_speaks(hearts: engine.Cohort, tmp_path: Path) -> None:
    shutil.copytree(hearts.store.url, tmp_path / "cohort")
    shards = sorted((tmp_path / "cohort" / "pixels").glob("*/0/c/*/*/*/*/*"))
    assert len(shards) == 12
    data = bytearray(shards[3].read_bytes())
    data[100] ^= 1
    shards[3].write_bytes(data)
    batches = engine.open(tmp_path / "cohort").batches(masks=MASKS)
    with pytest.raises(CorruptStore):
        list(batches.numpy())
    shards[3].unlink()
    with pytest.raises(engine.EngineError, match="pixels"):
        list(batches.numpy())
