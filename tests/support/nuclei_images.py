"""Annotated images of nuclei: their looks, and the halves to train on and to measure on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.io import imread

FLUORESCENCE, STAINED, BRIGHT_FIELD = "fluorescence", "stained", "bright-field"


@dataclass(frozen=True)
class NucleiImage:
    """Annotated image: pixels as stored, instances, look, and whether it is trained on."""

    name: str
    pixels: NDArray[Any]
    instances: NDArray[Any]

    @property
    def look(self) -> str:
        """The look, from the pixels alone: colours are stains, bright grey is bright field."""
        if self.pixels.ndim == 3 and np.ptp(self.pixels, axis=2).max() > 0:
            return STAINED
        return BRIGHT_FIELD if np.median(self.pixels) > 127 else FLUORESCENCE

    @property
    def trained_on(self) -> bool:
        """Whether the image belongs to the half for training."""
        return hashlib.sha256(self.name.encode()).digest()[0] % 2 == 1


def nuclei_images(folder: Path) -> Iterator[NucleiImage]:
    """Yield the images of a folder with the folders ``images`` and ``labels``, by name."""
    for path in sorted((folder / "images").glob("*.png")):
        yield NucleiImage(path.stem, imread(path), imread(folder / "labels" / path.name))
