"""Workload on a cohort during power cuts: ingest, run, labels, pictures, training.

``python -m tests.distributed.power_work DISK SOURCES LOG REST_S SEED`` works until it is killed.
Each line of the log records a completed step, which must survive any power cut.
"""

from __future__ import annotations

import json
import random
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine
from engine.store.catalog.tables import read_images
from engine.store.pictures import read_picture_index
from tests.distributed.invariants import result_rows
from tests.support.images import grey, put
from tests.support.inprocess_client import here
from tests.support.label_operation import Bands
from tests.support.operations import Probe

COHORT, TRAINING = "cohort", "training/run"

PROBE = Probe()
BANDS = Bands()

NIGHT = 6
"""Number of images added per round."""

STEPS = 8
"""Steps of the training."""


def night(sources: Path, number: int) -> None:
    """Write the images of one round, including one copy."""
    for n in range(NIGHT):
        seed = number * NIGHT + n % (NIGHT - 1)
        put(sources / "d1" / f"s{n % 2}" / "e1" / f"n{number}i{n}.png", grey(seed, (24, 32)))


def work(place: Path, client: Any) -> Iterator[str]:
    """Do all work on a cohort, one step at a time."""
    cohort = engine.open(place)
    cohort.ingest(client=client)
    yield "ingest"
    cohort.run(PROBE, client=client)
    yield "run"
    cohort.run(BANDS, client=client)
    yield "labels"
    cohort.qc(PROBE, client=client)
    yield "qc"


def train(folder: Path) -> int:
    """Train a very small network, or resume; return the number of steps completed."""
    import torch

    from engine.learning.datasets.samples import Sample, sample_digest
    from engine.learning.training.loop import run_training
    from engine.learning.training.settings import TrainingSettings
    from engine.phantoms.marrow.slide import MarrowOptions, MarrowSlide

    torch.set_num_threads(1)
    options = MarrowOptions(images=3, size=(128, 128), scale=0.5, seed=13)
    samples = []
    for n in range(options.images):
        slide = MarrowSlide(options, n)
        whole = slide.whole()
        digest = sample_digest(whole.pixels, whole.labels)
        samples.append(Sample(slide.name, slide.name[:2], whole.pixels, whole.labels, digest))
    settings = TrainingSettings(
        options={"width": 4}, steps=STEPS, batch=1, crop_px=32, validate_every=4, patience=1,
        tile_px=64, halo_px=16,
    )  # fmt: skip
    run_training(folder, samples, settings, keep_every_s=0.0)
    return STEPS


def facts(disk: Path) -> dict[str, Any]:
    """Return the facts that a later state must also have."""
    place = disk / COHORT
    if not (place / "cohort.json").exists():
        return {}
    cohort = engine.open(place)
    _, images = read_images(cohort.store)
    found: dict[str, Any] = {"images": sorted(images["image_id"].to_pylist())}
    for operation in (PROBE, BANDS):
        name = operation.name
        if (place / f"results/{name}/v1").exists():
            rows = result_rows(place, operation.key, operation=name)
            found[name] = sorted(row["image_id"] for row in rows)
    found["pictures"] = sorted(
        name for _, name in read_picture_index(cohort.store, f"qc/{PROBE.name}")
    )
    found["models"] = sorted(path.name for path in (disk / TRAINING).glob("*/") if path.is_dir())
    return found


def main(disk: Path, sources: Path, log: Path, rest_s: float, seed: int) -> None:
    """Work until killed."""
    random_ = random.Random(seed)
    place = disk / COHORT
    (disk / "training").mkdir(exist_ok=True)

    def done(step: str) -> None:
        line = json.dumps({"step": step, **facts(disk)})
        with log.open("a") as file:
            file.write(line + "\n")
        time.sleep(random_.uniform(0, rest_s))

    with here() as client:
        for number in range(1000):
            night(sources, number)
            if not number:
                engine.create(place, layout="{date}/{subject}/{experiment}/{name}")
                toml = place / "cohort.toml"
                with toml.open("a") as file:
                    file.write("\n[limits]\nshard_images = 2\n")
                engine.open(place).ingest(sources, client=client)
                done("ingest")
            for step in work(place, client):
                done(step)
            if not number:
                train(disk / TRAINING)
                done("train")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    disk_, sources_, log_, rest_, seed_ = sys.argv[1:]
    main(Path(disk_), Path(sources_), Path(log_), float(rest_), int(seed_))
