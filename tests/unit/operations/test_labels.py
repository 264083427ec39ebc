"""Label images: on the stack's grid, whole at any moment, and never another image's."""

from __future__ import annotations

import json
import shutil
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaozarrs
import zarr
from distributed import Client

import engine
from engine.errors import CorruptStore, MissingObject
from engine.store.labels.images import index_path
from engine.store.maintenance.problems import STALE
from tests.support.images import catalog, grey, put
from tests.support.inprocess_client import Killed, dying, here, meanwhile
from tests.support.label_operation import Bands, check_labels, label_rows, read_labels

IMAGES = 9


def write_sources(folder: Path) -> Path:
    """Write a stack of images, a series, and a giant one of two by two blocks."""
    for n in range(IMAGES):
        put(folder / f"i{n}.png", grey(n))
    shutil.copy(folder / "i1.png", folder / "copy-of-i1.png")
    tifffile.imwrite(folder / "series.ome.tif", grey(30, (2, 3, 32, 48)), metadata={"axes": "TZYX"})
    tifffile.imwrite(folder / "giant.tif", grey(40, (2060, 2100)), tile=(256, 256))
    return folder


@pytest.fixture(scope="module")
def ingested(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("labels")
    cohort = engine.create(place / "cohort", layout="{name}")
    toml = place / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + "\n[limits]\ngiant_bytes = 1000000\nshard_images = 4\n")
    assert cohort.ingest(write_sources(place / "data"), client=client).failed == 0
    return place / "cohort"


@pytest.fixture(scope="module")
def made(ingested: Path, client: Client) -> engine.Cohort:
    """A cohort with the labels of all its images: only to be read."""
    cohort = engine.open(shutil.copytree(ingested, ingested.parent / "made"))
    report = cohort.run(Bands(), client=client)
    assert report.failed == 0
    return cohort


@pytest.fixture
def broken(made: engine.Cohort, tmp_path: Path) -> engine.Cohort:
    """A copy of it, to be broken."""
    return engine.open(shutil.copytree(place_of(made), tmp_path / "cohort"))


@pytest.fixture
def fresh(ingested: Path, tmp_path: Path) -> engine.Cohort:
    """A cohort without labels, of its own."""
    return engine.open(shutil.copytree(ingested, tmp_path / "cohort"))


def place_of(cohort: engine.Cohort) -> Path:
    return Path(cohort.store.url)


def shards_of(cohort: engine.Cohort, image: str) -> list[Path]:
    """Return the shards of the labels of the stack that an image is in."""
    stack = catalog(cohort)[image]["stack"]
    return sorted(place_of(cohort).glob(f"pixels/{stack}.zarr/labels/*/0/c/**/*[0-9]"))


def files_only(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.is_file()]


def test_labels_are_those_of_the_pixels_for_stacks_series_and_giants(made: engine.Cohort) -> None:
    found = check_labels(made, Bands())
    assert len(found) == IMAGES + 1 + 6 + 1
    assert {len(np.unique(labels)) for labels in found.values()} == {3}
    report = made.verify()
    assert report.ok
    assert not report.problems
    assert not report.leftovers
    giant = catalog(made)["data/giant.tif"]["stack"]
    tree = made.stacks()[f"/{giant}/labels/{Bands().label_name}"]
    finest = tree["0"]["labels"].values
    assert np.array_equal(tree["1"]["labels"].values, finest[..., ::2, ::2])
    assert tree["0"]["labels"].dims == ("t", "c", "y", "x")


