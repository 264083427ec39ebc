"""`nuclei`: find nuclei as instances, and measure their size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator
from scipy import ndimage

from engine.errors import ParameterError, UsageError
from engine.geometry import YX
from engine.kernels.colour import luminance
from engine.kernels.noise import noise_sd
from engine.kernels.segmentation import nuclei_threshold as threshold
from engine.kernels.segmentation.split import fill_small_holes, remove_small, split_objects
from engine.learning.datasets.depths import DEPTHS
from engine.learning.models.bundle import Bundle
from engine.learning.models.cache import MODEL_CACHE
from engine.learning.models.checked import checked_bundle
from engine.learning.models.pretrained import pretrained_models
from engine.operations.channels import Channel
from engine.operations.image import Image, ImageFailed
from engine.operations.instances import InstanceOperation
from engine.operations.nuclei.inference import has_depths, predict_depths, reach_px
from engine.operations.spacings import isotropic_spacing

THRESHOLD = "threshold"
"""Name of the model without weights."""

DIAMETER_PX = 20.0
"""Default diameter for thresholds, and the diameter to which an image is rescaled for a network, if
one is given: about the median of the images it was trained on, pixels."""

LARGEST_PX = 100
"""Largest nucleus at the network's scale that every block sees whole, pixels."""

LEAST_INSIDE = 0.5
"""Least probability of a nucleus' pixels."""

LEAST_DEPTH = 0.4
"""Least depth of a nucleus' deepest pixel."""

PASS_SHARE = 0.8
"""Nuclei touch where the depth falls below this share of both maxima."""

LEAST_NOISE = 0.5
"""Least noise assumed for integers, grey levels: about that of rounding."""

ROUNDING_PX = 1.0
"""Standard deviation of the smoothing of depths, pixels."""

LEAST_AREA = 0.04
"""Least area of a nucleus, as a share of a disc of the diameter."""


