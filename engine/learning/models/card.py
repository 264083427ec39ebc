"""A model's card: all that must be known to use its weights, and where they come from."""

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
"""Architecture of models that come with their own graph."""

PALETTE = ("#ffffff", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
"""Colours of classes that bring none (M. Okabe, K. Ito, 2008), again from the second at the end."""

FRIENDLY = {"extra_forbidden": "a name that cards know"}


class CardError(EngineError, ValueError):
    """A model's card can't be used: (where, problem)."""

    exit_code = 2

    def __str__(self) -> str:
        where, problem = self.args
        return f"{where}: {problem}. See: cohort model import --help"


class ClassCard(BaseModel):
    """One class that a model tells apart; its label is its place in the list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    colour: str = Field(pattern=r"^#[0-9a-f]{6}$")
    countable: bool = False
    """Whether its areas are objects (fat vacuoles, nuclei), measured one by one."""


class WeightsCard(BaseModel):
    """The file beside the card."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Literal["weights.safetensors", "model.onnx"]
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    nbytes: int = Field(gt=0)


def tissue_classes() -> tuple[ClassCard, ...]:
    """Return the classes of marrow: background, bone, fat (countable), other."""
    return tuple(
        ClassCard(name=t.name.lower(), colour=COLOURS[t], countable=t is Tissue.FAT) for t in Tissue
    )


def classes_named(names: Sequence[str]) -> tuple[ClassCard, ...]:
    """Return classes of these names, in the order of the labels, with colours.

    Tissues of marrow have their own, and fat is countable; others get some of the palette.

    Examples
    --------
    >>> [c.colour for c in classes_named(["background", "inner"])]
    ['#ffffff', '#e69f00']
    """
    known = {each.name: each for each in tissue_classes()}
    if set(names) <= set(known):
        return tuple(known[name] for name in names)
    colours = [PALETTE[0] if not n else PALETTE[1 + (n - 1) % 7] for n in range(len(names))]
    return tuple(ClassCard(name=n, colour=c) for n, c in zip(names, colours, strict=True))


class Card(BaseModel):
    """What a model is. Frozen; its JSON is the same for the same content.

    Attributes
    ----------
    architecture, options
        What `engine.kernels.networks.factory.create_network` makes; or "onnx", with no options.
    classes
        In the order of the labels.
    channels
        Names of the planes that it takes, e.g. red, green, blue.
    mean, sd
        Per channel: what is subtracted from a pixel, and what it is then divided by.
    spacing_um
        Pixel size of what it was trained on, micrometres; None where it was not known.
    tile_px, halo_px
        Sides of the tiles of a large image and their context, pixels.
    multiple_px
        For ONNX: sides that the graph asks for are multiples of this; others are padded.
    gives
        For ONNX: whether the graph gives "scores" or "probabilities".
    training_digest
        Of the images and masks it was trained on.
    metrics
        What was measured of it, by name.
    made_by
        The command that made the weights.
    weights
        None until they are there.
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
        """Return the card as the bytes that a bundle holds; the same for the same content."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2, allow_nan=False)
        return (text + "\n").encode()

    @property
    def white(self) -> float | None:
        """The pixel value that becomes 1 where 0 becomes -1; None where values are centred else.

        Examples
        --------
        >>> Card(name="of 8 bits", architecture="unet").white
        255.0
        """
        (mean, sd), *others = set(zip(self.mean, self.sd, strict=True))
        return 2 * mean if mean == sd and not others else None

    @property
    def digest(self) -> str:
        """SHA-256 of the card, so of the weights too, whose SHA-256 it holds."""
        return hashlib.sha256(self.to_json()).hexdigest()


def read_card(values: Mapping[str, Any], where: str) -> Card:
    """Check a card's values.

    Parameters
    ----------
    values
        As parsed from JSON.
    where
        What to call it in errors.

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
