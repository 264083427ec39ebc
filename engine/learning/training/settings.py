"""Training settings: with the images, they determine the weights bit by bit."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import ParameterError, UsageError, did_you_mean
from engine.store.digests import digest_of

FRIENDLY = {"dict_type": """an object in JSON, like '{"width": 16}'"""}

NEUTRAL = frozenset({"steps", "name"})
"""Settings that may change on resumption: the training only gets longer, or another name."""


class Augmentation(BaseModel):
    """Strengths of the augmentation; 0 (1 for ``scale``) turns a change off.

    Attributes
    ----------
    scale
        Largest scale factor of structures, up or down.
    turn
        Whether crops are turned by any angle. Pixels beyond the slide get the slide's background
        colour.
    flip
        Whether half of the crops are mirrored.
    elastic_px
        Standard deviation of the displacement of points that are 64 px apart, pixels.
    colour
        Stains and light, relative to differences between laboratories: 1 is usual, 2 is strong.
    texture
        Blur and noise: 1 corresponds to common cameras.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    scale: float = Field(default=1.4, ge=1, le=4)
    turn: bool = True
    flip: bool = True
    elastic_px: float = Field(default=4.0, ge=0, le=32)
    colour: float = Field(default=1.0, ge=0, le=4)
    texture: float = Field(default=1.0, ge=0, le=4)


class TrainingSettings(BaseModel):
    """Settings of a training. Frozen.

    Attributes
    ----------
    name
        Name of the model.
    architecture, options
        See `engine.kernels.networks.factory.create_network`.
    steps
        Total number of batches.
    batch, crop_px
        Crops in a batch, and their side, pixels.
    learning_rate
        Initial learning rate of Adam.
    validate_every
        Steps between validations; the learning rate is reviewed at each validation.
    patience, factor
        Number of validations without a better loss after which the learning rate is reduced, and
        the factor of the reduction.
    holdout
        Share of the subjects that is held out for validation.
    seed
        Seed of split, weights, crops and their changes.
    tile_px, halo_px
        For the card: tiling of large images.
    start
        Digest of the model to start from; random weights by default.
    augmentation
        Augmentation of crops.

    Raises
    ------
    ParameterError
        If a value is invalid.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(default="model", min_length=1, max_length=100)
    architecture: Literal["unet", "halfunet", "deeplabv3", "fusion", "ensemble"] = "unet"
    options: dict[str, Any] = {}
    steps: int = Field(default=4000, ge=1)
    batch: int = Field(default=8, ge=1)
    crop_px: int = Field(default=256, ge=16)
    learning_rate: float = Field(default=2e-3, gt=0)
    validate_every: int = Field(default=200, ge=1)
    patience: int = Field(default=3, ge=0)
    factor: float = Field(default=0.5, gt=0, lt=1)
    holdout: float = Field(default=0.25, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    tile_px: int = Field(default=512, ge=16)
    halo_px: int = Field(default=128, ge=0)
    augmentation: Augmentation = Augmentation()
    start: str | None = None

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            message = first["msg"].lower().removeprefix("input should be ")
            if first["type"] == "extra_forbidden":
                known = (Augmentation if len(first["loc"]) > 1 else type(self)).model_fields
                last = str(first["loc"][-1])
                raise UsageError(
                    f"A training has no setting {name!r} (there are {', '.join(known)})"
                    f"{did_you_mean(last, known) or '.'}"
                ) from None
            message = FRIENDLY.get(first["type"], message)
            raise ParameterError(name, first["input"], message) from None

    @property
    def digest(self) -> str:
        """SHA-256 of all settings that determine the weights after a given step."""
        return digest_of(self.model_dump(mode="json", exclude=set(NEUTRAL), exclude_none=True))
