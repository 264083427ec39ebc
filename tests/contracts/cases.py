"""Operations under the contract tests: built-in, installed from a package, and from a notebook."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import engine
from engine.operations.base import Image, ImageFailed, Operation
from engine.operations.functions.function import from_function
from tests.support.images import Counting
from tests.support.operations import count_call

BAD = 255
"""First pixel of an image on which the external operations fail."""

ABOVE = 195


@dataclass(frozen=True)
class Case:
    """An operation and its known properties.

    Attributes
    ----------
    given, other, wrong, neutral
        Parameters: valid, valid with a different key, invalid, and ones that do not affect the key.
        An operation without parameters has none of these.
    newer
        Factory of the next version; by default a subclass.
    local
        Whether results of blocks, combined, equal the result for the whole.
    count
        Expected number of objects of an image, None if it fails; unknown for circles.
    installed
        Whether a package could offer it by name.
    refused
        Dtypes of pixels whose images fail by name.
    """

    name: str
    make: Callable[..., Operation]
    given: dict[str, Any]
    other: dict[str, Any]
    wrong: dict[str, Any]
    neutral: dict[str, Any] = field(default_factory=dict)
    newer: Callable[..., Operation] | None = None
    local: bool = True
    count: Callable[[NDArray[Any]], int | None] | None = None
    installed: bool = True
    refused: tuple[str, ...] = ()


class Spots(Operation):
    """Bright pixels, on workers with a GPU; images with a certain first pixel fail."""

    name: ClassVar[str] = "spots"
    object_schema: ClassVar[pa.Schema] = pa.schema([("y", pa.float64()), ("x", pa.float64())])
    resources: ClassVar[Mapping[str, float]] = {"GPU": 1}
    object_name: ClassVar[str] = "spot"
    non_key_parameters: ClassVar[frozenset[str]] = frozenset({"calls"})

    above: int = ABOVE
    calls: str = ""

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Return the position of each bright pixel."""
        count_call(self.calls, image.source)
        y, x = bright(image.pixels, self.above)
        y, x = y + image.origin[0], x + image.origin[1]
        if image.core_region is not None:
            places = zip(y, x, strict=True)
            mine = np.fromiter((image.core_region.holds(*place) for place in places), bool)
            y, x = y[mine], x[mine]
        return {"y": y, "x": x}


def spots(image: NDArray[Any], above: int = ABOVE) -> dict[str, NDArray[Any]]:
    """Return the same result, as a function in a notebook would."""
    y, x = bright(image, above)
    return {"y": y, "x": x}


def bright(pixels: NDArray[Any], above: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the positions of bright pixels of the first channel."""
    if pixels[0, 0, 0] == BAD:
        raise ImageFailed("bad_first_pixel")
    y, x = np.nonzero(pixels[0] > above)
    return y, x


def count_bright(plane: NDArray[Any]) -> int | None:
    """Return the number of bright pixels, None if the image fails."""
    return None if plane[0, 0] == BAD else int((plane > ABOVE).sum())


def mapped(version: int = 1, **parameters: Any) -> Operation:
    """Make an operation of the function."""
    return from_function(
        spots, name="mapped_spots", version=version, schema={"y": float, "x": float},
        parameters=parameters, resources={"GPU": 1}, object_name="spot", halo_px=3,
    )  # fmt: skip


CASES = [
    Case(
        "circles",
        engine.circles,
        {"radius_px": (8.0, 25.0), "polarity": "bright"},
        {"radius_px": (8.0, 24.0)},
        {"radius_px": (25.0, 8.0)},
    ),
    Case(
        "nuclei",
        engine.nuclei,
        {"diameter_px": 14.0},
        {"diameter_px": 15.0},
        {"diameter_px": 1.0},
        neutral={"device": "cpu"},
        local=False,  # rows of several blocks are joined: tests/properties/test_nuclei_tiled.py
    ),
    Case(
        "counting",
        Counting,
        {"log": os.devnull, "copies": 2},
        {"copies": 3},
        {"copies": -1},
        neutral={"log": "/dev/zero", "batch": 7},
        local=False,
        count=lambda plane: 2,
    ),
    Case(
        "spots",
        Spots,
        {"above": ABOVE},
        {"above": 20},
        {"above": "much"},
        neutral={"calls": os.devnull},
        count=count_bright,
    ),
    Case(
        "mapped_spots",
        mapped,
        {"above": ABOVE},
        {"above": 20},
        {"above": "much"},
        newer=lambda **given: mapped(2, **given),
        count=count_bright,
        installed=False,
    ),
]

DRAWN = [
    Case(
        "contours",
        engine.contours,
        {"annotations": "manual", "least_inside": 0.9},
        {"outer": "epicardium"},
        {"least_inside": 1.5},
        local=False,
    ),
    Case(
        "bloodpool",
        engine.bloodpool,
        {"channel": 0},
        {"inner": "endocardium"},
        {"channel": -1},
        local=False,
    ),
]
"""Operations on drawings; images without drawings give no rows."""

ALL = [*CASES, *DRAWN]
