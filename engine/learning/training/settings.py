"""What a training is asked for: values that, with the images, decide its weights to the bit."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.errors import ParameterError, UsageError, did_you_mean
from engine.store.digests import digest_of

FRIENDLY = {"dict_type": """an object in JSON, like '{"width": 16}'"""}

NEUTRAL = frozenset({"steps", "name"})
"""Settings that a training may go on with changed: it only lasts longer, or is called otherwise."""


class Augmentation(BaseModel):
    """How far crops are changed; 0 (1 for ``scale``) leaves out that change.

    Attributes
    ----------
    scale
        Largest factor by which structures are made larger or smaller.
    turn
        Whether crops are turned by any angle. What lies beyond the slide is filled with the
        slide's own ground.
    flip
        Whether half of the crops are mirrored.
    elastic_px
        Standard deviation of the displacement of points that are 64 px apart, pixels.
    colour
        Stains and light, in terms of what differs between laboratories: 1 is usual, 2 is a lot.
    texture
        Blur and noise: 1 is that of common cameras.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    scale: float = Field(default=1.4, ge=1, le=4)
    turn: bool = True
    flip: bool = True
    elastic_px: float = Field(default=4.0, ge=0, le=32)
    colour: float = Field(default=1.0, ge=0, le=4)
    texture: float = Field(default=1.0, ge=0, le=4)


class TrainingSettings(BaseModel):
    """How a network is trained. Frozen.

    Attributes
    ----------
    name
        What the model is called.
    architecture, options
        See `engine.kernels.networks.factory.create_network`.
    steps
        Batches to train with, in all.
    batch, crop_px
        Crops in a batch, and their side, pixels.
    learning_rate
        Of Adam, at first.
    validate_every
        Steps from one validation to the next; the learning rate is looked at once in each.
    patience, factor
        After how many validations without a better loss the learning rate is multiplied by what.
    holdout
        Share of the subjects that is held out, to validate with.
    seed
        Of split, weights, crops and their changes.
    tile_px, halo_px
        For the card: how large images are cut.
    start
        Digest of the model whose weights it begins with; random ones by default.
    augmentation
        How crops are changed.

    Raises
    ------
    ParameterError
        If a value can't be.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(default="model", min_length=1, max_length=100)
    architecture: Literal["unet", "deeplabv3", "fusion", "ensemble"] = "unet"
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
        """SHA-256 of all that decides the weights after some step."""
        return digest_of(self.model_dump(mode="json", exclude=set(NEUTRAL), exclude_none=True))
