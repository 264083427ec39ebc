"""What `circles` makes of values that can't be computed with."""

from __future__ import annotations

import numpy as np
import pytest

import engine
from engine.geometry import Region
from engine.operations.base import Image, ImageFailed
from tests.making import discs


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_an_image_without_any_value_is_named_and_not_counted_as_0(value: float) -> None:
    pixels = np.full((1, 70, 90), value, np.float64)
    with pytest.raises(ImageFailed, match="no_usable_values"):
        engine.circles().measure(Image(pixels))
    # A block of a giant one may well be masked.
    block = Region((0, 0), (70, 90))
    assert not len(engine.circles().measure(Image(pixels, write=block))["y"])


def test_an_image_with_some_values_is_answered_for() -> None:
    pixels = discs(3).astype(np.float64)
    whole = engine.circles().measure(Image(pixels[None]))
    pixels[:4] = np.nan
    assert len(engine.circles().measure(Image(pixels[None]))["y"]) == len(whole["y"]) > 0
