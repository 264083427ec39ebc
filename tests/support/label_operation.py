"""Custom operation that makes label images, and its expected labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import engine
from engine.operations.base import LABELS, Image, ImageFailed, Operation
from engine.store.catalog.tables import ShardRow, shards_ledger
from engine.store.labels.images import LabelClass, files_by_path
from engine.store.pixels.stacks import StackReader, label_stack
from engine.store.rows import rows_of

CLASSES = (
    LabelClass(0, "dark", "#000000"),
    LabelClass(1, "middle", "#e69f00"),
    LabelClass(2, "bright", "#0072b2"),
)


def bands(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the labels of `Bands`: thirds of 0 to 200."""
    return np.digitize(pixels[0], (67, 134)).astype(np.uint8)


class Bands(Operation):
    """Sort pixels by their grey value; count the bright ones."""

    name: ClassVar[str] = "bands"
    object_schema: ClassVar[pa.Schema] = pa.schema([("bright", pa.int64())])
    inputs: ClassVar[tuple[str, ...]] = ("content", "spacing")

    share: float = 1.0
    """Affects only the key."""

    fails: str = ""
    """Images with this in their source fail while the file of this name exists."""

    non_key_parameters: ClassVar[frozenset[str]] = frozenset({"fails"})

    @property
    def label_classes(self) -> tuple[LabelClass, ...]:
        """Return three classes."""
        return CLASSES

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Return the labels, and the number of bright pixels."""
        if self.fails and Path(self.fails).exists() and Path(self.fails).name in image.source:
            raise ImageFailed("asked_to")
        labels = bands(image.pixels)
        return {"bright": [int((labels == 2).sum())], LABELS: labels}


def label_rows(cohort: engine.Cohort) -> list[ShardRow]:
    """Return the catalog's rows of all files below ``pixels/``."""
    ledger = shards_ledger(cohort.store)
    return rows_of(ledger.read(ledger.snapshot().parts), ShardRow)


def read_labels(
    cohort: engine.Cohort, operation: Operation, where: str | None = None
) -> dict[str, NDArray[np.uint8]]:
    """Return the labels of images by image_id, through the engine's reader."""
    reader = StackReader(cohort.store, files_by_path(cohort.store, label_rows(cohort)))
    found = {}
    for row in cohort.images(where).frame.itertuples():
        place: tuple[int | slice, ...] = (int(row.t), 0)
        if row.z is not None and not np.isnan(row.z):
            place = (*place, int(row.z))
        box = slice(0, int(row.height)), slice(0, int(row.width))
        stack = label_stack(row.stack, operation.label_name)
        found[row.image_id] = reader.read(stack, (*place, *box))
    return found


def check_labels(
    cohort: engine.Cohort, operation: Operation, where: str | None = None
) -> dict[str, NDArray[np.uint8]]:
    """Check that each image's labels match its pixels."""
    found = read_labels(cohort, operation, where)
    for image in cohort.images(where, stored=True):
        name = image.attrs["image_id"]
        assert np.array_equal(found[name], bands(image.values)), name
    return found
