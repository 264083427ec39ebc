"""The shipped weights and the baseline on made marrow slides whose seeds no training saw."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

import engine
from engine.learning.evaluation.scores import (
    MARROW,
    confusion,
    densities_of,
    dice_of,
    relative_error,
)
from engine.phantoms.marrow.options import MarrowOptions
from engine.phantoms.marrow.slide import MarrowSlide

SETS = {
    "as one laboratory's": MarrowOptions(images=20, seed=20_261_125),
    "as several laboratories'": MarrowOptions(images=6, variety=2.5, seed=20_261_126),
}
MODELS = ("marrow", "baseline")


def score(options: MarrowOptions) -> dict[str, dict[str, float]]:
    """Return mean DSC of each class and median error of bone density, of each model."""
    operations = {name: engine.segment(model=name, device="cpu") for name in MODELS}
    dices: dict[str, list[Any]] = {name: [] for name in MODELS}
    errors: dict[str, list[float]] = {name: [] for name in MODELS}
    spent = dict.fromkeys(MODELS, 0.0)
    for number in range(options.images):
        slide = MarrowSlide(options, number).whole()
        for name, operation in operations.items():
            began = time.perf_counter()
            found = operation.segment(slide.pixels)
            spent[name] += time.perf_counter() - began
            counts = confusion(slide.labels, found, len(MARROW))
            dices[name].append(dice_of(counts))
            errors[name].append(relative_error(*densities_of(counts)))
    return {
        name: {
            **dict(zip(MARROW, np.nanmean(dices[name], axis=0).tolist(), strict=True)),
            "density_error": float(np.nanmedian(errors[name])),
            "s_a_slide": spent[name] / options.images,
        }
        for name in MODELS
    }


def main() -> dict[str, Any]:
    """Print a line for each model and set, and return the figures."""
    figures = {}
    for title, options in SETS.items():
        figures[title] = score(options)
        print(f"{options.images} marrow slides of {options.size}, that differ {title}:")
        for name, found in figures[title].items():
            told = ", ".join(f"{c} {found[c]:.3f}" for c in MARROW[1:] if math.isfinite(found[c]))
            print(
                f"  {name:<10} DSC {told}; bone density off by {100 * found['density_error']:.2f} %"
                f" (median); {found['s_a_slide']:.1f} s a slide"
            )
    return figures


if __name__ == "__main__":
    main()