def test_others_accept_the_label_images(made: engine.Cohort) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from ome_zarr_models import open_ome_zarr
        from ome_zarr_models.v05.image_label import ImageLabel
        from ome_zarr_models.v05.labels import Labels
    stacks = sorted({row.stack for row in label_rows(made) if "/" not in row.stack})
    assert len(stacks) == 3
    for stack in stacks:
        place = place_of(made) / "pixels" / f"{stack}.zarr"
        label = place / "labels" / Bands().label_name
        for path in (place, place / "labels", label):
            yaozarrs.validate_zarr_store(str(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert isinstance(open_ome_zarr(zarr.open_group(place / "labels", mode="r")), Labels)
            opened = open_ome_zarr(zarr.open_group(label, mode="r"))
        assert isinstance(opened, ImageLabel)
        ome = json.loads((label / "zarr.json").read_text())["attributes"]["ome"]
        assert ome["image-label"]["colors"][1] == {"label-value": 1, "rgba": [230, 159, 0, 255]}
        images = json.loads((place / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
        assert ome["multiscales"][0]["axes"] == images[0]["axes"]
        assert len(ome["multiscales"][0]["datasets"]) == len(images[0]["datasets"])


def test_a_later_image_joins_the_shard_and_the_others_stay(
    fresh: engine.Cohort, client: Client
) -> None:
    fresh.run(Bands(), client=client, limit=5)
    before = {path: path.read_bytes() for path in files_only(shards_of(fresh, "data/i1.png"))}
    report = fresh.run(Bands(), client=client)
    assert report.planned == IMAGES + 1 + 6 + 1 - 5
    check_labels(fresh, Bands())
    assert not fresh.verify().problems
    after = files_only(shards_of(fresh, "data/i1.png"))
    assert len(after) > len(before)
    paths = [row.path for row in label_rows(fresh)]
    assert len(paths) == len(set(paths)), "what shards were is forgotten"
    assert fresh.plan(Bands()).to_compute == 0


def test_a_failed_image_has_no_labels_until_it_succeeds(
    fresh: engine.Cohort, client: Client, tmp_path: Path
) -> None:
    sick = tmp_path / "i2.png"
    sick.touch()
    report = fresh.run(Bands(fails=str(sick)), client=client)
    assert report.failed == 1
    check_labels(fresh, Bands(), "name != 'i2'")
    assert not read_labels(fresh, Bands(), "name == 'i2'")["data/i2.png"].any()
    sick.unlink()
    report = fresh.run(Bands(), client=client, retry_failed=True)
    assert report.planned == 1
    check_labels(fresh, Bands())
    assert not fresh.verify().problems


def test_lost_metadata_of_labels_are_named_and_made_again(
    made: engine.Cohort, client: Client, tmp_path: Path
) -> None:
    """Each file in turn: a run that has nothing to compute makes it again, byte by byte."""
    cohort = engine.open(shutil.copytree(place_of(made), tmp_path / "cohort"))
    place = place_of(cohort)
    files = sorted(place.glob("pixels/*.zarr/labels/**/zarr.json"))
    assert len(files) > 9
    everything = {path: path.read_bytes() for path in files}
    for damage in ("gone", "gone together"):
        for group in [[path] for path in files] if damage == "gone" else [files]:
            for path in group:
                path.unlink()
            named = {place / problem.path for problem in cohort.verify().problems}
            assert named == {*group}
            assert cohort.plan(Bands()).to_compute == 0
            assert not any(path.exists() for path in group)
            assert cohort.run(Bands(), client=client).planned == 0
            assert {path: path.read_bytes() for path in files} == everything
            assert cohort.verify().problems == ()
    check_labels(cohort, Bands())


def test_lost_labels_are_named_and_computed_again(
    broken: engine.Cohort, client: Client, tmp_path: Path
) -> None:
    lost = files_only(shards_of(broken, "data/i1.png"))[0]
    torn = files_only(shards_of(broken, "data/giant.tif"))[3]
    index = place_of(broken) / index_path(catalog(broken)["data/i1.png"]["stack"])
    lost.unlink()
    torn.write_bytes(torn.read_bytes()[:-9])
    index.unlink()
    told = {problem.path: problem.kind for problem in broken.verify().problems}
    assert told == {
        str(lost.relative_to(place_of(broken))): "missing",
        str(torn.relative_to(place_of(broken))): "corrupt",
        str(index.relative_to(place_of(broken))): STALE,
    }
    with pytest.raises((MissingObject, CorruptStore)):
        read_labels(broken, Bands())
    assert broken.plan(Bands(), limit=3).to_compute == 0, "a part of a shard would lose the rest"
    plan = broken.plan(Bands())
    assert plan.causes.keys() == {"labels"}
    report = broken.run(Bands(), client=client)
    assert 2 <= report.planned <= 6
    check_labels(broken, Bands())
    assert not broken.verify().problems


def test_every_flipped_bit_of_labels_is_named(broken: engine.Cohort, client: Client) -> None:
    rng = np.random.default_rng(5)
    labels = files_only(sorted(place_of(broken).glob("pixels/*/labels/**/*")))
    kinds = {(path.parent.name, path.name): path for path in labels}
    for path in kinds.values():
        whole = path.read_bytes()
        bit = int(rng.integers(len(whole) * 8))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        named = {problem.path for problem in broken.verify().problems}
        assert str(path.relative_to(place_of(broken))) in named, (path, bit)
        path.write_bytes(whole)
    shard = files_only(shards_of(broken, "data/i1.png"))[0]
    whole = bytearray(shard.read_bytes())
    whole[3] ^= 4
    shard.write_bytes(whole)
    with pytest.raises(CorruptStore):
        read_labels(broken, Bands())
    again = engine.create(place_of(broken).parent / "elsewhere")
    assert not again.verify().problems


@pytest.mark.parametrize(
    "step",
    [
        13,
        pytest.param(
            1, marks=[pytest.mark.faults, pytest.mark.every_point, pytest.mark.timeout(900)]
        ),
    ],
)
def test_a_death_at_any_point_leaves_whole_shards_and_a_run_that_goes_on(
    fresh: engine.Cohort, tmp_path: Path, step: int
) -> None:
    """Some labels are there already, so shards are made anew and replaced."""
    where = "name in ['i0', 'i1', 'i2', 'i3', 'i4', 'i5', 'i6']"
    with here() as client:
        fresh.run(Bands(), client=client, where="name == 'i0' or name == 'i5'")
    point, died = 4 if step > 1 else 1, True
    while died:
        place = tmp_path / f"at-{point}"
        copy = engine.open(shutil.copytree(place_of(fresh), place))
        with here() as client, dying(str(place), point, after=bool(point % 2)) as crashed:
            with suppress(Killed):
                copy.run(Bands(), client=client, where=where)
            died = crashed()
        problems = copy.verify().problems
        assert {problem.kind for problem in problems} <= {STALE}, (point, problems)
        with here() as client:
            copy.run(Bands(), client=client, where=where)
        assert not copy.verify().problems, point
        check_labels(copy, Bands(), where)
        shutil.rmtree(place)
        point += step
    assert point > 20, "there are many points"


@pytest.mark.parametrize(
    "step",
    [
        30,
        pytest.param(
            1, marks=[pytest.mark.faults, pytest.mark.every_point, pytest.mark.timeout(1800)]
        ),
    ],
)
def test_another_driver_at_any_point_loses_no_image(
    fresh: engine.Cohort, tmp_path: Path, step: int
) -> None:
    """Both add images to the same shards, one of which is there already."""
    with here() as client:
        fresh.run(Bands(), client=client, where="name == 'i0' or name == 'i5'")
    point, came = 3, True
    while came:
        place = tmp_path / f"at-{point}"
        shutil.copytree(place_of(fresh), place)

        def other(place: Path = place) -> None:
            with here() as client:
                engine.open(place).run(
                    Bands(), client=client, where="name in ['i2', 'i4', 'i6', 'i8']"
                )

        mine = engine.open(place)
        with here() as client, meanwhile(str(place), point, other) as has_come:
            mine.run(Bands(), client=client, where="name in ['i1', 'i2', 'i6', 'i7']")
        came = has_come()
        if came:
            check_labels(mine, Bands(), "name in ['i0', 'i1', 'i2', 'i4', 'i5', 'i6', 'i7', 'i8']")
            assert not mine.verify().problems, point
            paths = [row.path for row in label_rows(mine)]
            assert len(paths) == len(set(paths)), point
        shutil.rmtree(place)
        point += step
    assert point > 20


def test_leftovers_of_labels_are_collected(broken: engine.Cohort) -> None:
    place = place_of(broken)
    shard = files_only(shards_of(broken, "data/i1.png"))[0]
    stray = shard.parent / "99"
    stray.write_bytes(b"what a killed driver left")
    aside = place / ".staging/labels-0123456789ab-deadbeef"
    aside.write_bytes(b"what a killed worker left")
    left = {str(path.relative_to(place)) for path in (stray, aside)}
    assert left <= set(broken.verify().leftovers)
    removed = {one.path for one in broken.gc(older_than_s=0)}
    assert left <= removed
    assert not stray.exists()
    check_labels(broken, Bands())


def test_other_parameters_have_labels_of_their_own(broken: engine.Cohort, client: Client) -> None:
    other = Bands(share=0.5)
    broken.run(other, client=client, limit=1)
    stack = catalog(broken)["data/copy-of-i1.png"]["stack"]
    index = json.loads((place_of(broken) / index_path(stack)).read_text())
    names = index["attributes"]["ome"]["labels"]
    assert names == sorted({Bands().label_name, other.label_name})
    check_labels(broken, Bands())
