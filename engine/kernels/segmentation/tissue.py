"""Classes of marrow tissue, and the bone density derived from them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Tissue(IntEnum):
    """Classes of the pixels of a marrow slide; the order of labels everywhere."""

    BACKGROUND = 0
    BONE = 1
    FAT = 2
    OTHER = 3


COLOURS: dict[Tissue, str] = {
    Tissue.BACKGROUND: "#ffffff",
    Tissue.BONE: "#e69f00",
    Tissue.FAT: "#f0e442",
    Tissue.OTHER: "#0072b2",
}
"""Colours safe for colour-blind readers: M. Okabe, K. Ito, Color Universal Design (2008)."""


def class_areas(labels: NDArray[np.integer]) -> tuple[int, int, int, int]:
    """Return the number of pixels of each class, in the order of `Tissue`.

    Parameters
    ----------
    labels
        (y, x), values of `Tissue`.
    """
    counts = np.bincount(np.ravel(labels), minlength=len(Tissue))
    return int(counts[0]), int(counts[1]), int(counts[2]), int(counts[3])


def bone_density(areas: Sequence[float]) -> float:
    """Return bone over tissue: bone / (bone + fat + other); NaN where there is no tissue.

    Parameters
    ----------
    areas
        Of each class, in the order of `Tissue`, in any unit of area.

    Examples
    --------
    >>> bone_density((900, 25, 25, 50))
    0.25
    """
    tissue = areas[Tissue.BONE] + areas[Tissue.FAT] + areas[Tissue.OTHER]
    return float(areas[Tissue.BONE] / tissue) if tissue > 0 else float("nan")
