"""Scores of `nuclei` on annotated images: ``python -m tests.benchmarks.nuclei_quality IMAGES``.

IMAGES has the folders ``images`` and ``labels`` (see `tests.support.nuclei_images`). Scores are by
look and by half: weights are trained, and parameters chosen, on the first one.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

import engine
from engine.operations.image import Image
from tests.support.instance_scores import Matches, match
from tests.support.nuclei_images import FLUORESCENCE, nuclei_images


def main() -> None:
    """Print mean average precision and pooled F1, by look, half and model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("--model", action="append", help="threshold by default; may be repeated")
    given = parser.parse_args()
    print(
        "| model | look | half | images | AP at 0.5 | F1 |", "|---|---|---|---|---|---|", sep="\n"
    )
    for model in given.model or ["threshold"]:
        found: dict[tuple[str, str], list[Matches]] = defaultdict(list)
        for image in nuclei_images(given.images):
            polarity = "bright" if image.look == FLUORESCENCE else "dark"
            operation = engine.nuclei(model=model, polarity=polarity)
            labels = np.asarray(operation.measure(Image.of(image.pixels))["labels"])
            half = "trained on" if image.trained_on else "held out"
            found[image.look, half].append(match(labels, image.instances))
        for (look, half), matches in sorted(found.items()):
            precision = np.mean([one.average_precision for one in matches])
            pooled = sum(matches, Matches()).f1
            print(
                f"| {model} | {look} | {half} | {len(matches)} | {precision:.3f} | {pooled:.3f} |"
            )


if __name__ == "__main__":
    main()
