"""Train on a worker that holds a GPU slot: one task, monitored by the driver."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError, MissingExtra
from engine.execution.cluster.cluster import Cluster
from engine.execution.cluster.spec import GPU_SLOT
from engine.execution.progress import ProgressListener
from engine.execution.task_pool import TaskPool
from engine.execution.workers import wait_for_slots
from engine.learning.datasets.masked_images import SAMPLES, MaskedImage, read_samples
from engine.learning.datasets.masks import Masks
from engine.learning.models.bundle import open_bundle
from engine.learning.models.card import ClassCard
from engine.learning.training.finetune import made_by
from engine.learning.training.report import Progress
from engine.learning.training.settings import TrainingSettings
from engine.store.backend.base import Store

if TYPE_CHECKING:
    from distributed import Client

TOLD_S = 0.5
"""Interval at which a worker reports progress and checks for a stop, seconds."""

DEATHS = 3
"""Maximum consecutive worker deaths without a training step, before training is abandoned."""


class TrainingLost(EngineError):
    """The training worker died repeatedly: (folder, step)."""

    def __str__(self) -> str:
        folder, step = self.args
        return (
            f"The training worker died {DEATHS} times at step {step}, perhaps for lack of memory: "
            f"choose a smaller batch or crop. The last checkpoint is in {folder}; the same command "
            "resumes from it."
        )


class TrainingStopped(EngineError):
    """Ctrl-C ended a training early: (folder, step, steps); a step of None means none was made."""

    exit_code = 130

    def __str__(self) -> str:
        folder, step, steps = self.args
        if step is None:
            return f"Stopped before a step was made; {folder} is as it was."
        return (
            f"Stopped after step {step} of {steps}; the state is kept in {folder}. The same "
            "command goes on from there."
        )


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """Input of the training task: a few hundred bytes an image, and no pixels."""

    store: Store
    images: tuple[MaskedImage, ...]
    masks: Masks
    folder: str
    settings: TrainingSettings
    classes: tuple[ClassCard, ...]
    start: str | None
    made_by: str | None
    device: str | None


@contextmanager
def training_cluster(client: Client | Cluster | None, events: ProgressListener) -> Iterator[Client]:
    """Yield a given client or cluster's, or that of a local cluster: one worker with all cores."""
    if client is not None:
        yield client.client if isinstance(client, Cluster) else client
        return
    with Cluster("local", workers=1, threads_per_worker=cores()) as own:
        if own.dashboard_link:
            events.note(f"Dashboard: {own.dashboard_link}")
        yield own.client


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_on_worker(
    client: Client,
    task: TrainingTask,
    *,
    events: ProgressListener,
    stop: Callable[[], bool],
    resources: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Train, and return the report as plain values.

    If a worker dies, another one continues from the checkpoint.

    Raises
    ------
    TrainingStopped
        If ``stop`` returned True before the end.
    TrainingLost
        If workers died repeatedly without progress.
    NoWorkers, NoWorkerForResource, SchedulerLost
    """
    import distributed

    if stop():  # stop requested while workers started
        raise TrainingStopped(task.folder, None, task.settings.steps)
    asked = dict(GPU_SLOT if resources is None else resources)
    wait_for_slots(client, asked)
    topic = f"cohort-train-{secrets.token_hex(8)}"
    follow = _Follow(events, task.settings)
    halt = distributed.Event(topic, client=client)

    def on_idle() -> None:
        if stop():
            halt.set()

    window = TaskPool(
        client, training_task, lambda _: (topic, task), label="train", resources=asked
    )
    waiting = [task]
    deaths, reached = 0, -1
    client.subscribe_topic(topic, follow)
    try:
        for ended in window.run(
            lambda: waiting.pop() if waiting else None, max_in_flight=1, on_idle=on_idle
        ):
            if not ended.crashed:
                follow.end()
                return _report(task, ended.value)
            deaths = deaths + 1 if follow.step <= reached else 1
            reached = follow.step
            if deaths >= DEATHS:
                break
            waiting.append(task)
    finally:
        if client.status == "running":
            with suppress(OSError, ValueError):
                client.unsubscribe_topic(topic)
    raise TrainingLost(task.folder, max(0, reached))


def training_task(topic: str, task: TrainingTask) -> dict[str, Any] | None:
    """Train on a worker with all of its threads; return None if stopped before the first step."""
    import distributed

    try:
        import torch
    except ImportError:
        raise MissingExtra("torch", "segment", "to train networks") from None
    from engine.learning.training.loop import run_training

    worker = distributed.get_worker()
    key = worker.get_current_task()
    halt = distributed.Event(topic)
    last_s = 0.0

    def due() -> bool:
        nonlocal last_s
        now = time.monotonic()
        if now - last_s < TOLD_S:
            return False
        last_s = now
        return True

    def stop() -> bool:
        if not due():
            return False
        known = worker.state.tasks.get(key)
        if known is None or known.state == "cancelled":
            return True  # the driver is gone
        try:
            return bool(halt.is_set())
        except (OSError, TimeoutError):
            return True  # the scheduler is gone

    last = 0

    def progress(now: Progress) -> None:
        nonlocal last
        ended = now.step == now.steps
        if now.metrics or ended or now.step - last >= max(1, now.steps // 500):
            last = now.step
            worker.log_event(topic, {"step": now.step, "loss": now.loss, "metrics": now.metrics})

    def unpacked() -> None:
        worker.log_event(topic, {"unpacked": 1, "of": len(task.images)})

    place = Path(task.folder)
    start = None if task.start is None else open_bundle(task.start)
    threads = torch.get_num_threads()
    torch.set_num_threads(worker.state.nthreads)
    try:
        samples = []
        for sample in read_samples(task.store, task.images, task.masks, place / SAMPLES, unpacked):
            samples.append(sample)
            if stop():
                return None
        report = run_training(
            place,
            samples,
            task.settings,
            classes=task.classes,
            start=start,
            made_by=made_by(start, task.made_by),
            device=task.device,
            progress=progress,
            stop=stop,
        )
    finally:
        torch.set_num_threads(threads)
    if report.step == report.steps:
        shutil.rmtree(place / SAMPLES, ignore_errors=True)
    return report.as_json()


class _Follow:
    """Display of the worker's progress events; called in the client's own thread."""

    def __init__(self, events: ProgressListener, settings: TrainingSettings) -> None:
        self._events, self._settings = events, settings
        self._started = False
        self._images = 0
        self.step = 0

    def __call__(self, event: tuple[float, dict[str, Any]]) -> None:
        told = event[1]
        if "unpacked" in told:
            if not self._images:
                self._events.start("unpack", told["of"], "images")
            self._images += 1
            self._events.advance("unpack", 1)
            if self._images == told["of"]:
                self._events.finish("unpack")
            return
        if not self._started:
            self._started = True
            # steps of an earlier run must not count towards this one's speed
            self.step = told["step"] - 1
            self._events.start("train", self._settings.steps - self.step, "steps")
        self._events.advance("train", max(0, told["step"] - self.step))
        self.step = max(self.step, told["step"])
        if told["metrics"]:
            self._events.note(_told(told["step"], told["metrics"]))

    def end(self) -> None:
        if self._started:
            self._events.finish("train")


def _told(step: int, metrics: dict[str, float]) -> str:
    dsc = ", ".join(
        f"{name.removeprefix('dsc_')} {value:.3f}"
        for name, value in metrics.items()
        if name.startswith("dsc_")
    )
    error = metrics["density_error"]
    density = f"; bone density off by {100 * error:.1f} %" if error == error else ""
    return f"Step {step:,}: loss {metrics['loss']:.3f}; DSC {dsc}{density}"


def _report(task: TrainingTask, report: dict[str, Any] | None) -> dict[str, Any]:
    if report is None:
        raise TrainingStopped(task.folder, None, task.settings.steps)
    if report["step"] < report["steps"]:
        raise TrainingStopped(task.folder, report["step"], report["steps"])
    return report
