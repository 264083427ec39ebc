"""Compute one unit: read its pixels, answer for each image, write one durable part.

Runs without a cluster. A failing image gets a row with a reason code; its siblings are not
affected. Only what concerns the store (no room, no permission) or the environment (a package is
not there) ends the unit.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.errors import (
    CorruptStore,
    EngineError,
    MissingObject,
    MissingPackage,
    StoreFull,
    StoreReadOnly,
    WorkerUnfit,
)
from engine.geometry import Region
from engine.operations.base import Image, ImageFailed, Operation
from engine.operations.inputs import Drawn
from engine.operations.plan import Item, Unit
from engine.store.annotations import Ref
from engine.store.catalog import ShardRow
from engine.store.ledger import Ledger, Part
from engine.store.pixels import StackReader
from engine.store.results import DONE, FAILED, result_schema, results_ledger
from engine.store.root import Root
from engine.store.stacking import GIANT_SHARD_PX

READ_AT_ONCE_BYTES = 64 * 1024**2
"""A run of neighbours in a shard is read in one go up to this size, bytes."""

RowId = tuple[str, str, int | None]
"""What identifies a row of a key: image_id, inputs, block."""

Columns = Mapping[str, "NDArray[Any] | pa.Array"]
"""The objects found in one image: a column for each field."""

Kind = tuple[str, pa.DataType, "np.dtype[Any] | None"]
"""Name and type of a field, and numpy's type that is the same, where there is one."""


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """What a task gives back: its part and its failures, a few hundred bytes."""

    unit: int
    part: Part
    done: int
    failed: tuple[tuple[RowId, str], ...]  # with the reason
    compute_s: float


@dataclass(frozen=True, slots=True)
class Where:
    """Where a unit is computed; recorded with its rows."""

    worker: str = "local"
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an item's image gave: its objects, or, where it failed, none and a reason."""

    item: Item
    found: Columns
    reason: str | None
    elapsed_s: float


def ledger_of(root: Root, operation: Operation) -> Ledger:
    """Return the ledger that an operation's results go to."""
    return results_ledger(root, operation.name, operation.version, operation.objects)


def reason_of(error: Exception) -> str:
    """Return the reason code of a failure; codes hold nothing of what was read.

    Examples
    --------
    >>> reason_of(ZeroDivisionError("secret"))
    'zero_division_error'
    >>> reason_of(ImageFailed("no_tissue"))
    'no_tissue'
    """
    if isinstance(error, ImageFailed):
        return str(error.args[0])
    if isinstance(error, MissingObject):
        return "missing_pixels"
    if isinstance(error, CorruptStore):
        return "corrupt_pixels"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(error).__name__).lower()


def region_of(item: Item) -> tuple[Region, int]:
    """Return the region that an item answers for, and the number of blocks across its image."""
    _, height, width = item.shape
    across = -(-width // GIANT_SHARD_PX)
    if item.block is None:
        return Region((0, 0), (height, width)), across
    y, x = (side * GIANT_SHARD_PX for side in divmod(item.block, across))
    stop = min(y + GIANT_SHARD_PX, height), min(x + GIANT_SHARD_PX, width)
    return Region((y, x), stop), across


def _read_one(reader: StackReader, item: Item, halo: int) -> tuple[NDArray[Any], Region, Region]:
    write, _ = region_of(item)
    read = write.grow(halo, item.shape[1:]) if item.block is not None else write
    rows, columns = read.slices
    channels = slice(0, item.shape[0])
    where = (item.t, channels) if item.z is None else (item.t, channels, item.z)
    return reader.read(item.stack, (*where, rows, columns)), write, read


def _runs(items: tuple[Item, ...]) -> Iterator[list[Item]]:
    """Cut items into runs that lie side by side in one shard of a stack."""
    run: list[Item] = []
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
    reader: StackReader, items: tuple[Item, ...], halo: int
) -> Iterator[tuple[Item, Image | Exception]]:
    """Read the pixels of items, neighbours together; what can't be read comes as its error."""
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
            except EngineError:
                together = None  # one by one, to find the one that is broken
        for n, item in enumerate(run):
            try:
                if together is not None:
                    _, height, width = item.shape
                    pixels = together[n, :, :height, :width]
                    write = read = Region((0, 0), (height, width))
                else:
                    pixels, write, read = _read_one(reader, item, halo)
            except EngineError as error:
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
                ),
            )


def compute_unit(
    root: Root,
    operation: Operation,
    unit: Unit,
    files: Mapping[str, ShardRow],
    *,
    attempts: int = 1,
    where: Where | None = None,
    trial: bool = False,
    computed: Callable[[], None] = lambda: None,
    drawn: Mapping[str, tuple[Ref, ...]] | None = None,
) -> UnitRecord | None:
    """Answer for every item of a unit and write the rows as one part, not yet visible.

    Parameters
    ----------
    root
        Where the cohort lives.
    operation
        What is asked.
    unit
        The items.
    files
        Catalog rows of the files that it reads, by path.
    attempts
        How many times the items were tried, this one included.
    where
        Worker and device, for the record.
    trial
        Whether the answers are thrown away: it is only asked whether they kill the worker.
    drawn
        Where what is drawn on the images is stored, by image_id.
    computed
        Called when all is computed and only the part is left to write, which is waiting for a disk.

    Raises
    ------
    StoreFull, StoreReadOnly, MissingPackage, WorkerUnfit
        Anything that concerns a single image becomes a row instead.
    """
    place = where or Where()
    operation.prepare()
    reader = StackReader(root, files)
    on_images = Drawn(root, dict(drawn or {}))
    objects = [(spec.name, spec.type, _plain(spec.type)) for spec in operation.objects]
    answers: list[Answer] = []
    for item, image in read_items(reader, unit.items, operation.halo_px):
        began = time.perf_counter()
        found: Columns = {}
        reason = None
        try:
            if isinstance(image, Exception):
                raise image
            if "annotation" in operation.inputs:
                image = replace(image, annotations=on_images.on(item), whole=item.shape[1:])
            found = _checked(objects, operation.measure(image))
        except (StoreFull, StoreReadOnly, WorkerUnfit):
            raise
        except ImportError as error:  # it would fail all images alike, on this worker only
            raise MissingPackage(error.name or "a module") from None
        except Exception as error:  # whatever an image does to an operation is its own failure
            reason = reason_of(error)
        answers.append(Answer(item, found, reason, time.perf_counter() - began))
    if trial:
        return None
    computed()
    return _record(root, operation, unit, answers, attempts, place)


