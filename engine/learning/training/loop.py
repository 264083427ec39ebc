"""Training loop: from samples to weights, bit-identical after any number of interruptions.

All randomness is a function of seed and step, and the checkpoint holds the rest of the state: the
weights, the running statistics of normalisation, Adam's moments, and the schedule.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from engine.errors import ParameterError
from engine.kernels.colour import full_scale
from engine.kernels.networks.factory import create_network
from engine.kernels.networks.torch_predictor import NetworkPredictor
from engine.learning.datasets.samples import (
    Sample,
    data_digest,
    ground_colour,
    in_order,
    tissue_cells,
)
from engine.learning.models.bundle import Bundle
from engine.learning.models.card import RGB, Card, ClassCard, tissue_classes
from engine.learning.training.augmentation import cut, recolour
from engine.learning.training.best_weights import SELECTION_CRITERIA, BestWeights, write_bundles
from engine.learning.training.checkpoints import read_checkpoint, write_checkpoint
from engine.learning.training.crops import choose_crop, crop_rng
from engine.learning.training.curves import write_curves, write_picture
from engine.learning.training.finetune import load_initial_weights
from engine.learning.training.losses import training_loss
from engine.learning.training.report import Progress, TrainingReport
from engine.learning.training.run_folder import TrainingDiverged, lock_folder
from engine.learning.training.settings import TrainingSettings
from engine.learning.training.splits import split_subjects
from engine.learning.training.validation import validate
from engine.store.backend.atomic_write import atomic_write

CHECKPOINT_S = 20.0
"""Default interval between checkpoints, seconds."""

PICTURE_S = 10.0
"""Interval between plots of the curves during training, seconds; they are also drawn at its end."""

CHANNELS = {1: ("grey",), 3: RGB}

GEOMETRY, LOOK = 0, 1
"""Streams of random numbers of a crop."""


def run_training(  # noqa: PLR0913 - options by name
    folder: str | Path,
    samples: Sequence[Sample],
    settings: TrainingSettings,
    *,
    classes: tuple[ClassCard, ...] | None = None,
    start: Bundle | None = None,
    made_by: str | None = None,
    device: str | None = None,
    keep_every_s: float = CHECKPOINT_S,
    progress: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> TrainingReport:
    """Train a network on samples, or resume a killed or stopped training.

    Parameters
    ----------
    folder
        Receives ``checkpoint.pt``, ``curves.parquet``, ``curves.png``, and at the end a model
        folder each for the best by loss, by density and by DSC, and for the last.
    samples
        Training data, in any order; whole subjects are held out.
    settings
        Settings of the training.
    classes
        In the order of the labels; those of marrow by default.
    start
        The model named in the settings as a start; see `engine.learning.training.finetune`.
    made_by
        The command, for the models' cards.
    device
        "cpu" or "cuda"; None selects CUDA if available. The caller sets torch's threads: sums of
        floats depend on their number, so a training with a different number is valid, but not
        bit-identical.
    keep_every_s
        Interval between checkpoints, besides those at validations, seconds: the most that a kill
        loses.
    progress
        Called after each step.
    stop
        Called before each step; if true, write a checkpoint and return the progress made.

    Raises
    ------
    NothingFound, ParameterError
        If there is no training data, or the samples differ in kind.
    TrainingDiverged
        If the loss is no longer finite.
    OtherTraining, TrainingBusy, CheckpointUnreadable
        If the folder's training can't be resumed.
    """
    place = Path(folder)
    with lock_folder(place):
        training = _Training(place, in_order(samples), settings, classes, made_by, device, start)
        return training.run(progress, stop, keep_every_s)


class _Training:
    """State of a training."""

    def __init__(
        self,
        folder: Path,
        samples: list[Sample],
        settings: TrainingSettings,
        classes: tuple[ClassCard, ...] | None,
        made_by: str | None,
        device: str | None,
        start: Bundle | None,
    ) -> None:
        self.folder, self.settings, self.made_by = folder, settings, made_by
        self.classes = classes or tissue_classes()
        out = split_subjects([s.subject for s in samples], settings.holdout, settings.seed)
        self.trained = [s for s in samples if s.subject not in out]
        self.held_out = [s for s in samples if s.subject in out]
        self.contents = _contents(self.trained, start)
        self.channels, self.full = _alike(samples)
        self.digest = data_digest(samples, out)
        self.identity = {"settings": settings.digest, "images": self.digest}
        self.spacing_um = _spacing(samples)
        self.cells = [tissue_cells(s.labels[:, :]) for s in self.trained]
        self.grounds = [ground_colour(s) for s in self.trained]
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            network = create_network(
                settings.architecture, settings.options, self.channels, len(self.classes)
            )
        half = (self.full / 2,) * self.channels
        if settings.start is not None:
            load_initial_weights(network, start, settings, half)
        # Moves the network to the device; training and validation share it.
        self.predictor = NetworkPredictor(network, half, half, self.device.type)
        self.network = self.predictor.network
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate)
        self.schedule = ReduceLROnPlateau(
            self.optimizer, factor=settings.factor, patience=settings.patience
        )
        self.step, self.since = 0, 0
        self.drawn_s = time.monotonic()
        self.sum_loss = 0.0
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, BestWeights] = {}

    def run(
        self, progress: Callable[[Progress], None], stop: Callable[[], bool], keep_every_s: float
    ) -> TrainingReport:
        began = time.monotonic()
        self._resume()
        resumed_at, kept_s = self.step, began
        self.network.train()
        for pixels, labels in self._batches():
            if stop():
                break
            loss = self._take_step(pixels, labels)
            self._require_number(loss)
            told = Progress(self.step, self.settings.steps, loss)
            if self.step % self.settings.validate_every == 0 or self.step == self.settings.steps:
                told = Progress(self.step, self.settings.steps, loss, self._validate())
                kept_s = time.monotonic()
            elif time.monotonic() - kept_s > keep_every_s:
                self._keep()
                kept_s = time.monotonic()
            progress(told)
        if self.step < self.settings.steps:
            self._keep()
        models = self._write_models()
        return TrainingReport(
            str(self.folder),
            self.step,
            self.settings.steps,
            resumed_at,
            len(self.trained),
            len(self.held_out),
            tuple(sorted({s.subject for s in self.held_out})),
            models,
            {name: best.metrics for name, best in self.best.items()},
            time.monotonic() - began,
        )

    def _require_number(self, loss: float) -> None:
        """Stop before non-finite weights are stored."""
        if not math.isfinite(loss):
            self._write_models()
            raise TrainingDiverged(str(self.folder), self.step)

    def _write_models(self) -> dict[str, str]:
        """Write the models of the best weights so far, and return their folders by name."""
        if not self.rows:
            return {}
        write_picture(self.folder, self.rows)
        return write_bundles(self.folder, self._card(), self.best, self.contents)

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the remaining batches, cutting the next one during a training step."""
        with ThreadPoolExecutor(1, thread_name_prefix="crops") as thread:
            upcoming = None
            for step in range(self.step, self.settings.steps):
                here = upcoming or thread.submit(self._batch, step)
                upcoming = thread.submit(self._batch, step + 1)
                yield here.result()

    def _batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        change, seed = self.settings.augmentation, self.settings.seed
        pixels, labels = [], []
        for n in range(self.settings.batch):
            rng = crop_rng(seed, step, n, GEOMETRY)
            crop = choose_crop(self.cells, self.settings.crop_px, change, rng)
            sample = self.trained[crop.sample]
            image, label = cut(sample, crop, self.grounds[crop.sample], self.full)
            look = crop_rng(seed, step, n, LOOK)
            pixels.append(recolour(image, change, look, colours=sample.colours))
            labels.append(label)
        images = torch.stack(pixels) * 2 - 1  # the card's normalisation: half of full scale
        return images.contiguous(memory_format=torch.channels_last), torch.stack(labels)

    def _take_step(self, pixels: torch.Tensor, labels: torch.Tensor) -> float:
        cuda = self.device.type == "cuda"
        pixels, labels = pixels.to(self.device), labels.to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=cuda):
            scores = self.network(pixels)
        loss = training_loss(scores, labels)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        self.since += 1
        value = float(loss.detach())
        self.sum_loss += value
        return value

    def _validate(self) -> dict[str, float]:
        """Validate on the held-out images: curves, schedule, best weights, and checkpoint."""
        rate = self.optimizer.param_groups[0]["lr"]
        self.network.eval()
        names = [c.name for c in self.classes]
        metrics = validate(
            self.predictor,
            self.held_out,
            names,
            self.settings.tile_px,
            self.settings.halo_px,
            self.settings.batch,
        )
        self.network.train()
        self._require_number(metrics["loss"])
        self.schedule.step(metrics["loss"])
        trained = self.sum_loss / self.since
        self.rows.append(
            {"step": self.step, "learning_rate": rate, "train_loss": trained, **metrics}
        )
        self.sum_loss, self.since = 0.0, 0
        self._compare(metrics)
        self._keep()
        write_curves(self.folder, self.rows)
        if time.monotonic() - self.drawn_s > PICTURE_S:
            write_picture(self.folder, self.rows)
            self.drawn_s = time.monotonic()
        return metrics

    def _compare(self, metrics: dict[str, float]) -> None:
        """Store the weights if they are the best so far; write the file before it is referenced."""
        weights: bytes | None = None
        for name, (metric, sign) in SELECTION_CRITERIA.items():
            before = self.best.get(name)
            value = sign * metrics[metric] if metric else -self.step
            if math.isnan(value) or (before is not None and value >= before.value):
                continue
            if weights is None:
                plain = {k: v.cpu().contiguous() for k, v in self.network.state_dict().items()}
                weights = safetensors.torch.save(plain)
                atomic_write(self.folder / BestWeights.file_of(self.step), weights)
            self.best[name] = BestWeights(self.step, value, metrics)

    def _keep(self) -> None:
        write_checkpoint(
            self.folder,
            {
                "identity": self.identity,
                "step": self.step,
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "since": self.since,
                "sum_loss": self.sum_loss,
                "rows": self.rows,
                "best": {name: best.as_state() for name, best in self.best.items()},
                "threads": torch.get_num_threads(),
            },
        )
        named = {BestWeights.file_of(best.step) for best in self.best.values()}
        for path in self.folder.glob(BestWeights.PATTERN):
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _resume(self) -> None:
        state = read_checkpoint(self.folder, self.identity)
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.since = state["step"], state["since"]
        self.sum_loss, self.rows = state["sum_loss"], state["rows"]
        self.best = {name: BestWeights.of_state(kept) for name, kept in state["best"].items()}

    def _card(self) -> Card:
        half = (self.full / 2,) * self.channels
        names = tuple(f"channel_{n}" for n in range(self.channels))
        if all(sample.colours for sample in (*self.trained, *self.held_out)):
            names = CHANNELS.get(self.channels, names)
        return Card(
            name=self.settings.name,
            architecture=self.settings.architecture,
            options=self.settings.options,
            classes=self.classes,
            channels=names,
            mean=half,
            sd=half,
            spacing_um=self.spacing_um,
            tile_px=self.settings.tile_px,
            halo_px=self.settings.halo_px,
            training_digest=self.digest,
            made_by=self.made_by,
        )


def _contents(trained: Sequence[Sample], start: Bundle | None) -> frozenset[str]:
    """Return the known contents of the images that the weights were trained on."""
    earlier = None if start is None else start.trained_on()
    return (earlier or frozenset()) | {sample.content for sample in trained if sample.content}


def _alike(samples: Sequence[Sample]) -> tuple[int, float]:
    """Return the channels and the full scale that all samples share."""
    kinds = {(s.pixels.shape[0], np.dtype(s.pixels.dtype)) for s in samples}
    if len(kinds) != 1:
        told = sorted(f"{channels} channels of {dtype}" for channels, dtype in kinds)
        raise ParameterError("images", told, "of one kind; choose some with --where")
    ((channels, dtype),) = kinds
    return channels, full_scale(dtype)


def _spacing(samples: Sequence[Sample]) -> float | None:
    """Return the median pixel size of the samples; None if it is unknown for any of them."""
    sides = [s.spacing_um for s in samples if s.spacing_um is not None]
    return float(np.median(sides)) if len(sides) == len(samples) else None
