"""`segment`: what each pixel of an image is, and how much there is of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator

from engine.errors import ParameterError
from engine.geometry import Region
from engine.kernels import baseline
from engine.kernels.tiled import Batches, classes_of, predict_tiled
from engine.kernels.tiled_plan import plan_tiled
from engine.kernels.tissue import Tissue
from engine.learning.bundles import Bundle, Predictor, open_bundle
from engine.learning.cards import CARD_FILE, Card, tissue_classes
from engine.learning.loaded import LOADED
from engine.operations.base import Image, ImageFailed, Operation

BASELINE = "baseline"
"""The model that needs no weights."""

OBJECTS = pa.schema(
    [
        ("label", pa.int32()),
        ("class_name", pa.string()),
        ("pixels", pa.int64()),
        ("area_um2", pa.float64()),
        ("share", pa.float64()),
        ("disagreement", pa.float64()),
    ]
)
"""One row per class: its pixels and area (null without a pixel size), its share of the image, and
how far an ensemble's members disagree within it, on average (null for a single network)."""

BY_IMAGE = ("tissue_px", "tissue_share", "bone_density", "disagreement")

SPACING_TOLERANCE = 0.2
"""Relative difference of pixel sizes beyond which a network is not asked."""


class Segment(Operation):
    """Say of each pixel which class it is, and measure the classes.

    Parameters
    ----------
    model
        A model's folder (see ``cohort model``), or "baseline": thresholds and morphology for
        marrow, which need no weights. Its digest, and not its place, is part of the key.
    vacuole_radius_px
        For the baseline: median radius of a fat vacuole, pixels.
    batch
        Tiles that a network answers for at once; halved where memory runs out.
    device
        "cpu" or "cuda"; by default CUDA where a worker has it.

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
    version: ClassVar[int] = 1
    objects: ClassVar[pa.Schema] = OBJECTS
    inputs: ClassVar[tuple[str, ...]] = ("content", "spacing")
    singular: ClassVar[str] = "class"
    by_image: ClassVar[tuple[str, ...]] = BY_IMAGE
    neutral: ClassVar[frozenset[str]] = frozenset({"model", "batch", "device"})

    model: str = BASELINE
    vacuole_radius_px: float = Field(default=baseline.VACUOLE_RADIUS_PX, gt=0)
    batch: int = Field(default=4, ge=1)
    device: str | None = None

    @field_validator("model")
    @classmethod
    def _there(cls, model: str) -> str:
        if model == BASELINE:
            return model
        place = str(Path(model).absolute())  # workers may have another working directory
        _checked(place)
        return place

    @field_validator("device")
    @classmethod
    def _known(cls, device: str | None) -> str | None:
        if device not in (None, "cpu", "cuda"):
            raise ParameterError("device", device, "cpu or cuda")
        return device

    @property
    def resources(self) -> Mapping[str, float]:  # type: ignore[override]
        """A GPU's slot for networks, so that each GPU has one worker; none for the baseline."""
        return {} if self.model == BASELINE else {"GPU": 1}

    @property
    def weights(self) -> str | None:
        """SHA-256 of the model; None for the baseline."""
        return None if self.model == BASELINE else _checked(self.model).digest

    @property
    def halo_px(self) -> int:
        """Context of a block: the model's halo."""
        if self.model == BASELINE:
            return baseline.halo_px(self.vacuole_radius_px)
        return _checked(self.model).card.halo_px

    def prepare(self) -> None:
        """Load the model, once in each worker's process."""
        self.runs_on()

    def runs_on(self) -> str:
        """Return the device that this process answers on; loads the model."""
        if self.model == BASELINE:
            return "cpu"
        return LOADED.get(self.model, str(self.weights), self.device)[1].device_name

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Return the columns of `OBJECTS`, a row for each class; see `Operation.measure`."""
        labels, apart, classes = self._segmented(image)
        if image.write is not None:
            start, stop = image.write.start, image.write.stop
            inner = tuple(
                slice(a - o, b - o) for a, b, o in zip(start, stop, image.origin, strict=True)
            )
            labels, apart = labels[inner], apart[inner] if apart is not None else None
        pixels = np.bincount(labels.ravel(), minlength=len(classes))
        unknown = np.full(len(classes), np.nan)
        if apart is None:
            disagreement = unknown
        else:
            sums = np.bincount(labels.ravel(), apart.ravel(), len(classes))
            disagreement = np.divide(sums, pixels, out=unknown.copy(), where=pixels > 0)
        area = np.prod(image.spacing_um) if image.spacing_um else np.nan
        return {
            "label": np.arange(len(classes)),
            "class_name": classes,
            "pixels": pixels,
            "area_um2": _null_where_nan(pixels * area),
            "share": pixels / labels.size,
            "disagreement": _null_where_nan(disagreement),
        }

    def segment(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the labels (y, x) of one array (c, y, x) or (y, x, 3): to look at."""
        return self._segmented(Image.of(array))[0]

    def _segmented(
        self, image: Image
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None, list[str]]:
        """Return labels, the members' disagreement if the model has members, and class names."""
        if self.model == BASELINE:
            pixels = _colours(image.pixels, 3)
            names = [c.name for c in tissue_classes()]
            return baseline.segment_baseline(pixels, None, self.vacuole_radius_px), None, names
        bundle, predictor = LOADED.get(self.model, str(self.weights), self.device)
        card = bundle.card
        _check_spacing(card, image)
        pixels = _colours(image.pixels, len(card.channels))
        names = [c.name for c in card.classes]
        return *_predicted(pixels, card, predictor, self.batch), names

    def merge_objects(self, image: NDArray[np.int64], found: pa.Table) -> pa.Table:
        """Add up the classes of the blocks of giant images; see `Operation.merge_objects`."""
        frame = found.to_pandas()
        frame["_image"] = image
        frame["_weighed"] = frame["disagreement"] * frame["pixels"]
        groups = frame.groupby(["_image", "label"], sort=True)
        merged = groups.agg(
            class_name=("class_name", "first"), pixels=("pixels", "sum")
        ).reset_index()
        for name in ("area_um2", "_weighed"):
            merged[name] = groups[name].sum(min_count=1).to_numpy()
        whole = merged.groupby("_image")["pixels"].transform("sum")
        merged["share"] = merged["pixels"] / whole
        merged["disagreement"] = merged["_weighed"] / merged["pixels"].where(merged["pixels"] > 0)
        schema = OBJECTS.append(pa.field("_image", pa.int64()))
        return pa.Table.from_pandas(merged[schema.names], schema=schema, preserve_index=False)

    def measure_images(
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
            # Only where the model knows bone.
            "bone_density": np.where(
                added(bone.astype(float)) > 0, _divided(added(pixels * bone), within), np.nan
            ),
            "disagreement": np.where(single, np.nan, _divided(weighed, whole)),
        }


