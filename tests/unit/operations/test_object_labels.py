"""Label images of objects: numbered as the table is, however an image was cut, whoever dies."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import tifffile
import yaozarrs
import zarr
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import engine
from engine.errors import CorruptStore, Interrupted
from engine.operations.base import LABELS, Image
from engine.operations.segment.objects import (
    PIECES,
    RUNS,
    join_pieces,
    measure_pieces,
    number_blocks,
    number_labels,
)
from tests.support.images import catalog, grey, put
from tests.support.inprocess_client import Killed, dying, here
from tests.support.label_operation import Bands, bands, check_labels, label_rows, read_labels

COUNTED = [False, True, True]
TALL = 2060, 40


class Counted(Bands):
    """Sort pixels by their grey value; number the pieces of the middle and of the bright ones."""

    name: ClassVar[str] = "counted"
    object_schema: ClassVar[pa.Schema] = pa.schema(
        [("label", pa.int32()), ("pieces", pa.list_(PIECES)), ("runs", pa.list_(RUNS))]
    )

    @property
    def has_object_labels(self) -> bool:
        """Return that there are objects."""
        return True

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Return the pieces of each class."""
        labels = super().measure(image)[LABELS]
        write = image.core_region
        assert write is not None
        found = measure_pieces(np.asarray(labels), COUNTED, write.start, image.full_shape or (0, 0))
        return {"label": np.arange(3), **found, LABELS: labels}

    def label_objects(
        self, labels: NDArray[np.uint8], numbers: Any | None = None
    ) -> NDArray[np.uint32]:
        """Number the pieces of both classes."""
        return number_labels(labels, COUNTED, numbers)

    def number_blocks(self, blocks: Sequence[pa.Table]) -> Sequence[Any]:
        """Join the pieces of blocks."""
        return number_blocks(blocks)


class _Shown(Counted):
    """Its objects' images in the place of its classes', for `read_labels`."""

    @property
    def label_name(self) -> str:
        """Return the name of the objects' images."""
        return Counted(**self.parameters).object_image.name


def check_objects(cohort: engine.Cohort, where: str | None = None) -> None:
    """Check that the objects of each image are numbered as those of the whole image would be."""
    found = read_labels(cohort, _Shown(), where)
    for image in cohort.images(where, stored=True):
        name = image.attrs["image_id"]
        assert np.array_equal(found[name], number_labels(bands(image.values), COUNTED)), name


def place_of(cohort: engine.Cohort) -> Path:
    return Path(cohort.store.url)


def object_shards(cohort: engine.Cohort, image: str) -> list[Path]:
    stack = catalog(cohort)[image]["stack"]
    name = Counted().object_image.name
    found = place_of(cohort).glob(f"pixels/{stack}.zarr/labels/{name}/*/c/**/*[0-9]")
    return sorted(path for path in found if path.is_file())


