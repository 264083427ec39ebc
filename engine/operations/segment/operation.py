"""`segment`: classify each pixel of an image, and measure the classes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator

from engine.errors import ParameterError
from engine.kernels.segmentation import marrow_thresholds as baseline
from engine.kernels.segmentation.tissue import Tissue
from engine.kernels.tiling.memory import peak_rss_bytes
from engine.learning.models.cache import MODEL_CACHE
from engine.learning.models.card import ClassCard, tissue_classes
from engine.learning.models.checked import checked_bundle
from engine.learning.models.pretrained import pretrained_models
from engine.operations.base import LABELS, Found, Image, ImageFailed, Operation
from engine.operations.segment.inference import BatchedInference, Prediction, values_of
from engine.operations.segment.objects import (
    PIECES,
    RUNS,
    join_pieces,
    measure_pieces,
    number_blocks,
    number_labels,
    objects_table,
)
from engine.store.labels.images import LabelClass

BASELINE = "baseline"
"""Name of the model without weights."""

BATCH = {"cuda": 4, "cpu": 1}
"""Batch size in tiles, by device: on a CPU single tiles are a quarter faster, as they stay in its
cache."""

OBJECTS = pa.schema(
    [
        ("label", pa.int32()),
        ("class_name", pa.string()),
        ("pixels", pa.int64()),
        ("area_um2", pa.float64()),
        ("share", pa.float64()),
        ("objects", pa.int64()),
        ("disagreement", pa.float64()),
        ("pieces", pa.list_(PIECES)),
        ("runs", pa.list_(RUNS)),
        ("batch", pa.int32()),
        ("memory_peak_bytes", pa.int64()),
    ]
)
"""One row per class: its pixels and area (null without a pixel size), its share of the image, its
number of objects (null if the class is not countable), and the mean disagreement of an ensemble's
members within it (null for a single network). See `Segment.unlisted` for the rest."""

BY_IMAGE = ("tissue_px", "tissue_share", "bone_density", "disagreement")


class Segment(Operation):
    """Pixel classification, and measurement of the classes.

    Parameters
    ----------
    model
        A model's folder (see ``cohort model``); the name of a bundled model, "marrow"; or
        "baseline": thresholds and morphology for marrow, without weights. The key contains the
        model's digest, not its location.
    vacuole_radius_px
        For the baseline: median radius of a fat vacuole, pixels.
    batch
        Batch size in tiles, halved if memory runs out; by default as in `BATCH`.
    device
        "cpu" or "cuda"; by default CUDA if the worker has it.

    Examples
    --------
    >>> slide = np.full((3, 64, 64), 240, np.uint8)
    >>> Segment()(slide)[["label", "class_name", "pixels"]]
       label  class_name  pixels
    0      0  background    4096
    1      1        bone       0
    2      2         fat       0
    3      3       other       0
    """

    name: ClassVar[str] = "segment"
    version: ClassVar[int] = 3
    object_schema: ClassVar[pa.Schema] = OBJECTS
    inputs: ClassVar[tuple[str, ...]] = ("content", "spacing")
    object_name: ClassVar[str] = "label"
    image_columns: ClassVar[tuple[str, ...]] = BY_IMAGE
    detail_tables: ClassVar[tuple[str, ...]] = ("segment_objects",)
    hidden_columns: ClassVar[frozenset[str]] = frozenset(
        {"pieces", "runs", "batch", "memory_peak_bytes"}
    )
    """Objects have a table of their own; batch and memory describe the run, not the image."""

    non_key_parameters: ClassVar[frozenset[str]] = frozenset({"model", "batch", "device"})

    model: str = BASELINE
    vacuole_radius_px: float = Field(default=baseline.VACUOLE_RADIUS_PX, gt=0)
    batch: int | None = Field(default=None, ge=1)
    device: str | None = None

    @field_validator("model")
    @classmethod
    def _there(cls, model: str) -> str:
        if model == BASELINE or model in pretrained_models():
            return model
        place = str(Path(model).absolute())  # workers may have another working directory
        checked_bundle(place)
        return place

    @field_validator("device")
    @classmethod
    def _known(cls, device: str | None) -> str | None:
        if device not in (None, "cpu", "cuda"):
            raise ParameterError("device", device, "cpu or cuda")
        return device

    @property
    def resources(self) -> Mapping[str, float]:  # type: ignore[override]
        """One GPU slot for networks, so that each GPU has one worker; none for the baseline."""
        return {} if self.model == BASELINE else {"GPU": 1}

    @property
    def weights(self) -> str | None:
        """SHA-256 of the model; None for the baseline."""
        return None if self.model == BASELINE else checked_bundle(self.model).digest

    @property
    def halo_px(self) -> int:
        """Halo of a block: the model's halo."""
        if self.model == BASELINE:
            return baseline.halo_px(self.vacuole_radius_px)
        return checked_bundle(self.model).card.halo_px

    @property
    def classes(self) -> tuple[ClassCard, ...]:
        """Classes of the model, in the order of the labels."""
        return (
            tissue_classes() if self.model == BASELINE else checked_bundle(self.model).card.classes
        )

    @property
    def label_classes(self) -> tuple[LabelClass, ...]:
        """Meaning of the values of its label images, from the model's card."""
        return tuple(LabelClass(n, c.name, c.colour) for n, c in enumerate(self.classes))

    @property
    def has_object_labels(self) -> bool:
        """True if the model's card has classes with counted objects."""
        return any(c.countable for c in self.classes)

    def label_objects(
        self, labels: NDArray[np.uint8], numbers: Any | None = None
    ) -> NDArray[np.uint32]:
        """Return each pixel's object number; see `LabelSpec.label_objects`."""
        return number_labels(labels, [c.countable for c in self.classes], numbers)

    def number_blocks(self, blocks: Sequence[pa.Table]) -> Sequence[Any]:
        """Return the numbers of the objects in each block; see `LabelSpec.number_blocks`."""
        return number_blocks(blocks)

    def prepare(self) -> None:
        """Load the model, once in each worker's process."""
        self.compute_device()

    def compute_device(self) -> str:
        """Return the device that this process computes on; loads the model."""
        if self.model == BASELINE:
            return "cpu"
        return MODEL_CACHE.get(self.model, str(self.weights), self.device)[1].device_name

    def set_threads(self, count: int) -> None:
        """Set the number of threads of the network."""
        if self.model != BASELINE:
            MODEL_CACHE.get(self.model, str(self.weights), self.device)[1].own_threads(count)

    def measure(self, image: Image) -> Found:
        """Return the columns of `OBJECTS`, a row for each class; see `Operation.measure`."""
        ((found, _),) = self.measure_batch([image])
        if isinstance(found, Exception):
            raise found
        return found

    def measure_batch(self, images: Iterable[Image]) -> Iterator[tuple[Found | Exception, float]]:
        """Measure images in order; a network predicts several at once."""
        for image, said, elapsed_s, run in self._predict_each(images):
            began = time.perf_counter()
            answer: Found | Exception
            try:
                if isinstance(said, Exception):
                    raise said
                answer = self._found(image, said, run)
            except Exception as error:
                answer = error
            yield answer, elapsed_s + time.perf_counter() - began

    def segment(self, image: NDArray[Any] | Image) -> NDArray[np.uint8]:
        """Return the labels (y, x) of an image, or of an array (c, y, x) or (y, x, 3)."""
        given = image if isinstance(image, Image) else Image.of(image)
        ((_, said, _, _),) = self._predict_each([given])
        if isinstance(said, Exception):
            raise said
        return said.labels

    def _predict_each(
        self, images: Iterable[Image]
    ) -> Iterator[tuple[Image, Prediction | Exception, float, tuple[int, int]]]:
        """Yield images, predictions, seconds, and (batch, peak memory in bytes)."""
        if self.model == BASELINE:
            for image in images:
                began = time.perf_counter()
                said: Prediction | Exception
                try:
                    said = self._by_thresholds(image)
                except Exception as error:
                    said = error
                yield image, said, time.perf_counter() - began, (1, peak_rss_bytes())
            return
        bundle, predictor = MODEL_CACHE.get(self.model, str(self.weights), self.device)
        batch = self.batch or BATCH.get(predictor.device_name, 1)
        network = BatchedInference(bundle.card, predictor, batch)
        for image, said, elapsed_s in network.predict_each(images):
            yield image, said, elapsed_s, (network.batches.size, predictor.peak_bytes())

    def _by_thresholds(self, image: Image) -> Prediction:
        if not image.has_luminance:
            raise ImageFailed("other_channels")
        pixels = values_of(image, 3)
        labels = baseline.segment_baseline(pixels, None, self.vacuole_radius_px)
        if image.core_region is not None:
            start, stop = image.core_region.start, image.core_region.stop
            inner = (slice(a - o, b - o) for a, b, o in zip(start, stop, image.origin, strict=True))
            labels = labels[tuple(inner)]
        return Prediction(np.ascontiguousarray(labels))

    def _found(self, image: Image, said: Prediction, run: tuple[int, int]) -> Found:
        """Measure the labels of an image."""
        classes, labels, apart = self.classes, said.labels, said.disagreement
        pixels = np.bincount(labels.ravel(), minlength=len(classes))
        unknown = np.full(len(classes), np.nan)
        if apart is None:
            disagreement = unknown
        else:
            sums = np.bincount(labels.ravel(), apart.ravel(), len(classes))
            disagreement = np.divide(sums, pixels, out=unknown.copy(), where=pixels > 0)
        area = np.prod(image.spacing_um) if image.spacing_um else np.nan
        origin = image.origin if image.core_region is None else image.core_region.start
        height, width = labels.shape
        whole = image.full_shape or (height, width)
        return {
            "label": np.arange(len(classes)),
            "class_name": [c.name for c in classes],
            "pixels": pixels,
            "area_um2": _null_where_nan(pixels * area),
            "share": pixels / labels.size,
            "disagreement": _null_where_nan(disagreement),
            **measure_pieces(labels, [c.countable for c in classes], origin, whole),
            "batch": [run[0]] * len(classes),
            "memory_peak_bytes": [run[1]] * len(classes),
            LABELS: labels,
        }

    def merge_objects(self, image: NDArray[np.int64], found: pa.Table) -> pa.Table:
        """Merge the classes of the blocks of giant images; see `Operation.merge_objects`."""
        plain = found.drop_columns(["pieces", "runs"])
        frame = plain.to_pandas()
        frame["_image"] = image
        frame["_weighed"] = frame["disagreement"] * frame["pixels"]
        groups = frame.groupby(["_image", "label"], sort=True)
        merged = groups.agg(
            class_name=("class_name", "first"),
            pixels=("pixels", "sum"),
            batch=("batch", "min"),
            memory_peak_bytes=("memory_peak_bytes", "max"),
        ).reset_index()
        for name in ("area_um2", "_weighed"):
            merged[name] = groups[name].sum(min_count=1).to_numpy()
        whole = merged.groupby("_image")["pixels"].transform("sum")
        merged["share"] = merged["pixels"] / whole
        merged["disagreement"] = merged["_weighed"] / merged["pixels"].where(merged["pixels"] > 0)
        pieces, counts = join_pieces(found, groups.ngroup().to_numpy(), len(merged))
        counted = groups["objects"].count().to_numpy() > 0
        columns = {name: pa.array(merged[name], from_pandas=True) for name in merged.columns}
        columns["objects"] = pa.array(counts, pa.int64(), mask=~counted)
        columns["pieces"] = pieces
        columns["runs"] = pa.array([[]] * len(merged), pa.list_(RUNS))
        schema = OBJECTS.append(pa.field("_image", pa.int64()))
        return pa.table([columns[f.name].cast(f.type) for f in schema], schema)

    def make_details(self, objects: pa.Table, described: Sequence[str]) -> Mapping[str, pa.Table]:
        """Return the table of the objects of countable classes; see `Operation.make_details`."""
        return {self.detail_tables[0]: objects_table(objects, described)}

    def summarise_images(
        self, image: NDArray[np.int64], found: pa.Table, total: int
    ) -> Mapping[str, NDArray[np.float64]]:
        """Return tissue, bone density and disagreement of each image."""
        frame = found.to_pandas()
        pixels = frame["pixels"].to_numpy(float)
        tissue = frame["label"].to_numpy() != Tissue.BACKGROUND
        bone = (frame["class_name"] == "bone").to_numpy()

        def added(values: NDArray[Any]) -> NDArray[np.float64]:
            return np.bincount(image, values, total).astype(np.float64)

        whole, within = added(pixels), added(pixels * tissue)
        apart = frame["disagreement"].to_numpy(float)
        weighed = added(np.nan_to_num(apart) * pixels)
        single = added(np.isfinite(apart).astype(float)) == 0
        return {
            "tissue_px": np.where(whole > 0, within, np.nan),
            "tissue_share": _divided(within, whole),
            # NaN if the model has no class "bone".
            "bone_density": np.where(
                added(bone.astype(float)) > 0, _divided(added(pixels * bone), within), np.nan
            ),
            "disagreement": np.where(single, np.nan, _divided(weighed, whole)),
        }


def _null_where_nan(values: NDArray[Any]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _divided(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
