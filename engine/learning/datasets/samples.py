"""Training samples: an image, its labels, and the metadata for cutting crops."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import ParameterError
from engine.geometry import YX

CELL_PX = 32
"""Side of the squares of the tissue grid, pixels."""

TISSUE_SHARE = 0.25
"""Least share of tissue in a square on which a crop may be centred."""

GROUND_PERCENTILE = 95
"""Brightness percentile used as background colour if no background is labelled."""

GROUND_PX = 1 << 18
"""Number of pixels for estimating a slide's background colour."""


class Array(Protocol):
    """Protocol of arrays that are read in parts, so that they may be files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def ndim(self) -> int:
        """Number of axes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values."""

    def __getitem__(self, index: Any, /) -> NDArray[Any]:
        """Return a part: an index with a slice for each axis."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Image with labels.

    Attributes
    ----------
    name, subject
        Identifiers of the image and its subject.
    pixels
        (c, y, x).
    labels
        (y, x) uint8; 0 is the background.
    digest
        Digest of pixels and labels.
    spacing_um
        Pixel spacing (y, x), micrometres, or None.
    content
        Digest of the pixels in the catalog; "" if they belong to no cohort.
    colours
        True if the channels are grey or colours instead of stains.
    """

    name: str
    subject: str
    pixels: Array
    labels: Array
    digest: str
    spacing_um: tuple[float, float] | None = None
    content: str = ""
    colours: bool = True

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or self.pixels.shape[1:] != self.labels.shape:
            raise ParameterError(
                "labels", self.labels.shape, f"of the image's shape, {self.pixels.shape[1:]}"
            )

    @property
    def shape(self) -> YX:
        """Height and width, pixels."""
        return self.labels.shape[0], self.labels.shape[1]


def sample_digest(pixels: NDArray[Any], labels: NDArray[np.uint8]) -> str:
    """Return the SHA-256 of an image and its labels, with their shapes and dtypes."""
    found = hashlib.sha256()
    for array in (pixels, labels):
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def data_digest(samples: Iterable[Sample], held_out: Iterable[str]) -> str:
    """Return the digest of a set of samples and of the held-out subjects, in any order."""
    out = frozenset(held_out)
    lines = sorted(f"{sample.digest} {sample.subject in out}" for sample in samples)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def tissue_cells(labels: NDArray[np.uint8], cell_px: int = CELL_PX) -> NDArray[np.int32]:
    """Return the first pixels (n, 2) of the squares with enough tissue for centring a crop.

    Parameters
    ----------
    labels
        (y, x); 0 is background.
    cell_px
        Side of a square, pixels; those at the lower and right edge may be smaller.

    Examples
    --------
    >>> labels = np.zeros((4, 4), np.uint8)
    >>> labels[2:, :2] = 3
    >>> tissue_cells(labels, cell_px=2).tolist()
    [[2, 0]]
    """
    at = [np.arange(0, side, cell_px) for side in labels.shape]
    tissue = (labels != 0).astype(np.float32)
    sums = np.add.reduceat(np.add.reduceat(tissue, at[0], axis=0), at[1], axis=1)
    heights, widths = (
        np.diff(np.append(a, side)) for a, side in zip(at, labels.shape, strict=True)
    )
    rows, columns = np.nonzero(sums >= TISSUE_SHARE * np.outer(heights, widths))
    return np.column_stack((at[0][rows], at[1][columns])).astype(np.int32)


def ground_colour(sample: Sample) -> NDArray[np.float32]:
    """Return the colour (c,) of a slide's background, which fills turned crops beyond the edge.

    The median of the pixels labelled as background; without any, a colour near the lightest.
    """
    step = max(1, int(np.sqrt(np.prod(sample.shape) / GROUND_PX)))
    few = sample.pixels[:, ::step, ::step]
    bare = sample.labels[::step, ::step] == 0
    if bare.any():
        return np.median(few[:, bare], axis=1).astype(np.float32)
    return np.percentile(few.reshape(len(few), -1), GROUND_PERCENTILE, axis=1).astype(np.float32)


def in_order(samples: Sequence[Sample]) -> list[Sample]:
    """Return samples in an order that is independent of the paths and names of files."""
    return sorted(samples, key=lambda sample: sample.digest)
