"""Model cards: the metadata needed to use a model's weights, and their provenance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.errors import EngineError, ParameterError
from engine.kernels.segmentation.tissue import COLOURS, Tissue

CARD_FILE = "card.json"

RGB = ("red", "green", "blue")

ONNX = "onnx"
"""Architecture of models with a graph of their own."""

PALETTE = ("#ffffff", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
"""Default colours of classes (M. Okabe, K. Ito, 2008); after the last, repeated from the second."""

FRIENDLY = {"extra_forbidden": "a name that cards know"}


class CardError(EngineError, ValueError):
    """A model's card can't be used: (location, problem)."""

    exit_code = 2

    def __str__(self) -> str:
        where, problem = self.args
        return f"{where}: {problem}. See: cohort model import --help"


class ClassCard(BaseModel):
    """One class of a model; its label is its index in the list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    colour: str = Field(pattern=r"^#[0-9a-f]{6}$")
    countable: bool = False
    """True if its areas are objects (fat vacuoles, nuclei) that are measured one by one."""


class WeightsCard(BaseModel):
    """Weights file of the bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Literal["weights.safetensors", "model.onnx"]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    nbytes: int = Field(gt=0)


def tissue_classes() -> tuple[ClassCard, ...]:
    """Return the classes of marrow: background, bone, fat (countable), other."""
    return tuple(
        ClassCard(name=t.name.lower(), colour=COLOURS[t], countable=t is Tissue.FAT) for t in Tissue
    )


def make_classes(names: Sequence[str]) -> tuple[ClassCard, ...]:
    """Return classes of these names, in the order of the labels, with colours.

    Tissues of marrow have colours of their own, and fat is countable; others get palette colours.

    Examples
    --------
    >>> [c.colour for c in make_classes(["background", "inner"])]
    ['#ffffff', '#e69f00']
    """
    known = {each.name: each for each in tissue_classes()}
    if set(names) <= set(known):
        return tuple(known[name] for name in names)
    colours = [PALETTE[0] if not n else PALETTE[1 + (n - 1) % 7] for n in range(len(names))]
    return tuple(ClassCard(name=n, colour=c) for n, c in zip(names, colours, strict=True))


class Card(BaseModel):
    """Description of a model. Frozen; equal content gives equal JSON.

    Attributes
    ----------
    architecture, options
        Arguments of `engine.kernels.networks.factory.create_network`; or "onnx", without options.
    classes
        In the order of the labels.
    channels
        Names of the input planes, e.g. red, green, blue.
    mean, sd
        Per channel: subtracted from a pixel, and then divided by.
    spacing_um
        Pixel size of the training images, micrometres; None if unknown.
    tile_px, halo_px
        Sides of the tiles of a large image and their context, pixels.
    multiple_px
        For ONNX: sides must be multiples of this; other sizes are padded.
    gives
        For ONNX: whether the graph outputs "scores" or "probabilities".
    training_digest
        Digest of the training images and masks.
    metrics
        Measured scores, by name.
    made_by
        Command that made the weights.
    weights
        None until the weights exist.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    name: str = Field(min_length=1, max_length=100)
    architecture: str
    options: dict[str, Any] = {}
    classes: tuple[ClassCard, ...] = Field(default_factory=tissue_classes, min_length=2)
    channels: tuple[str, ...] = Field(default=RGB, min_length=1)
    mean: tuple[float, ...] = (127.5, 127.5, 127.5)
    sd: tuple[float, ...] = (127.5, 127.5, 127.5)
    spacing_um: float | None = Field(default=None, gt=0)
    tile_px: int = Field(default=512, ge=16)
    halo_px: int = Field(default=128, ge=0)
    multiple_px: int = Field(default=1, ge=1)
    gives: Literal["scores", "probabilities"] = "scores"
    training_digest: str | None = None
    metrics: dict[str, float] = {}
    made_by: str | None = None
    weights: WeightsCard | None = None

    @model_validator(mode="after")
    def _fits(self) -> Card:
        if not len(self.mean) == len(self.sd) == len(self.channels) or min(self.sd) <= 0:
            raise ParameterError(
                "mean, sd", (self.mean, self.sd), "one for each of the channels, sd positive"
            )
        if len({c.name for c in self.classes}) < len(self.classes) or len(self.classes) > 255:
            raise ParameterError(
                "classes", [c.name for c in self.classes], "different names, at most 255"
            )
        if self.architecture == ONNX and self.options:
            raise ParameterError("options", self.options, "none for ONNX: its graph has them")
        return self

    def to_json(self) -> bytes:
        """Return the card as the JSON bytes of a bundle; equal content gives equal bytes."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2, allow_nan=False)
        return (text + "\n").encode()

    @property
    def white(self) -> float | None:
        """The pixel value that maps to 1 if 0 maps to -1; None for any other normalisation.

        Examples
        --------
        >>> Card(name="of 8 bits", architecture="unet").white
        255.0
        """
        (mean, sd), *others = set(zip(self.mean, self.sd, strict=True))
        return 2 * mean if mean == sd and not others else None

    @property
    def digest(self) -> str:
        """SHA-256 of the card, which covers the weights through their SHA-256."""
        return hashlib.sha256(self.to_json()).hexdigest()


def read_card(values: Mapping[str, Any], where: str) -> Card:
    """Validate a card's values.

    Parameters
    ----------
    values
        Values parsed from JSON.
    where
        Name of the card in errors.

    Raises
    ------
    CardError
    """
    try:
        return Card.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        name = ".".join(str(part) for part in first["loc"])
        message = FRIENDLY.get(first["type"], first["msg"])
        raise CardError(where, str(cause) if cause else f"{name}: {message}") from None
