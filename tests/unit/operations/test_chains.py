"""Operations that read the results of others: what is affected is computed again, and only that."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from distributed import Client
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label

import engine
from engine.operations.base import Image, ImageFailed, Operation
from engine.operations.chains.binding import NoUpstream, names_in_order
from engine.operations.instances import InstanceOperation, instance_schema
from engine.store.labels.images import index_bytes
from jobs.night import run_nightly
from tests.support.images import computed, put
from tests.support.inprocess_client import Killed, dying, here
from tests.support.operations import count_call, register


class Spots(InstanceOperation):
    """Connected bright pixels; fails on images whose source has a word in it."""

    name: ClassVar[str] = "spots"
    object_schema: ClassVar[pa.Schema] = instance_schema(pa.schema([]))
    non_key_parameters: ClassVar[frozenset[str]] = frozenset({"log", "fails"})

    above: int = 100
    log: str = ""
    fails: str = ""

    @property
    def halo_px(self) -> int:
        """As large as the spots."""
        return 40

    def find(self, image: Image) -> tuple[NDArray[Any], Mapping[str, Any]]:
        """Label them."""
        if self.log:
            count_call(self.log, f"spots {image.source}")
        if self.fails and Path(self.fails).exists() and Path(self.fails).name in image.source:
            raise ImageFailed("asked_to")
        return label(image.pixels[0] > self.above), {}


class Light(Operation):
    """Sum of the pixels of each object."""

    name: ClassVar[str] = "light"
    object_schema: ClassVar[pa.Schema] = pa.schema([("spots", pa.int64()), ("light", pa.float64())])
    inputs: ClassVar[tuple[str, ...]] = ("content",)
    object_name: ClassVar[str] = "spots"
    order_columns: ClassVar[tuple[str, ...]] = ("spots",)
    upstream_parameters: ClassVar[tuple[str, ...]] = ("objects",)
    whole_objects: ClassVar[str | None] = "objects"
    non_key_parameters: ClassVar[frozenset[str]] = frozenset({"log"})

    objects: str = "spots"
    factor: float = 1.0
    log: str = ""

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Return the light of the objects that begin in the core region."""
        if self.log:
            count_call(self.log, f"light {image.source}")
        (labels,), (rows,) = image.labels.values(), image.objects.values()
        assert labels.shape == image.pixels.shape[1:]
        first = rows["first"].to_numpy()
        assert np.array_equal(np.argsort(first), np.arange(len(first)))
        width = (image.full_shape or labels.shape)[1]
        core = image.core_region
        assert core is not None
        y, x = np.divmod(first, width)
        mine = (y >= core.start[0]) & (y < core.stop[0])
        mine &= (x >= core.start[1]) & (x < core.stop[1])
        numbers = np.flatnonzero(mine) + 1
        sums = np.bincount(labels.ravel(), image.pixels[0].ravel(), len(first) + 1)
        areas = np.bincount(labels.ravel(), minlength=len(first) + 1)
        assert np.array_equal(areas[numbers], rows["area_px"].to_numpy()[mine])  # all of each
        return {"spots": numbers, "light": sums[numbers] * self.factor}


def scene(seed: int, *shape: int) -> NDArray[np.uint8]:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    return np.where(smooth > 0.15, 150 + 20 * (smooth > 0.2), 20).astype(np.uint8)


