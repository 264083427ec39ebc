"""Compute one unit: read its pixels, measure each image, write one durable part.

Runs without a cluster. A failing image gets a row with a reason code; the other images of the unit
are not affected. Only errors of the store (full, no permission) or of the environment (missing
package) end the unit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from engine.errors import EngineError, MissingPackage, StoreError, WorkerUnfit
from engine.execution.memory_limit import Need, give_back, need_of
from engine.geometry import Region
from engine.operations.base import Found, Image, ImageFailed, Operation
from engine.runs.inputs import UnitAnnotations
from engine.runs.labels.parts import write_labels
from engine.runs.plan import PlanItem, Unit
from engine.runs.regions import region_of
from engine.runs.rows import ImageResult, ResultValidator, answers_table, reason_code
from engine.runs.upstream import Parts, UpstreamResults
from engine.store.backend.base import Store
from engine.store.catalog.annotations import AnnotationRef
from engine.store.catalog.tables import ShardRow
from engine.store.delta.ledger import Ledger
from engine.store.delta.parts import Part
from engine.store.labels.publisher import StagedLabelShard
from engine.store.pixels.layout import GIANT_SHARD_PX
from engine.store.pixels.stacks import StackReader
from engine.store.results import results_ledger

READ_AT_ONCE_BYTES = 64 * 1024**2
"""Maximum size of one read of neighbouring images in a shard, bytes."""

ReadRegion = Callable[[PlanItem], Region]
"""Function that returns the region of an image to read for an item."""

RowId = tuple[str, str, int | None]
"""Row identifier within a key: image_id, inputs, block."""


@dataclass(frozen=True, slots=True)
class UnitResult:
    """Outcome of a unit task: its part and its failures, a few hundred bytes."""

    unit: int
    part: Part
    done: int
    failed: tuple[tuple[RowId, str], ...]  # with reason codes
    compute_s: float
    labels: tuple[StagedLabelShard, ...] = ()
    needs: tuple[tuple[str, Need], ...] = ()  # of images that ran out of memory


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Worker and device of a unit; recorded with its rows."""

    worker: str = "local"
    device: str = "cpu"


def ledger_of(store: Store, operation: Operation) -> Ledger:
    """Return the ledger that holds an operation's results."""
    return results_ledger(store, operation.name, operation.version, operation.object_schema)


def with_halo(operation: Operation) -> ReadRegion:
    """Return a function that adds the operation's halo to the core region of a block."""

    def read_region(item: PlanItem) -> Region:
        core, _ = region_of(item)
        if item.block is None:
            return core
        return core.grow(operation.halo_of(item.spacing_um), item.shape[1:])

    return read_region


def _read_one(
    reader: StackReader, item: PlanItem, read: Region
) -> tuple[NDArray[Any], Region, Region]:
    write, _ = region_of(item)
    rows, columns = read.slices
    channels = slice(0, item.shape[0])
    where = (item.t, channels) if item.z is None else (item.t, channels, item.z)
    return reader.read(item.stack, (*where, rows, columns)), write, read


def _runs(items: tuple[PlanItem, ...]) -> Iterator[list[PlanItem]]:
    """Split items into runs of neighbours within one shard of a stack."""
    run: list[PlanItem] = []
    size = 0
    for item in items:
        joins = (
            run
            and item.z is None
            and item.block is None
            and (item.stack, item.shard) == (run[-1].stack, run[-1].shard)
            and item.t == run[-1].t + 1
            and size + item.nbytes <= READ_AT_ONCE_BYTES
        )
        if run and not joins:
            yield run
            run, size = [], 0
        run.append(item)
        size += item.nbytes
    if run:
        yield run


def read_items(
    reader: StackReader, items: tuple[PlanItem, ...], read_region: ReadRegion
) -> Iterator[tuple[PlanItem, Image | Exception]]:
    """Read the pixels of items, neighbours together; yield the error for an unreadable item."""
    for run in _runs(items):
        together = None
        if len(run) > 1:
            try:
                channels = run[0].shape[0]
                span = (
                    slice(run[0].t, run[-1].t + 1),
                    slice(0, channels),
                    slice(None),
                    slice(None),
                )
                together = reader.read(run[0].stack, span)
            except (EngineError, MemoryError):
                together = None  # fall back to single reads to find the broken image
        for n, item in enumerate(run):
            try:
                if together is not None:
                    _, height, width = item.shape
                    pixels = together[n, :, :height, :width]
                    write = read = Region((0, 0), (height, width))
                else:
                    pixels, write, read = _read_one(reader, item, read_region(item))
            except (EngineError, MemoryError) as error:
                yield item, error
                continue
            yield (
                item,
                Image(
                    pixels,
                    item.noise_sd,
                    item.spacing_um,
                    read.start,
                    write,
                    item.source,
                    item.rescale,
                    full_shape=item.shape[1:],
                    fields=item.fields,
                    channel_names=item.channel_names,
                ),
            )


