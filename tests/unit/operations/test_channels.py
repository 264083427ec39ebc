"""Which grey plane is looked at: of colours their luminance, of stains the one that was chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import engine
from engine.operations.base import Image, ImageFailed
from tests.support.images import catalog, discs, put

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