@pytest.fixture
def made(tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> engine.Cohort:
    """Five images, one of them a giant of four blocks."""
    register(monkeypatch, "spots", Spots)
    register(monkeypatch, "light", Light)
    for n in range(4):
        put(tmp_path / f"data/i{n}.png", scene(n, 60, 70))
    tifffile.imwrite(tmp_path / "data/giant.tif", scene(9, 2100, 2090), tile=(256, 256))
    cohort = engine.create(tmp_path / "cohort", layout="{name}")
    toml = tmp_path / "cohort" / "cohort.toml"
    toml.write_text(toml.read_text() + "\n[limits]\ngiant_bytes = 60000\n")
    assert cohort.ingest(tmp_path / "data", client=client).failed == 0
    return cohort


def check(cohort: engine.Cohort, above: int = 100, factor: float = 1.0) -> None:
    """Check the sums of all images against scipy's."""
    table = cohort.table("light")
    for image in cohort.images(stored=True):
        pixels = image.values[0]
        labels = label(pixels > above)
        right = ndimage.sum_labels(pixels, labels, range(1, labels.max() + 1)) * factor
        rows = table[table["image_id"] == image.attrs["image_id"]]
        assert rows["spots"].tolist() == list(range(1, labels.max() + 1))
        assert np.allclose(rows["light"], right), image.attrs["image_id"]


def test_what_hangs_on_a_change_is_computed_again(
    made: engine.Cohort, client: Client, log: str, tmp_path: Path
) -> None:
    with pytest.raises(NoUpstream, match="cohort run COHORT spots"):
        made.plan("light")
    spots = made.operation("spots", log=log)
    assert made.run(spots, client=client, declare=True).failed == 0
    light = made.operation("light", log=log)
    assert made.plan(light).to_compute == 5
    report = made.run(light, client=client, declare=True)
    assert (report.failed, report.waiting) == (0, 0)
    check(made)
    assert [o.name for o in made.declared()] == ["spots", "light"]
    computed(log)
    made.run(client=client)
    assert computed(log) == []
    assert made.verify().ok
    assert made.status().complete

    # a new image: both, once
    put(tmp_path / "data/i7.png", scene(7, 50, 40))
    made.ingest(client=client)
    assert made.plan(light).settled["waiting"] == 1
    (state,) = (key for key in made.status().keys if key.operation == "light")
    assert (state.done, state.failed, state.missing) == (5, 0, 1)
    made.run(client=client)
    assert sorted(computed(log)) == ["light data/i7.png", "spots data/i7.png"]
    check(made)

    # a parameter of the second one
    made.run(made.operation("light", factor=2.0), client=client, declare=True)
    assert not [line for line in computed(log) if line.startswith("spots")]
    check(made, factor=2.0)

    # a parameter of the first one: everything, after the first one ran
    brighter = made.operation("spots", above=160)
    made.run(brighter, client=client, declare=True)
    plan = made.plan("light")
    assert plan.causes == {"upstream": 6}
    assert plan.changes == {"spots above": (100, 160)}
    made.run(client=client)
    check(made, above=160, factor=2.0)
    assert made.verify().ok
    assert made.status().complete


def test_an_upstream_failure_is_a_row_and_heals_by_itself(
    made: engine.Cohort, client: Client, log: str, tmp_path: Path
) -> None:
    flag = tmp_path / "i1"
    flag.touch()
    spots = made.operation("spots", log=log, fails=str(flag))
    assert made.run(spots, client=client, declare=True).failed == 1
    light = made.operation("light", log=log)
    report = made.run(light, client=client, declare=True)
    assert dict(report.reasons) == {"upstream_failed: spots": 1}
    rows = made.table("light_by_image").set_index("image_id")
    assert rows.loc["data/i1.png", "reason"] == "upstream_failed: spots"
    flag.unlink()
    assert made.run(spots, client=client, retry_failed=True).failed == 0
    computed(log)
    assert made.run(light, client=client).failed == 0  # without retry_failed
    assert computed(log) == ["light data/i1.png"]
    check(made)


def test_a_trial_is_named_by_its_key(made: engine.Cohort, client: Client) -> None:
    made.run(made.operation("spots"), client=client, declare=True)
    trial = made.operation("spots", above=160)
    made.run(trial, client=client)
    light = made.operation("light", objects=f"spots@{trial.key[:8]}")
    assert light.key != made.operation("light").key
    report = made.run(light, client=client)
    assert report.failed == 0
    table = made.table(report.tables[0])
    assert len(table) == len(made.table(f"spots@{trial.key[:8]}"))
    with pytest.raises(NoUpstream, match="no results"):
        made.operation("light", objects="spots@00000000")
    assert made.status().complete


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(23, marks=pytest.mark.timeout(600)),
        pytest.param(
            1, marks=[pytest.mark.faults, pytest.mark.every_point, pytest.mark.timeout(1800)]
        ),
    ],
)
def test_a_death_at_any_point_of_a_chain_costs_nothing(
    tmp_path: Path, client: Client, log: str, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """The driver dies in either run; what is left is computed once, and the tables are right."""
    register(monkeypatch, "spots", Spots)
    register(monkeypatch, "light", Light)
    for n in range(2):
        put(tmp_path / f"data/i{n}.png", scene(n, 40, 50))
    tifffile.imwrite(tmp_path / "data/giant.tif", scene(9, 2060, 40), tile=(256, 256))
    start = engine.create(tmp_path / "cohort", layout="{name}")
    toml = tmp_path / "cohort" / "cohort.toml"
    toml.write_text(
        toml.read_text() + "\n[limits]\ngiant_bytes = 60000\n\n[operations.spots]\n"
        "\n[operations.light]\n"
    )
    assert start.ingest(tmp_path / "data", client=client).failed == 0
    point, died = 1, True
    while died:
        place = tmp_path / f"at-{point}"
        copy = engine.open(shutil.copytree(tmp_path / "cohort", place))
        logged = {"log": log}
        with here() as near, dying(str(place), point, after=bool(point % 2)) as crashed:
            with suppress(Killed):
                copy.run(copy.operation("spots", **logged), client=near)
                copy.run(copy.operation("light", **logged), client=near)
            died = crashed()
        with here() as near:
            copy.run(copy.operation("spots", **logged), client=near)
            assert copy.run(copy.operation("light", **logged), client=near).waiting == 0
        once = {f"{name} data/{image}" for name in ("spots", "light")
                for image in ("i0.png", "i1.png")}  # fmt: skip
        assert once <= set(computed(log))
        assert not copy.verify().problems, point
        check(copy)
        assert copy.status().complete
        shutil.rmtree(place)
        point += step
    assert point > 200, "there are 259 points"


def test_declared_operations_run_after_those_that_they_read(
    made: engine.Cohort, client: Client, tmp_path: Path
) -> None:
    toml = Path(made.store.url, "cohort.toml")
    toml.write_text(
        toml.read_text() + '\n[operations.light]\nobjects = "spots"\n\n[operations.spots]\n'
        "\n[operations.nonsense]\n"
    )
    cohort = engine.open(made.store.url)
    assert names_in_order(cohort.config.operations) == ["spots", "light", "nonsense"]
    toml.write_text(toml.read_text().replace("[operations.nonsense]\n", ""))
    cohort = engine.open(made.store.url)
    put(tmp_path / "data/i8.png", scene(8, 50, 40))
    summary = run_nightly(cohort, client, events=engine.ProgressListener())
    steps = [(step.step, step.code) for step in summary.steps]
    assert steps[1:] == [("run spots", 0), ("run light", 0), ("qc spots", 0), ("qc light", 0)]
    assert summary.complete
    check(cohort)


def test_cycles_are_refused(made: engine.Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = Path(made.store.url, "cohort.toml")
    toml.write_text(toml.read_text() + '\n[operations.light]\nobjects = "light"\n')
    with pytest.raises(NoUpstream, match="light -> light"):
        engine.open(made.store.url).operation("light")


def test_functions_read_results_too(made: engine.Cohort, client: Client) -> None:
    made.run(made.operation("spots"), client=client, declare=True)

    def joint(image: Any, labels: Any, objects: Any, scale: float = 1.0) -> dict[str, Any]:
        rows = objects["spots"]
        return {"count": int(len(np.unique(labels["spots"])) - 1), "rows": len(rows)}

    report = made.map(
        joint, name="joint", schema={"count": int, "rows": int}, upstream=["spots"], client=client
    )
    given = engine.from_function(
        joint, name="joint", schema={"count": int, "rows": int}, upstream=[made.operation("spots")]
    )
    assert made.plan(given).to_compute == 0
    assert report.failed == 0
    table = made.table(report.tables[0])
    small = table[~table["image_id"].str.contains("giant")]
    assert (small["count"] == small["rows"]).all()
    assert len(table) == 8  # a row for each image, and for each block


def test_a_trial_that_cannot_be_made_again_is_named(
    tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "data/i.png", scene(1, 60, 70))
    cohort = engine.create(tmp_path / "cohort", layout="{name}")
    cohort.ingest(tmp_path / "data", client=client)
    parts = cohort.map(lambda image: label(image[0] > 100), name="parts", labels="instances",
                       client=client)  # fmt: skip
    with pytest.raises(NoUpstream, match=r"'parts@\w{8}' \(objects\), whose operation is neither"):
        cohort.operation("measure", objects=parts.tables[0])
    register(monkeypatch, "spots", Spots)
    spots = cohort.run(cohort.operation("spots", above=120), client=client)
    trial = f"spots@{spots.key[:8]}"
    assert cohort.operation("measure", objects=trial).upstream["objects"].key == spots.key
    monkeypatch.setattr(Spots, "version", 2)
    with pytest.raises(NoUpstream, match=f"'{trial}' .*version 1 is not the installed one"):
        cohort.operation("measure", objects=trial)
    monkeypatch.setattr(Spots, "version", 1)
    monkeypatch.setattr(Spots, "upstream_parameters", ("fails",))
    with pytest.raises(NoUpstream, match=f"'{trial}' .*reads the results of other operations now"):
        cohort.operation("measure", objects=trial)


def test_lost_labels_of_the_first_are_waited_for(
    made: engine.Cohort, client: Client, tmp_path: Path
) -> None:
    made.run(made.operation("spots"), client=client, declare=True)
    for folder in (tmp_path / "cohort/pixels").glob("*.zarr/labels/spots@*"):
        shutil.rmtree(folder / "0/c")
    assert made.plan("light").settled == {"waiting": 5}
    made.run("spots", client=client)
    assert made.run("light", client=client).failed == 0
    check(made)


def test_an_index_that_lacks_labels_is_completed(
    made: engine.Cohort, client: Client, log: str
) -> None:
    """As after a death between the commit of labels and the change of their stack's index."""
    spots = made.operation("spots", log=log)
    made.run(spots, client=client, declare=True)
    trial = made.operation("spots", above=160)
    made.run(trial, client=client)
    for index in Path(made.store.url).glob("pixels/*/labels/zarr.json"):
        whole = index.read_bytes()
        first, second = sorted(f"spots@{one.key[:8]}" for one in (spots, trial))
        index.write_bytes(index_bytes([first]))
        assert "lacks label images" in made.verify().problems[0].text
        made.run(next(one for one in (spots, trial) if one.key[:8] in second), client=client)
        assert index.read_bytes() == whole
        assert made.verify().problems == ()
