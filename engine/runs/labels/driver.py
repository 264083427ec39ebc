"""Number the objects of giant images whose blocks are complete, and publish the labels."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from engine.errors import Interrupted
from engine.execution.progress import ProgressListener
from engine.execution.quarantine import TaskAttempt, map_tasks
from engine.execution.task_pool import TaskPool
from engine.operations.base import Operation
from engine.runs.labels.objects import (
    NumberTask,
    complete_images,
    missing_blocks,
    plan_numbers,
    write_object_labels,
)
from engine.runs.publish import Publisher
from engine.store.backend.base import Store
from engine.store.backend.write_check import check_writable
from engine.store.catalog.tables import ShardRow
from engine.store.labels.images import read_label_state
from engine.store.labels.publisher import LabelPublisher, StagedLabelShard

if TYPE_CHECKING:
    from distributed import Client


def number_task(
    store: Store, operation: Operation, attempt: TaskAttempt[NumberTask]
) -> tuple[StagedLabelShard, ...]:
    """Label the objects of some blocks on a worker."""
    return write_object_labels(store, operation, attempt.task)


def restore_labels(
    store: Store,
    operation: Operation,
    undescribed: Collection[tuple[str, str]],
    files: Callable[[], Sequence[ShardRow]],
) -> None:
    """Make missing metadata of label images (stack, name), and indexes of them, again."""
    if not undescribed:
        return
    check_writable(store)
    images = {image.name: image for image in (operation.measured_image, operation.object_image)}
    labels = LabelPublisher(store)
    pairs = [(stack, images[name]) for stack, name in undescribed]
    labels.restore(pairs, {row.path: row for row in files()})


def run_numbers(
    store: Store,
    operation: Operation,
    images: pa.Table,
    publisher: Publisher,
    files: Callable[[], Sequence[ShardRow]],
    client: Client,
    *,
    events: ProgressListener | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write missing object labels of giant images; see `engine.runs.labels.objects`.

    Parameters
    ----------
    images
        The catalog's current rows.
    publisher
        Publisher of the operation's rows; the rows are already published.
    files
        Function that reads the catalog's shard rows.

    Raises
    ------
    Interrupted
        If ``stop`` returned True before the end.
    """
    if not operation.has_object_labels:
        return
    giants = list(complete_images(operation, images, publisher.done))
    if not giants:
        return
    stacks, names = {item.stack for item in giants}, (operation.object_image.name,)
    state = read_label_state(store, lambda stack: names if stack in stacks else ())
    restore_labels(store, operation, state.undescribed, files)
    due = [item for item in giants if missing_blocks(item, state)]
    if not due:
        return
    check_writable(store)
    rows = files()
    tasks = plan_numbers(operation, due, state, publisher.snapshot.of_key(operation.key), rows)
    labels = LabelPublisher(store, state.damaged)
    opened = [(item.stack, operation.object_image) for item in due]
    labels.open(opened, {row.path: row for row in rows})
    shown, stage = events or ProgressListener(), f"{operation.name} objects"
    shown.start(stage, sum(len(task.blocks) for task in tasks), "blocks")
    pool = TaskPool(client, number_task, lambda a: (store, operation, a), label=operation.name)
    done = 0
    for answer in map_tasks(pool, tasks, stop=stop, note=shown.note):
        labels.publish(answer.value)
        shown.advance(stage, len(answer.task.blocks))
        done += 1
    labels.finish()
    shown.finish(stage)
    if done < len(tasks):
        raise Interrupted(done, len(tasks) - done)