@pytest.fixture(scope="module")
def ingested(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images, a series, and a giant one of two blocks and three levels."""
    place = tmp_path_factory.mktemp("objects")
    for n in range(3):
        put(place / f"data/i{n}.png", grey(n))
    series = grey(30, (1, 2, 32, 48))
    tifffile.imwrite(place / "data/series.ome.tif", series, metadata={"axes": "TZYX"})
    tifffile.imwrite(place / "data/giant.tif", grey(40, TALL), tile=(256, 256))
    cohort = engine.create(place / "cohort", layout="{name}")
    toml = place / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + "\n[limits]\ngiant_bytes = 60000\n")
    assert cohort.ingest(place / "data", client=client).failed == 0
    return place / "cohort"


@pytest.fixture
def fresh(ingested: Path, tmp_path: Path) -> engine.Cohort:
    """A cohort without labels, of its own."""
    return engine.open(shutil.copytree(ingested, tmp_path / "cohort"))


@pytest.fixture(scope="module")
def made(ingested: Path, client: Client) -> Path:
    """A cohort with all labels: only to be read, or copied."""
    place = shutil.copytree(ingested, ingested.parent / "made")
    report = engine.open(place).run(Counted(), client=client)
    assert (report.planned, report.failed) == (6, 0)
    return place


@pytest.fixture
def broken(made: Path, tmp_path: Path) -> engine.Cohort:
    """A copy of it, to be broken."""
    return engine.open(shutil.copytree(made, tmp_path / "cohort"))


def test_objects_are_numbered_for_stacks_series_and_giants(made: Path) -> None:
    cohort = engine.open(made)
    check_labels(cohort, Counted())
    check_objects(cohort)
    report = cohort.verify()
    assert report.ok
    assert not report.leftovers
    giant = catalog(cohort)["data/giant.tif"]["stack"]
    tree = cohort.stacks()[f"/{giant}/labels/{Counted().object_image.name}"]
    finest = tree["0"]["labels"].values
    assert finest.dtype == np.uint32
    assert np.array_equal(tree["2"]["labels"].values, finest[..., ::4, ::4])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ome_zarr_models import open_ome_zarr
        from ome_zarr_models.v05.image_label import ImageLabel

        for stack in {row.stack for row in label_rows(cohort) if "/" not in row.stack}:
            labels = made / f"pixels/{stack}.zarr/labels"
            yaozarrs.validate_zarr_store(str(labels))
            label = labels / Counted().object_image.name
            yaozarrs.validate_zarr_store(str(label))
            assert isinstance(open_ome_zarr(zarr.open_group(label, mode="r")), ImageLabel)
            listed = json.loads((labels / "zarr.json").read_text())["attributes"]["ome"]["labels"]
            assert listed == sorted([Counted().label_name, Counted().object_image.name])


@pytest.mark.parametrize("lost", ["objects", "classes", "objects of a stack"])
def test_lost_labels_are_named_and_numbered_again(
    broken: engine.Cohort, client: Client, lost: str
) -> None:
    """Objects of a giant image are made of what is stored; all others by the operation."""
    shards = object_shards(broken, "data/i1.png" if "stack" in lost else "data/giant.tif")
    path = shards[0]
    if lost == "classes":
        path = Path(str(path).replace(Counted().object_image.name, Counted().label_name))
    path.write_bytes(path.read_bytes()[:-1])
    named = {problem.path for problem in broken.verify().problems}
    assert named == {str(path.relative_to(place_of(broken)))}
    due = broken.plan(Counted()).to_compute
    assert due in {"objects": [0], "classes": [1], "objects of a stack": [1, 2, 3]}[lost]
    report = broken.run(Counted(), client=client)
    assert report.planned == due
    check_labels(broken, Counted())
    check_objects(broken)
    assert not broken.verify().problems


def test_a_giant_that_failed_has_no_objects_until_it_succeeds(
    fresh: engine.Cohort, client: Client, tmp_path: Path
) -> None:
    sick = tmp_path / "giant.tif"
    sick.touch()
    fresh.run(Counted(fails=str(sick)), client=client)
    assert not object_shards(fresh, "data/giant.tif")
    sick.unlink()
    fresh.run(Counted(), client=client, retry_failed=True)
    check_objects(fresh)
    assert not fresh.verify().problems


def test_numbers_are_not_written_over_labels_that_are_others(
    broken: engine.Cohort, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever else changed them: what is stored and what the table says must be the same."""
    object_shards(broken, "data/giant.tif")[0].unlink()
    monkeypatch.setattr(
        Counted, "label_objects", lambda _, labels, n=None: number_labels(labels[:9], COUNTED, n)
    )
    with pytest.raises(CorruptStore, match="do not match the results"):
        broken.run(Counted(), client=client)
    monkeypatch.undo()
    with pytest.raises(Interrupted):
        broken.run(Counted(), client=client, stop=lambda: True)
    broken.run(Counted(), client=client)
    check_objects(broken)


@pytest.mark.parametrize(
    "step",
    [
        3,
        pytest.param(
            1, marks=[pytest.mark.faults, pytest.mark.every_point, pytest.mark.timeout(900)]
        ),
    ],
)
def test_a_death_at_any_point_leaves_numbers_that_are_the_tables(
    broken: engine.Cohort, tmp_path: Path, step: int
) -> None:
    """A block of the giant image is computed again: its numbers vanish, and are made anew."""
    classes = Path(
        str(object_shards(broken, "data/giant.tif")[0]).replace(
            Counted().object_image.name, Counted().label_name
        )
    )
    classes.write_bytes(b"torn")
    point, died = 1, True
    while died:
        place = tmp_path / f"at-{point}"
        copy = engine.open(shutil.copytree(place_of(broken), place))
        with here() as client, dying(str(place), point, after=bool(point % 2)) as crashed:
            with suppress(Killed):
                copy.run(Counted(), client=client)
            died = crashed()
        with here() as client:
            copy.run(Counted(), client=client)
        assert not copy.verify().problems, point
        check_objects(copy)
        shutil.rmtree(place)
        point += step
    assert point > 6, "there are several points"


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 99), st.integers(1, 40), st.integers(1, 40),
    st.integers(3, 17), st.integers(3, 17),
)  # fmt: skip
def test_blocks_of_any_size_are_numbered_as_the_whole_and_as_the_table(
    seed: int, height: int, width: int, down: int, across: int
) -> None:
    labels = bands(np.kron(grey(seed, (1, height, width)), np.ones((1, 2, 2), np.uint8)))
    blocks, places = [], []
    for y in range(0, labels.shape[0], down):
        for x in range(0, labels.shape[1], across):
            cut = labels[y : y + down, x : x + across]
            found = measure_pieces(cut, COUNTED, (y, x), labels.shape)
            columns = {"label": np.arange(3, dtype=np.int32), **found}
            blocks.append(pa.table({name: columns[name] for name in Counted.object_schema.names}))
            places.append((slice(y, y + down), slice(x, x + across)))
    together = np.zeros(labels.shape, np.uint32)
    for place, numbers in zip(places, number_blocks(blocks), strict=True):
        together[place] = number_labels(labels[place], COUNTED, numbers)
    assert np.array_equal(together, number_labels(labels, COUNTED))
    every = pa.concat_tables(blocks)
    listed, counts = join_pieces(every, every["label"].to_numpy(), 3)
    areas = [area for one in listed.to_pylist() for area in (piece["area_px"] for piece in one)]
    assert list(np.bincount(together.ravel())[1:]) == areas
    assert counts.sum() == together.max()
    assert not together[labels == 0].any()