def _checked(model: str) -> Bundle:
    """Return a bundle whose weights are known to be those of its card."""
    card = Path(model) / CARD_FILE
    stat = card.stat() if card.is_file() else None
    return _checked_at(model, stat.st_mtime_ns if stat else 0)


@lru_cache(maxsize=4)
def _checked_at(model: str, card_mtime_ns: int) -> Bundle:
    bundle = open_bundle(model)
    bundle.read_weights()
    return bundle


def _check_spacing(card: Card, image: Image) -> None:
    if card.spacing_um and image.spacing_um:
        apart = max(abs(side / card.spacing_um - 1) for side in image.spacing_um)
        if apart > SPACING_TOLERANCE:
            raise ImageFailed("other_pixel_size")


def _colours(pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    """Return the channels that a model takes; alpha is left out."""
    if pixels.shape[0] == channels + 1 and channels in (1, 3):
        pixels = pixels[:channels]
    if pixels.shape[0] != channels:
        raise ImageFailed("other_channels")
    return pixels


def _predicted(
    pixels: NDArray[Any], card: Card, predictor: Predictor, batch: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    shape = (pixels.shape[1], pixels.shape[2])
    side = (card.tile_px, card.tile_px)
    plan = plan_tiled(shape, side, card.halo_px, multiple=predictor.multiple_px)
    labels = np.empty(shape, np.uint8)
    apart = np.empty(shape, np.float32) if predictor.planes > len(card.classes) else None

    def read(region: Region) -> NDArray[Any]:
        return pixels[:, *region.slices]

    for band in predict_tiled(read, plan, Batches(predictor, batch)):
        labels[band.region.slices] = classes_of(band.planes, len(card.classes))
        if apart is not None:
            apart[band.region.slices] = band.planes[len(card.classes)]
    return labels, apart


def _null_where_nan(values: NDArray[Any]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def _divided(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
