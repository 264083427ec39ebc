"""Display of stacks with named channels, estimated from a few planes before they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import SourceUnreadable
from engine.execution.quarantine import TaskAttempt, map_tasks
from engine.execution.task_pool import TaskPool
from engine.execution.worker_memory import room_for
from engine.geometry import Region
from engine.ingest.tasks import SourceFile
from engine.ingest.worker import open_source_file
from engine.store.pixels.channel_display import choose_display, full_window, robust_window
from engine.store.pixels.layout import GIANT_SHARD_PX, IncomingPlane, StackLayout

if TYPE_CHECKING:
    from distributed import Client

FEW, MANY = 1, 3
"""Planes that are read of a stack with fewer, or at least, `MANY_IMAGES`; of a series `FEW`."""

MANY_IMAGES = 8

SAMPLES = 65_536
"""Values of a plane and channel that a window is estimated from."""

Windows = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class SampleTask:
    """Planes of a stack, with their files by source, whose values are sampled."""

    stack: str
    arrivals: tuple[IncomingPlane, ...] = field(repr=False)
    files: Mapping[str, SourceFile] = field(repr=False)
    max_decoded_bytes: int

    @property
    def parts(self) -> tuple[IncomingPlane, ...]:
        """Planes, each of which may crash a worker."""
        return self.arrivals

    def only(self, parts: Sequence[IncomingPlane]) -> SampleTask:
        """Return the task with some of its planes."""
        return replace(self, arrivals=tuple(parts))

    def dry_run(self) -> SampleTask:
        """Return the task itself: it publishes nothing."""
        return self


def display_stacks(
    client: Client,
    plans: Sequence[StackLayout],
    files: Mapping[str, SourceFile],
    max_decoded_bytes: int,
    *,
    stop: Callable[[], bool] = lambda: False,
    note: Callable[[str], None] = lambda _: None,
) -> list[StackLayout]:
    """Return the layouts of stacks, those with named channels with their display.

    Parameters
    ----------
    files
        Files of the planes, by source.
    """
    named = {plan.name: plan for plan in plans if plan.channel_names}
    if not named:
        return list(plans)
    windows: dict[str, Windows] = {}
    tasks = (
        _sample_of(plan, files, max_decoded_bytes)
        for plan in named.values()
        if plan.dtype != "uint8"  # all of its range is shown
    )
    pool = TaskPool(client, sample_task, lambda attempt: (attempt,), label="windows")
    for answer in map_tasks(pool, tasks, stop=stop, note=note):
        if not answer.crashes_worker and answer.value is not None:
            windows[answer.task.stack] = answer.value
    return [
        _displayed(plan, windows.get(plan.name)) if plan.name in named else plan for plan in plans
    ]


def _sample_of(
    plan: StackLayout, files: Mapping[str, SourceFile], max_decoded_bytes: int
) -> SampleTask:
    count = MANY if plan.kind == "stack" and len(plan.slots) >= MANY_IMAGES else FEW
    # Slices in the middle of a volume are in focus.
    ordered = sorted(plan.slots, key=lambda slot: (slot.z or 0, slot.t))
    step = len(ordered) / count
    chosen = [ordered[int((n + 0.5) * step)].arrival for n in range(count)]
    sources = {arrival.source: files[arrival.source] for arrival in chosen}
    return SampleTask(plan.name, tuple(chosen), sources, max_decoded_bytes)


def _displayed(plan: StackLayout, windows: Windows | None) -> StackLayout:
    known = windows or (full_window(plan.dtype),) * len(plan.channel_names)
    colours = plan.slots[0].arrival.channel_colours
    return replace(plan, display=choose_display(plan.channel_names, colours, known))


def sample_task(attempt: TaskAttempt[SampleTask]) -> Windows | None:
    """Estimate the windows of a stack's channels on a worker."""
    with room_for(attempt):
        return sample_windows(attempt.task)


def sample_windows(task: SampleTask) -> Windows | None:
    """Return a window for each channel; None if no plane can be read, or a channel has no value.

    What is wrong with a plane is reported when its shard is written.
    """
    samples = []
    for arrival in task.arrivals:
        with suppress(SourceUnreadable, MemoryError):
            sample = _sample(task.files[arrival.source], arrival, task.max_decoded_bytes)
            samples += [] if sample is None else [sample]
    if not samples:
        return None
    found = [robust_window(np.concatenate(channel)) for channel in zip(*samples, strict=True)]
    windows = tuple(window for window in found if window is not None)
    return windows if len(windows) == len(found) else None


def _sample(
    file: SourceFile, arrival: IncomingPlane, max_decoded_bytes: int
) -> NDArray[Any] | None:
    """Return some values of a plane (c, n), of the middle of a large one; None if it changed."""
    with open_source_file(file, max_decoded_bytes) as source:
        same = [(plane.fragment, plane.shape) for plane in source.planes]
        if (arrival.fragment, arrival.shape) not in same:
            return None
        index = same.index((arrival.fragment, arrival.shape))
        plane = source.planes[index]
        region = _middle(plane.shape[1:])
        if plane.streams and region.shape != plane.shape[1:]:
            pixels = source.read_region(index, region)
        else:
            pixels = source.read(index)
    step = max(1, math.ceil(math.sqrt(math.prod(pixels.shape[1:]) / SAMPLES)))
    return np.ascontiguousarray(pixels[:, ::step, ::step]).reshape(len(pixels), -1)


def _middle(shape: tuple[int, int]) -> Region:
    """Return the middle of a plane, of the size of a shard at most."""
    starts = [max(0, (side - GIANT_SHARD_PX) // 2) for side in shape]
    stops = [min(side, start + GIANT_SHARD_PX) for side, start in zip(shape, starts, strict=True)]
    return Region((starts[0], starts[1]), (stops[0], stops[1]))