def failed_unit(
    root: Root, operation: Operation, unit: Unit, *, reason: str, attempts: int
) -> UnitRecord:
    """Write rows for items that can't be answered for, such as those that kill their worker."""
    answers = [Answer(item, {}, reason, 0.0) for item in unit.items]
    return _record(root, operation, unit, answers, attempts, Where("", ""))


def _record(
    root: Root,
    operation: Operation,
    unit: Unit,
    answers: Sequence[Answer],
    attempts: int,
    where: Where,
) -> UnitRecord:
    """Write the answers of a unit as one part, a row for each name that an image has."""
    named = [(name, answer) for answer in answers for name in answer.item.image_ids]
    part = ledger_of(root, operation).write_part(
        _table(operation, named, attempts, where), operation.key
    )
    failed = tuple(
        ((name, answer.item.inputs, answer.item.block), answer.reason)
        for name, answer in named
        if answer.reason is not None
    )
    elapsed_s = sum(answer.elapsed_s for _, answer in named)
    return UnitRecord(unit.number, part, len(named) - len(failed), failed, elapsed_s)


def _plain(kind: pa.DataType) -> np.dtype[Any] | None:
    """Return numpy's type that is the same as Arrow's, where there is one."""
    is_plain = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return np.dtype(kind.to_pandas_dtype()) if is_plain else None


def _checked(objects: Sequence[Kind], found: Mapping[str, Any]) -> Columns:
    """Check an answer: one column per field of ``objects``, of its type, all of one length.

    Arrays stay numpy's until those of the whole unit become Arrow's at once, which takes as long
    as one of them.
    """
    columns: dict[str, NDArray[Any] | pa.Array] = {}
    for name, kind, plain in objects:
        values = found[name]
        if plain is not None and isinstance(values, np.ndarray) and values.ndim == 1:
            fits = np.can_cast(values.dtype, plain)
            columns[name] = values.astype(plain, copy=False) if fits else pa.array(values, kind)
        else:
            columns[name] = pa.array(values, kind)
    if len({len(column) for column in columns.values()}) > 1:
        raise ImageFailed("columns_of_different_length")
    return columns


def _column(pieces: Sequence[NDArray[Any] | pa.Array], kind: pa.DataType) -> pa.Array:
    """Return the columns of several images as one."""
    if pieces and all(isinstance(piece, np.ndarray) for piece in pieces):
        return pa.array(np.concatenate(pieces), kind)
    return pa.concat_arrays([pa.array([], kind), *(pa.array(piece, kind) for piece in pieces)])


def _table(
    operation: Operation, named: Sequence[tuple[str, Answer]], attempts: int, where: Where
) -> pa.Table:
    """Turn answers into a part's table, objects as lists of structs."""
    answers = [answer for _, answer in named]
    found = [answer.found for answer in answers if answer.found]
    counts = [len(next(iter(a.found.values()))) if a.found else 0 for a in answers]
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    fields = list(operation.objects)
    objects = [_column([f[spec.name] for f in found], spec.type) for spec in fields]
    columns: dict[str, Any] = {
        "image_id": [name for name, _ in named],
        "inputs": [answer.item.inputs for answer in answers],
        "block": [answer.item.block for answer in answers],
        "status": [DONE if answer.reason is None else FAILED for answer in answers],
        "reason": [answer.reason for answer in answers],
        "attempts": [attempts] * len(named),
        "elapsed_s": [answer.elapsed_s for answer in answers],
        "worker": [where.worker] * len(named),
        "device": [where.device] * len(named),
        "objects": pa.ListArray.from_arrays(
            offsets, pa.StructArray.from_arrays(objects, fields=fields)
        ),
    }
    schema = result_schema(operation.objects)
    plain = pa.schema([field for field in schema if field.name != "key"])
    return pa.table(
        {name: pa.array(columns[name], plain.field(name).type) for name in plain.names}, plain
    )


def shards_read(item: Item, halo: int = 0) -> Iterator[tuple[str, int]]:
    """Yield the shards, as (stack, index), that an item's pixels lie in."""
    if item.block is None:
        yield item.stack, item.shard
        return
    write, across = region_of(item)
    read = write.grow(halo, item.shape[1:])
    for y in range(read.start[0] // GIANT_SHARD_PX, -(-read.stop[0] // GIANT_SHARD_PX)):
        for x in range(read.start[1] // GIANT_SHARD_PX, -(-read.stop[1] // GIANT_SHARD_PX)):
            yield item.stack, y * across + x