class Nuclei(InstanceOperation):
    """Instance segmentation of nuclei, by thresholds or a network.

    Nuclei that touch are separated. In a giant image, one that is larger than twice the diameter
    (100 px for a network without a diameter) may be ``cut`` by blocks, and is marked so.

    Parameters
    ----------
    model
        "threshold": Otsu's threshold of the surroundings, above the background, split by shape; no
        threshold of the whole image is used, so that blocks of a giant one have the answer of the
        whole. Or the folder of a model with the classes background, rim, middle and core. The key
        contains the model's digest, not its location.
    diameter_px
        Usual diameter of a nucleus, pixels; 20 by default for "threshold". For a network, images
        are rescaled so that this diameter becomes 20 px; by default they are not.
    diameter_um
        Alternative in micrometres, converted to pixels by each image's spacing. An image fails as
        ``spacing_needed`` if it has no spacing, or spacings along y and x that differ by more than
        1 %.
    polarity
        "bright": nuclei are brighter than their surroundings, as in fluorescence; "dark": darker,
        as in stained tissue.
    channel
        Channel with the nuclei, by its number from 0 or its name; by default the only one, or the
        luminance of RGB and RGBA (alpha is ignored). For channels that are not colours, such as
        stains, one must be chosen.
    device
        "cpu" or "cuda", for a network; by default CUDA if the worker has it.

    Examples
    --------
    >>> y, x = np.mgrid[:64, :96]
    >>> plane = sum(((y - 30) ** 2 + (x - at) ** 2 <= 100) * 200 for at in (30, 48))
    >>> Nuclei()(np.clip(plane, 0, 200).astype(np.uint8))[["nucleus", "y", "x"]].round()
       nucleus     y     x
    0        1  30.0  30.0
    1        2  30.0  48.0
    """

    name: ClassVar[str] = "nuclei"
    version: ClassVar[int] = 1
    object_name: ClassVar[str] = "nucleus"
    non_key_parameters: ClassVar[frozenset[str]] = frozenset({"model", "device"})
    alternatives: ClassVar[tuple[frozenset[str], ...]] = (
        frozenset({"diameter_px", "diameter_um"}),
    )

    model: str = THRESHOLD
    diameter_px: float | None = Field(default=None, ge=4, le=1000)
    diameter_um: float | None = Field(default=None, gt=0)
    polarity: Literal["bright", "dark"] = "bright"
    channel: Channel | None = None
    device: Literal["cpu", "cuda"] | None = None

    @field_validator("model")
    @classmethod
    def _there(cls, model: str) -> str:
        if model == THRESHOLD:
            return model
        # workers may have another working directory
        place = model if model in pretrained_models() else str(Path(model).absolute())
        if not has_depths(checked_bundle(place).card, DEPTHS):
            raise ParameterError("model", model, f"one with the classes {', '.join(DEPTHS)}")
        return place

    @model_validator(mode="after")
    def _one_of_both(self) -> Nuclei:
        if self.diameter_px is not None and self.diameter_um is not None:
            raise UsageError("diameter_px and diameter_um are both given; give one of them.")
        return self

    @property
    def resources(self) -> Mapping[str, float]:  # type: ignore[override]
        """One GPU slot for a network, so that each GPU has one worker; none for thresholds."""
        return {} if self.model == THRESHOLD else {"GPU": 1}

    @property
    def weights(self) -> str | None:
        """SHA-256 of the model; None for thresholds."""
        return None if self.model == THRESHOLD else self._bundle().digest

    @property
    def halo_px(self) -> int:
        """Halo of a block for ``diameter_px``; `halo_of` also handles ``diameter_um``."""
        return self.halo_of(None)

    def halo_of(self, spacing_um: tuple[float, float] | None) -> int:
        """Return the halo of a block: that of filters or the network, and of a nucleus."""
        try:
            diameter = self._diameter(spacing_um)
        except ImageFailed:  # each block of this image will fail
            return 0
        if self.model == THRESHOLD:
            return threshold.halo_px(diameter or DIAMETER_PX)
        reach = reach_px(self._bundle().card) + 2 * LARGEST_PX
        return math.ceil((reach + 8) / self._factor(diameter)) + 8

    def prepare(self) -> None:
        """Load the model, once in each worker's process."""
        self.compute_device()

    def compute_device(self) -> str:
        """Return the device that this process computes on; loads the model."""
        return "cpu" if self.model == THRESHOLD else self._loaded()[1].device_name

    def set_threads(self, count: int) -> None:
        """Set the number of threads of the network."""
        if self.model != THRESHOLD:
            self._loaded()[1].own_threads(count)

    def find(self, image: Image) -> tuple[NDArray[Any], Mapping[str, Sequence[Any]]]:
        """Return the nuclei of an image; see `InstanceOperation.find`."""
        diameter = self._diameter(image.spacing_um)
        plane, noise = self._plane(image)
        if plane.dtype.kind == "f" and not image.is_block and not np.isfinite(plane).any():
            raise ImageFailed("no_usable_values")
        if self.polarity == "dark":
            plane = -np.asarray(plane, np.float32)
        if self.model == THRESHOLD:
            found = threshold.threshold_nuclei(plane, diameter or DIAMETER_PX, noise, image.origin)
        else:
            found = self._predicted(image, plane, noise, diameter)
        return found, {}

    def _predicted(
        self, image: Image, plane: NDArray[Any], noise: float, diameter: float | None
    ) -> NDArray[np.int32]:
        bundle, predictor = self._loaded()
        factor = self._factor(diameter)
        values = np.nan_to_num(np.asarray(plane, np.float32), posinf=0.0, neginf=0.0)
        whole: YX = image.full_shape or (plane.shape[0], plane.shape[1])
        inside, depth = predict_depths(
            values, noise, image.origin, whole, factor, bundle.card, predictor
        )
        usual = diameter or DIAMETER_PX
        mask = fill_small_holes(inside > LEAST_INSIDE, int(usual / 2))
        labels = split_objects(
            mask, ndimage.gaussian_filter(depth, ROUNDING_PX / factor), PASS_SHARE
        )
        labels = remove_small(labels, LEAST_AREA * math.pi / 4 * usual**2)
        deepest = np.zeros(int(labels.max(initial=0)) + 1)
        np.maximum.at(deepest, labels.ravel(), depth.ravel())
        return np.where(deepest[labels] >= LEAST_DEPTH, labels, 0)

    def _bundle(self) -> Bundle:
        return checked_bundle(self.model)

    def _loaded(self) -> Any:
        return MODEL_CACHE.get(self.model, str(self.weights), self.device)

    def _factor(self, diameter: float | None) -> float:
        return 1.0 if diameter is None else DIAMETER_PX / diameter

    def _diameter(self, spacing_um: tuple[float, float] | None) -> float | None:
        """Return the diameter for an image of a spacing, pixels; None if none is given."""
        if self.diameter_um is None:
            return self.diameter_px
        spacing = isotropic_spacing(spacing_um)
        if math.isnan(spacing):
            raise ImageFailed("spacing_needed")
        diameter = self.diameter_um / spacing
        if not 4 <= diameter <= 1000:
            raise ImageFailed("diameter_out_of_range")
        return diameter

    def _plane(self, image: Image) -> tuple[NDArray[Any], float]:
        """Return the grey plane with the nuclei, and its noise."""
        channels = image.pixels.shape[0]
        noise = dict(enumerate(image.noise_sd))
        if self.channel is not None:
            chosen = image.channel(self.channel)
            plane, known = image.pixels[chosen], noise.get(chosen)
        elif not image.has_luminance:
            raise ImageFailed("channel_needed")
        else:
            plane, known = luminance(image.pixels), noise.get(channels if channels > 1 else 0)
        least = 0.0 if plane.dtype.kind == "f" else LEAST_NOISE
        return plane, max(noise_sd(plane) if known is None else known, least)
