"""Data of the quality control page as its templates show them, not escaped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from engine.operations.base import Operation
from engine.qc.outliers import Outliers
from engine.qc.page.histograms import number
from engine.qc.render import THUMB_PX
from engine.qc.statistics import COUNT, QcStatistics
from engine.store.backend.base import Store
from engine.store.pictures import OVERLAY, Picture, PictureIndex
from engine.store.results import DONE


@dataclass(frozen=True)
class PageContext:
    """Contents of a page; ``up`` is the relative path from it to the folder of pictures."""

    store: Store
    operation: Operation
    folder: str
    trial: bool
    facts: QcStatistics
    extremes: Outliers
    noted: PictureIndex
    up: str = ""

    @cached_property
    def objects(self) -> str:
        """Plural name of the objects."""
        return f"{self.operation.object_name}s"

    @cached_property
    def overlays(self) -> Mapping[int, Picture]:
        """Overlays by image number, for images in the tables."""
        found = [one for (kind, _), one in self.noted.items() if kind == OVERLAY]
        names = pa.array([one.name for one in found], pa.string())
        ids = self.facts.columns["image_id"].combine_chunks()
        numbers = pc.index_in(names, value_set=ids).to_pylist()
        return {n: one for n, one in zip(numbers, found, strict=True) if n is not None}

    def text(self, column: str, image: int) -> str:
        """Return a table value of an image."""
        value = self.facts.columns[column][image].as_py()
        return "" if value is None else str(value)

    def name(self, image: int) -> str:
        """Return an image's name."""
        return self.text("name", image) or self.text("image_id", image)

    def done(self, image: int) -> bool:
        """Return whether an image has objects, and did not fail."""
        return bool(self.facts.status[image] == DONE)

    def count(self, image: int) -> str:
        """Return the number of an image's objects."""
        return number(float(self.facts.measures[COUNT][image]))

    def experiment(self, experiment: int) -> str:
        """Return an experiment's date, subject and name."""
        parts = self.facts.experiments[experiment]
        return " · ".join(part for part in parts if part) or "(no experiment)"

    def place(self, image: int) -> str:
        """Return an image's experiment."""
        return self.experiment(int(self.facts.experiment[image]))

    def caption(self, measure: str) -> tuple[str, str]:
        """Return a measure's label and unit."""
        label = self.operation.column_labels.get(measure, measure.replace("_", " "))
        name, _, unit = label.partition(", ")
        return name, unit

    def title(self, measure: str, *, by_image: bool) -> str:
        """Return a measure's name with its unit."""
        if measure == COUNT:
            return f"{self.objects} an image"
        name, unit = self.caption(measure)
        mean = "mean " if by_image and not name.startswith("mean ") else ""
        return f"{mean}{name}, {unit}" if unit else f"{mean}{name}"

    def thumb_size(self, picture: Picture) -> tuple[int, int]:
        """Return width and height of an overlay's thumbnail."""
        factor = -(-max(picture.height, picture.width) // THUMB_PX)
        return -(-picture.width // factor), -(-picture.height // factor)
