"""Grey plane that is measured: of colours their luminance, of stains a chosen one, also by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client
from typer.testing import CliRunner

import engine
from engine.errors import ParameterError
from engine.operations.base import Image, ImageFailed
from engine.operations.channels import NoSuchChannel
from engine.operations.functions.function import from_function
from engine.runs.input_digests import image_inputs
from engine.store.catalog.derived import derive_columns
from engine.store.catalog.tables import ImageRow, image_table
from jobs.cli import app
from tests.support.images import catalog, discs, grey, put
from tests.support.inprocess_client import here

FIND = engine.circles(radius_px=(5, 14))


@pytest.mark.parametrize("giant_bytes", [1 << 30, 10_000])
def test_stains_need_a_choice_and_colours_do_not(
    tmp_path: Path, client: Client, giant_bytes: int
) -> None:
    grey = discs(3)
    planes = [grey, np.zeros_like(grey), grey]
    stains = {"imagej": True, "metadata": {"axes": "CYX"}}
    put(tmp_path / "in/rgb.tif", np.stack(planes, -1), photometric="rgb")
    put(tmp_path / "in/stains.tif", np.stack(planes), **stains)
    put(tmp_path / "in/alpha.png", np.stack([grey, np.full_like(grey, 255)], -1))
    put(tmp_path / "in/pair.tif", np.stack([grey, np.full_like(grey, 255)]), **stains)
    put(tmp_path / "in/grey.png", grey)
    cohort = engine.create(tmp_path / "c", layout="{name}")
    with (tmp_path / "c/cohort.toml").open("a") as toml:
        toml.write(f"\n[limits]\ngiant_bytes = {giant_bytes}\n")
    cohort.ingest(tmp_path / "in", client=client)
    rows = {row["source"].removeprefix("in/"): row for row in catalog(cohort).values()}
    assert rows["rgb.tif"]["content"] == rows["stains.tif"]["content"]
    assert rows["alpha.png"]["content"] == rows["pair.tif"]["content"]
    cohort.run(FIND, client=client)
    found = cohort.table("circles_by_image").set_index("name")
    assert found.status.to_dict() == {
        "rgb": "done",
        "stains": "failed",
        "alpha": "done",
        "pair": "failed",
        "grey": "done",
    }
    assert set(found.reason.dropna()) == {"channel_needed"}
    assert found["count"]["grey"] == found["count"]["alpha"] == found["count"]["rgb"]
    assert found["count"]["grey"] > 0
    assert cohort.plan(FIND).to_compute == 0
    chosen = cohort.run(engine.circles(radius_px=(5, 14), channel=0), client=client)
    assert chosen.failed == 0
    of_one = cohort.table(f"circles_by_image@{chosen.key[:8]}").set_index("name")
    assert set(of_one["count"]) == {found["count"]["grey"]}


def test_an_array_of_three_or_four_is_colours_and_of_two_is_not() -> None:
    grey = discs(3)
    for count in (3, 4):
        assert len(FIND(np.stack([grey] * count))) == len(FIND(grey)) > 0
    with pytest.raises(ImageFailed, match="channel_needed"):
        FIND.measure(Image(np.stack([grey] * 2)))


NAMED = [("a", ("DAPI", "CD3")), ("b", ("CD3", "DAPI")), ("c", ("CD3", "GFP")), ("d", None)]


def make_stained(folder: Path, pairs: list[tuple[str, tuple[str, str] | None]]) -> engine.Cohort:
    """Ingest images of equal pixels, discs in the first channel, with other names of channels."""
    for name, channels in pairs:
        told = {} if channels is None else {"Channel": {"Name": list(channels)}}
        pixels = np.stack([discs(3), grey(1, (128, 128))])
        put(folder / f"in/{name}.ome.tif", pixels, metadata={"axes": "CYX", **told})
    cohort = engine.create(folder / "c", layout="{name}.ome")
    with here() as client:
        cohort.ingest(folder / "in", client=client)
    return cohort


def test_a_channel_is_found_by_name_in_each_image(tmp_path: Path) -> None:
    cohort = make_stained(tmp_path, NAMED)
    assert len({row["content"] for row in catalog(cohort).values()}) == 1
    by_number, by_name = (engine.circles(radius_px=(5, 14), channel=c) for c in (0, "DAPI"))
    with here() as client:
        assert cohort.plan(by_number).causes == {"new": 4}
        assert len(cohort.plan(by_number).items) == 1  # equal pixels are computed once
        assert len(cohort.plan(by_name).items) == 3
        report = cohort.run(by_name, client=client)
        assert dict(report.reasons) == {"no_such_channel": 2}
        assert cohort.plan(by_name).to_compute == 0
        cohort.run(by_number, client=client)
    assert by_number.key != by_name.key
    table = cohort.table("circles_by_image").set_index("name")
    assert table.reason.dropna().to_dict() == {
        "c": "no_such_channel", "d": "no_such_channel",
    }  # fmt: skip
    assert table["count"]["a"] == len(FIND(discs(3))) > 0
    assert table["count"]["b"] != table["count"]["a"]  # noise, in the second channel
    for image in cohort.images()[:2]:  # tried on one image as in the run
        name = image.attrs["image_id"].split("/")[1].removesuffix(".ome.tif")
        assert len(by_name(image)) == table["count"][name]
    assert len(by_name(cohort.images()[1].sel(c=["DAPI"]))) == table["count"]["b"]
    with here() as client:
        cohort.qc(by_name, client=client)
    assert cohort.verify().problems == ()


def test_a_name_that_no_selected_image_has_is_refused_with_the_names_there_are(
    tmp_path: Path,
) -> None:
    cohort = make_stained(tmp_path, NAMED)
    for where, name, told in (
        (None, "dapi", "Channels: 'CD3', 'DAPI', 'GFP'"),
        ("name == 'c'", "DAPI", "Channels: 'CD3', 'GFP'"),
        ("name == 'd'", "DAPI", "channels under"),
    ):
        operation = engine.circles(radius_px=(5, 14), channel=name)
        with pytest.raises(NoSuchChannel, match=told):
            cohort.plan(operation, where=where)
        with here() as client, pytest.raises(NoSuchChannel, match=told):
            cohort.run(operation, client=client, where=where)
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "c"), "circles", "--channel", "CD8"])
    assert done.exit_code == 2
    assert "No selected image has a channel 'CD8'. Channels: 'CD3'" in " ".join(done.stderr.split())
    assert cohort.status().keys == ()
    with pytest.raises(ParameterError, match="a number from 0, or a name"):
        engine.circles(channel=-1)


def test_a_function_reads_the_names_of_channels_if_it_selects_by_them(tmp_path: Path) -> None:
    cohort = make_stained(tmp_path, NAMED[:2])

    def level(image: xr.DataArray) -> dict[str, float]:
        return {"level": float(image.sel(c="DAPI").mean())}

    def first(image: xr.DataArray) -> dict[str, float]:
        return {"level": float(image.isel(c=0).mean("x").mean()), "named": "DAPI" in repr(image)}

    with here() as client:
        cohort.map(level, name="level", schema={"level": float}, client=client)
        cohort.map(first, name="first", schema={"level": float, "named": bool}, client=client)
    tables = {name.partition("@")[0]: name for name in cohort.tables()}
    levels = cohort.table(tables["level"]).set_index("name").level
    image = cohort.images()[0]
    assert levels["a"] == float(image.sel(c="DAPI").mean())
    assert levels["b"] == float(image.isel(c=1).mean())
    firsts = cohort.table(tables["first"]).set_index("name")
    assert firsts.level["a"] == firsts.level["b"] == float(image.isel(c=0).mean())
    assert not firsts.named.any()  # else equal pixels would share an answer about names


def test_inputs_of_operations_that_name_no_channel_are_as_before_names_existed() -> None:
    """Digests of the version before; else results of existing cohorts would be computed again."""
    common: dict[str, Any] = {
        "state": "ready", "content": "c1", "channels": 2, "height": 4, "width": 4, "dtype": "uint8",
    }  # fmt: skip
    named = ImageRow(
        image_id="a", source="in/a.png", spacing_y_um=0.5, spacing_x_um=0.5, noise_sd=(1.0, 2.0),
        rescale_slope=2.0, rescale_intercept=1.0, fields={"subject": "s"},
        header={"channel_names": '["DAPI", "CD3"]'}, **common,
    )  # fmt: skip
    plain = ImageRow(image_id="b", source="in/b.png", noise_sd=(1.0, 2.0, 3.0), **common)
    images = derive_columns(image_table([named, plain]), ["channel_names"])

    def count(image: np.ndarray) -> dict[str, int]:
        return {"n": 1}

    def described(image: xr.DataArray) -> dict[str, int]:
        return {"n": len(image.attrs["subject"])}

    functions = [from_function(f, name=f.__name__, schema={"n": float}) for f in (count, described)]
    found = [
        image_inputs(one, images)
        for one in (engine.circles(channel=1), engine.bloodpool(channel=0), *functions)
    ]
    assert found == [
        ["dc1fe02298b62e06ccf97029671fa491", "ebdec55823ad4c4fc092708219844093"],
        ["f0e7fedf77894ecae63b41b99edd4c16", "d5613b06a50cb9b9fb68882fc19f127c"],
        ["c1", "fb7efa185f01d24d6e328b0ea7345743"],
        ["7c477fd03806c4a7a72d869b0fbe32cc", "4338bc746e051a4106a2fea5755171e5"],
    ]
    assert engine.circles(channel=1).key == "e7176fa80577f56e7100ddc62dd6e2e5"
    chosen = image_inputs(engine.circles(channel="CD3"), images)
    assert {*chosen}.isdisjoint(found[0])