def compute_unit(  # noqa: PLR0913 - options by name
    store: Store,
    operation: Operation,
    unit: Unit,
    files: Mapping[str, ShardRow],
    *,
    attempts: int = 1,
    where: WorkerInfo | None = None,
    trial: bool = False,
    computed: Callable[[], None] = lambda: None,
    annotations: Mapping[str, tuple[AnnotationRef, ...]] | None = None,
    upstream: Parts | None = None,
    limit: int | None = None,
) -> UnitResult | None:
    """Measure every item of a unit and write the rows as one part, not yet visible.

    Parameters
    ----------
    store
        Storage of the cohort.
    operation
        Operation to run.
    unit
        Unit to compute.
    files
        Catalog rows of the shards that the unit reads, by path.
    attempts
        Number of attempts, including this one.
    where
        Worker and device, to record with the rows.
    trial
        Whether to discard the results: a dry run only tests whether the items kill the worker.
    annotations
        Locations of the annotations of the images, by image_id.
    upstream
        Parts with the results that the operation reads.
    computed
        Called after the computation, before the part is written, which waits for the disk.

    Raises
    ------
    StoreError, MissingPackage, WorkerUnfit
        An error of a single image becomes a row instead.
    """
    place = where or WorkerInfo()
    operation.prepare()
    on_images = UnitAnnotations(store, dict(annotations or {}))
    reader = StackReader(store, files)
    results = UpstreamResults(store, operation, upstream, reader) if upstream else None
    read_region = with_halo(operation) if results is None else results.read_region
    unread: deque[tuple[PlanItem, Exception | None]] = deque()

    def readable() -> Iterator[Image]:
        """Yield the readable images, and queue the outcome of each read in order."""
        for item, image in read_items(reader, unit.items, read_region):
            try:
                if isinstance(image, Exception):
                    raise image
                if "annotation" in operation.inputs:
                    image = replace(image, annotations=on_images.on(item))
                if results is not None:
                    image = results.attach(item, image)
            except Exception as error:
                unread.append((item, error))
                continue
            unread.append((item, None))
            yield image

    checks = ResultValidator(operation)
    answers: list[ImageResult] = []

    def skip() -> None:
        while unread and unread[0][1] is not None:
            item, error = unread.popleft()
            answers.append(_answer(item, error or ImageFailed("unread"), 0.0, checks, limit))

    for found, elapsed_s in operation.measure_batch(readable()):
        skip()
        answers.append(_answer(unread.popleft()[0], found, elapsed_s, checks, limit))
    skip()
    if trial:
        return None
    computed()
    labels = write_labels(store, operation, answers)
    return _record(store, operation, unit, answers, attempts, place, labels)


def _answer(
    item: PlanItem,
    found: Found | Exception,
    elapsed_s: float,
    checks: ResultValidator,
    limit: int | None,
) -> ImageResult:
    """Return the validated result of an image, or its failure.

    Raises
    ------
    StoreError, WorkerUnfit
    MissingPackage
        A missing package would fail all images of this worker, and only there.
    """
    try:
        if isinstance(found, Exception):
            raise found
        return checks.validate(item, region_of(item)[0].shape, found, elapsed_s)
    except (StoreError, WorkerUnfit):
        raise
    except ImportError as error:
        raise MissingPackage(error.name or "a module") from None
    except Exception as error:  # any other exception is the failure of this image
        need = None
        if isinstance(error, MemoryError):
            need = need_of(error, limit)
            error.__traceback__ = None  # its frames hold the arrays that exceeded the memory
            give_back()
        return ImageResult(item, {}, reason_code(error), elapsed_s, need=need)


def write_failed_unit(
    store: Store,
    operation: Operation,
    unit: Unit,
    *,
    reason: str,
    attempts: int,
    need: Need | None = None,
) -> UnitResult:
    """Write failure rows for items that can't be computed, such as those that crash workers."""
    answers = [ImageResult(item, {}, reason, 0.0, need=need) for item in unit.items]
    return _record(store, operation, unit, answers, attempts, WorkerInfo("", ""))


def _record(
    store: Store,
    operation: Operation,
    unit: Unit,
    answers: Sequence[ImageResult],
    attempts: int,
    where: WorkerInfo,
    labels: tuple[StagedLabelShard, ...] = (),
) -> UnitResult:
    """Write the results of a unit as one part, with a row for each image_id."""
    named = [(name, answer) for answer in answers for name in answer.item.image_ids]
    part = ledger_of(store, operation).write_part(
        answers_table(operation, named, attempts, where.worker, where.device), operation.key
    )
    failed = tuple(
        ((name, answer.item.inputs, answer.item.block), answer.reason)
        for name, answer in named
        if answer.reason is not None
    )
    elapsed_s = sum(answer.elapsed_s for _, answer in named)
    needs = tuple((name, answer.need) for name, answer in named if answer.need is not None)
    return UnitResult(unit.number, part, len(named) - len(failed), failed, elapsed_s, labels, needs)


def shards_read(item: PlanItem, halo: int = 0) -> Iterator[tuple[str, int]]:
    """Yield the shards (stack, index) that contain an item's pixels."""
    if item.block is None:
        yield item.stack, item.shard
        return
    write, across = region_of(item)
    read = write.grow(halo, item.shape[1:])
    for y in range(read.start[0] // GIANT_SHARD_PX, -(-read.stop[0] // GIANT_SHARD_PX)):
        for x in range(read.start[1] // GIANT_SHARD_PX, -(-read.stop[1] // GIANT_SHARD_PX)):
            yield item.stack, y * across + x
