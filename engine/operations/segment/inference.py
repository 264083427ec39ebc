"""Inference over the images of a unit: read ahead, in batches across image borders."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.geometry import Region
from engine.kernels.colour import full_scale
from engine.kernels.tiling.inference import Band, Batches, Plane, classes_of, predict_planes
from engine.kernels.tiling.plan import TiledPlan, plan_tiled
from engine.learning.models.bundle import Predictor
from engine.learning.models.card import RGB, Card
from engine.operations.base import Image, ImageFailed

SPACING_TOLERANCE = 0.2
"""Maximum relative difference between the pixel sizes of an image and a model."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Prediction of a network for an image or a block, in its ``core_region``.

    ``labels`` are classes (y, x); ``disagreement`` is that of an ensemble's members (y, x).
    """

    labels: NDArray[np.uint8]
    disagreement: NDArray[np.float32] | None = None


class BatchedInference:
    """A model that predicts images in batches.

    Parameters
    ----------
    card, predictor
        The model.
    batch
        Initial batch size, in windows.
    """

    def __init__(self, card: Card, predictor: Predictor, batch: int) -> None:
        self._card = card
        self._predictor = predictor
        self.batches = Batches(predictor, batch)

    def predict_each(
        self, images: Iterable[Image]
    ) -> Iterator[tuple[Image, Prediction | Exception, float]]:
        """Yield each image in order, its prediction or exception, and seconds.

        Windows of several images share batches, and the next images are read at the same time. If a
        batch fails, its images are predicted one by one, so that only the faulty one fails.
        """
        remaining = iter(images)
        while True:
            waiting: deque[tuple[Image, Exception | None]] = deque()
            try:
                yield from self._predict_together(remaining, waiting)
                return
            except Exception:
                if not waiting:
                    raise
            for image, error in waiting:
                yield self._predict_alone(image, error)

    def _predict_alone(
        self, image: Image, error: Exception | None
    ) -> tuple[Image, Prediction | Exception, float]:
        began = time.perf_counter()
        said: Prediction | Exception
        try:
            if error is not None:
                raise error
            ((_, said, _),) = self._predict_together(iter([image]), deque())
        except Exception as failure:
            said = failure
        return image, said, time.perf_counter() - began

    def _predict_together(
        self, images: Iterator[Image], waiting: deque[tuple[Image, Exception | None]]
    ) -> Iterator[tuple[Image, Prediction | Exception, float]]:
        def planes() -> Iterator[Plane]:  # runs in the thread that reads ahead
            for image in images:
                try:
                    plane = self._plane(image)
                except ImageFailed as error:
                    waiting.append((image, error))
                    continue
                waiting.append((image, None))
                yield plane

        began = time.perf_counter()
        answer: _Assembly | None = None
        for number, band in predict_planes(planes(), self.batches):
            while (error := waiting[0][1]) is not None:
                yield waiting.popleft()[0], error, 0.0
            if answer is None or answer.number != number:
                answer = _Assembly(
                    number, _write(waiting[0][0]), self._predictor.planes, self._card
                )
            if answer.add(band):
                now = time.perf_counter()
                yield waiting.popleft()[0], answer.said, now - began
                began = now
        while waiting:
            image, error = waiting.popleft()
            yield image, error or ImageFailed("no_answer"), 0.0

    def _plane(self, image: Image) -> Plane:
        _check_spacing(self._card, image)
        if self._card.channels == RGB and not image.has_luminance:
            raise ImageFailed("other_channels")
        pixels = values_of(image, len(self._card.channels))
        _check_values(self._card, pixels)
        write = _write(image)
        y, x = (w - o for w, o in zip(write.start, image.origin, strict=True))
        height, width = write.shape
        around = (
            (y, pixels.shape[1] - y - height),
            (x, pixels.shape[2] - x - width),
        )

        def read(region: Region) -> NDArray[Any]:
            (top, left), (bottom, right) = region.start, region.stop
            return pixels[:, top + y : bottom + y, left + x : right + x]

        return Plane(read, self._tiles(write.shape, around))

    def _tiles(self, shape: tuple[int, int], around: Any) -> TiledPlan:
        side = (self._card.tile_px, self._card.tile_px)
        multiple = self._predictor.multiple_px
        return plan_tiled(shape, side, self._card.halo_px, None, multiple, around)


class _Assembly:
    """Prediction of one plane, assembled band by band."""

    def __init__(self, number: int, write: Region, planes: int, card: Card) -> None:
        self.number = number
        self._classes = len(card.classes)
        self._missing = write.shape[0] * write.shape[1]
        apart = np.empty(write.shape, np.float32) if planes > self._classes else None
        self.said = Prediction(np.empty(write.shape, np.uint8), apart)

    def add(self, band: Band) -> bool:
        """Add a band, and return whether it was the last."""
        place = band.region.slices
        self.said.labels[place] = classes_of(band.planes, self._classes)
        if self.said.disagreement is not None:
            self.said.disagreement[place] = band.planes[self._classes]
        self._missing -= band.region.shape[0] * band.region.shape[1]
        return self._missing == 0


def values_of(image: Image, channels: int) -> NDArray[Any]:
    """Return the channels (c, y, x) that a model takes, without alpha.

    Raises
    ------
    ImageFailed
        If an image has other channels, or values that are not finite: the network's output around
        them would be undefined too, which a label can't express.
    """
    pixels = image.pixels
    if pixels.shape[0] == channels + 1 and channels in (1, 3) and image.has_luminance:
        pixels = pixels[:channels]
    if pixels.shape[0] != channels:
        raise ImageFailed("other_channels")
    if pixels.dtype.kind == "f":
        with np.errstate(over="ignore"):
            if not np.isfinite(pixels.astype(np.float32, copy=False)).all():
                raise ImageFailed("values_not_finite")
    return pixels


def _check_values(card: Card, pixels: NDArray[Any]) -> None:
    """Reject images brighter than the model's white, or so dark that all values map to black.

    The latter have a type with a smaller range: 8 bits for a model of 16, or 0 to 1 for one of 8.
    """
    white = card.white
    if white is None or white == (own := full_scale(pixels.dtype)):
        return
    brightest = pixels.max(initial=0)
    if brightest > white or 0 < brightest <= own < white:
        raise ImageFailed("other_values")


def _write(image: Image) -> Region:
    height, width = image.pixels.shape[1:]
    return image.core_region or Region((0, 0), (height, width))


def _check_spacing(card: Card, image: Image) -> None:
    if card.spacing_um and image.spacing_um:
        apart = max(abs(side / card.spacing_um - 1) for side in image.spacing_um)
        if apart > SPACING_TOLERANCE:
            raise ImageFailed("other_pixel_size")
