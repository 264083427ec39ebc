"""Compare predictions with masks on workers, which return counts and write error maps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.errors import EngineError, Interrupted, ParameterError
from engine.execution.progress import ProgressListener
from engine.execution.quarantine import TaskAttempt, map_tasks
from engine.execution.task_pool import TaskPool
from engine.execution.worker_memory import room_for
from engine.execution.workers import wait_for_slots
from engine.learning.datasets.masked_images import MaskedImage, reader_of
from engine.learning.datasets.masks import Masks
from engine.learning.evaluation.error_maps import draw_errors
from engine.learning.evaluation.evaluation import Scored
from engine.learning.evaluation.scores import confusion
from engine.operations.base import Image, ImageFailed
from engine.operations.failure_reasons import explain
from engine.operations.segment.operation import Segment
from engine.store.backend.atomic_write import atomic_write
from engine.store.backend.base import Store

if TYPE_CHECKING:
    from distributed import Client

ERRORS = "errors"
"""Folder of the error maps, within the folder of an evaluation."""

PACK = 8
"""Maximum images per task: large enough to read the catalog's rows rarely."""


class EvaluationLost(EngineError):
    """An image repeatedly crashed its worker: (image_id, attempts, memory or None)."""

    def __str__(self) -> str:
        image_id, attempts, need = self.args
        memory = "" if need is None else f", and {need}"
        return (
            f"{image_id} crashed its worker in {attempts} attempts{memory}. Give workers more "
            "memory, or leave the image out (--where)."
        )


class NoPrediction(EngineError):
    """A model has no prediction for an image of the evaluation: (image_id, reason)."""

    def __str__(self) -> str:
        image_id, reason = self.args
        return f"{image_id}: {' '.join(explain(reason, 'segment', of_source=False))}"


class PredictionSource(Protocol):
    """Source of the labels that are compared with masks; must be picklable."""

    def __call__(self, image: MaskedImage, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the labels (y, x) of an image."""


@dataclass(frozen=True, slots=True)
class ModelPrediction:
    """Prediction by a model."""

    operation: Segment

    def __call__(self, image: MaskedImage, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the model's labels."""
        return self.operation.segment(Image(pixels, image.noise_sd, image.spacing_um))


@dataclass(frozen=True, slots=True)
class StoredPrediction:
    """Prediction stored in label images."""

    labels: Masks

    def __call__(self, image: MaskedImage, pixels: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the stored labels."""
        return self.labels.read(image.image_id)


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    """Some images, the source of their labels, and their masks."""

    store: Store
    images: tuple[MaskedImage, ...]
    masks: Masks
    answer: PredictionSource
    classes: tuple[str, ...]
    folder: str

    @property
    def parts(self) -> tuple[MaskedImage, ...]:
        """Images, each of which may crash a worker."""
        return self.images

    def only(self, parts: Sequence[MaskedImage]) -> EvaluationTask:
        """Return the task with some of its images."""
        return replace(self, images=tuple(parts))

    def dry_run(self) -> EvaluationTask:
        """Return the task itself: it may run twice."""
        return self


def score_on_workers(  # noqa: PLR0913 - options by name
    client: Client,
    store: Store,
    images: Sequence[MaskedImage],
    masks: Masks,
    answer: PredictionSource,
    classes: tuple[str, ...],
    folder: Path,
    *,
    resources: dict[str, float],
    events: ProgressListener,
    stop: Callable[[], bool],
) -> list[Scored]:
    """Return the counts of all images, after writing their error maps to the folder.

    Raises
    ------
    Interrupted
        If ``stop`` returned True before the end.
    EvaluationLost, Unanswered, NoWorkers, NoWorkerForResource, SchedulerLost
        Errors of images are raised too: an evaluation must cover all of its images.
    """
    slots = wait_for_slots(client, resources)
    size = max(1, min(PACK, len(images) // (2 * slots)))
    tasks = [
        EvaluationTask(store, tuple(images[n : n + size]), masks, answer, classes, str(folder))
        for n in range(0, len(images), size)
    ]
    events.start("evaluate", len(images), "images")
    pool = TaskPool(client, score_task, lambda a: (a,), label="evaluate", resources=resources)
    scored: list[Scored] = []
    for ended in map_tasks(pool, tasks, stop=stop, note=events.note):
        if ended.crashes_worker:
            raise EvaluationLost(ended.task.images[0].image_id, ended.attempts, ended.need)
        scored += ended.value
        events.advance("evaluate", len(ended.value))
    events.finish("evaluate")
    if len(scored) < len(images):
        raise Interrupted(len(scored), len(images) - len(scored))
    return scored


def score_task(attempt: TaskAttempt[EvaluationTask]) -> list[Scored]:
    """Compare some images with their masks on a worker."""
    task = attempt.task
    reader = reader_of(task.store, task.images)
    with room_for(attempt):
        return [_scored(task, image, image.read(reader)) for image in task.images]


def _scored(task: EvaluationTask, image: MaskedImage, pixels: NDArray[Any]) -> Scored:
    truth = task.masks.read(image.image_id)
    try:
        found = task.answer(image, pixels)
    except ImageFailed as error:
        raise NoPrediction(image.image_id, str(error.args[0])) from None
    count = len(task.classes)
    if max(int(truth.max(initial=0)), int(found.max(initial=0))) >= count:
        raise ParameterError("masks", image.image_id, f"of labels below {count}, the classes")
    counts = confusion(truth, found, count)
    picture = f"{ERRORS}/{hashlib.sha256(image.image_id.encode()).hexdigest()[:16]}.png"
    drawn = draw_errors(pixels, truth, found, range(1, count))
    atomic_write(Path(task.folder) / picture, drawn)
    rows = tuple(tuple(int(n) for n in row) for row in counts)
    return Scored(image.image_id, image.name, image.subject, rows, picture)
