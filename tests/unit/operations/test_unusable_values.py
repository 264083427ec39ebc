"""What `circles` makes of values that can't be computed with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import engine
from engine.geometry import Region
from engine.operations.base import Image, ImageFailed
from tests.support.images import discs, put


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_an_image_without_any_value_is_named_and_not_counted_as_0(value: float) -> None:
    pixels = np.full((1, 70, 90), value, np.float64)
    with pytest.raises(ImageFailed, match="no_usable_values"):
        engine.circles().measure(Image(pixels))
    # A block of a giant one may well be masked.
    block = Image(pixels, core_region=Region((0, 0), (70, 90)), full_shape=(70, 900))
    assert not len(engine.circles().measure(block)["y"])


def test_a_run_names_it(tmp_path: Path, client: Client) -> None:
    for name, dtype in (("one", np.float32), ("two", np.float64)):
        put(tmp_path / "in" / f"{name}.tif", np.full((40, 48), np.nan, dtype))
    put(tmp_path / "in/whole.tif", discs(3).astype(np.float32))
    cohort = engine.create(tmp_path / "c", layout="{name}")
    cohort.ingest(tmp_path / "in", client=client)
    cohort.run(engine.circles(), client=client)
    reasons = cohort.table("circles_by_image").set_index("name").reason.dropna().to_dict()
    assert reasons == dict.fromkeys(("one", "two"), "no_usable_values")


def test_an_image_with_some_values_is_answered_for() -> None:
    pixels = discs(3).astype(np.float64)
    whole = engine.circles().measure(Image(pixels[None]))
    pixels[:4] = np.nan
    assert len(engine.circles().measure(Image(pixels[None]))["y"]) == len(whole["y"]) > 0
