"""Training of the weights of ``nuclei``: ``python -m tests.train_nuclei IMAGES FOLDER``.

IMAGES has the folders ``images`` and ``labels``; FOLDER receives a training for each stage, and the
model of the last one is ``FOLDER/STAGE/best-loss``. Only the half for training is read. A stopped
training goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.kernels.colour import luminance
from engine.kernels.noise import noise_sd
from engine.kernels.segmentation.local_contrast import BRIGHTEST, DARKEST, local_contrast
from engine.learning.datasets.depths import DEPTHS, depth_classes
from engine.learning.datasets.samples import Sample, sample_digest
from engine.learning.models.bundle import open_bundle
from engine.learning.models.card import make_classes
from engine.learning.training.loop import run_training
from engine.learning.training.report import Progress
from engine.learning.training.settings import Augmentation, TrainingSettings
from engine.operations.image import Image
from engine.operations.nuclei.operation import LEAST_NOISE
from tests.support.nuclei_images import FLUORESCENCE, NucleiImage, nuclei_images

STAGES = ((1500, 4e-3, True), (500, 2e-3, False), (250, 5e-4, False))
"""Steps and learning rate of each stage, which begins with the best weights of the one before, and
whether contrast is `limited`: the first stage was made so, and hardly told nuclei that touch apart
where both are bright."""


def limited(contrast: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return contrast that grows linearly from 0, three deviations below the mean, to 1 at five."""
    deviations = np.sinh(contrast * (BRIGHTEST - DARKEST) + DARKEST)
    return np.clip((deviations + 3) / 8, 0, 1)


def sample_of(given: NucleiImage, is_limited: bool) -> Sample:
    """Return an image as the network sees it, with the classes to learn."""
    plane = luminance(Image.of(given.pixels).pixels)
    contrast = local_contrast(plane, max(noise_sd(plane), LEAST_NOISE))
    if is_limited:
        contrast = limited(contrast)
    labels = depth_classes(given.instances)
    digest = sample_digest(contrast, labels)
    return Sample(given.name, given.name, contrast[None], labels, digest)


def tell(stage: int, progress: Progress) -> None:
    """Print validations."""
    if progress.metrics:
        print(stage, progress.step, {k: round(v, 3) for k, v in progress.metrics.items()})


def main() -> None:
    """Train in stages, each with a lower learning rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=float, default=1.0, help="share of the stages' steps")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    images = [
        image
        for image in nuclei_images(given.images)
        if image.trained_on and image.look == FLUORESCENCE
    ]
    start = None
    for number, (steps, rate, is_limited) in enumerate(STAGES, 1):
        settings = TrainingSettings(
            name="nuclei",
            architecture="halfunet",
            options={"width": given.width},
            steps=max(1, round(steps * given.steps)),
            batch=4,
            crop_px=160,
            learning_rate=rate,
            validate_every=max(1, round(100 * given.steps)),
            patience=2,
            holdout=0.15,
            tile_px=256,
            halo_px=96,
            augmentation=Augmentation(scale=1.6, elastic_px=2.0, colour=1.5),
            start=None if start is None else start.digest,
        )
        place = given.folder / f"stage-{number}"
        if (place / "best-loss").exists():
            start = open_bundle(place / "best-loss")
            continue
        samples = [sample_of(image, is_limited) for image in images]
        report = run_training(
            place, samples, settings, classes=make_classes(DEPTHS), start=start,
            made_by="python -m tests.train_nuclei IMAGES FOLDER", device="cpu",
            progress=partial(tell, number),
        )  # fmt: skip
        start = open_bundle(report.models["best-loss"])
    assert start is not None
    print(start.directory)


if __name__ == "__main__":
    main()
