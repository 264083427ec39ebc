"""Validate the results of a unit's images and build a part's rows from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from engine.errors import CorruptStore, MissingObject
from engine.execution.memory_limit import OUT_OF_MEMORY, Need, is_of_memory
from engine.geometry import YX
from engine.operations.base import LABELS, Found, ImageFailed, Operation
from engine.runs.plan import PlanItem
from engine.store.results import DONE, FAILED, result_schema

Columns = Mapping[str, "NDArray[Any] | pa.Array"]
"""Objects of one image: a column for each field."""

Kind = tuple[str, pa.DataType, "np.dtype[Any] | None"]
"""Name and Arrow type of a field, and the equivalent numpy type, if any."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """Result of one item: its objects, or a reason code if it failed.

    ``labels`` are (y, x), of the image or of the item's block. ``need`` is the memory need of an
    image that failed as `OUT_OF_MEMORY`.
    """

    item: PlanItem
    found: Columns
    reason: str | None
    elapsed_s: float
    labels: NDArray[Any] | None = None
    need: Need | None = None


class ResultValidator:
    """Validator of results against an operation's declared schema."""

    def __init__(self, operation: Operation) -> None:
        self._columns = [
            (spec.name, spec.type, _plain(spec.type)) for spec in operation.object_schema
        ]
        self._dtype = np.dtype(operation.measured_image.dtype) if operation.has_labels else None

    def validate(self, item: PlanItem, shape: YX, found: Found, elapsed_s: float) -> ImageResult:
        """Return the validated result of an image; ``shape`` (y, x) is that of its core region.

        Raises
        ------
        ImageFailed
            If columns differ in length, or labels are missing or of another shape.
        Exception
            Arrow's error if values do not have the column's type.
        """
        columns = _checked(self._columns, found)
        labels = None if self._dtype is None else np.asarray(found.get(LABELS, ()))
        if labels is not None and (labels.dtype != self._dtype or labels.shape != shape):
            raise ImageFailed("no_labels_of_this_shape")
        return ImageResult(item, columns, None, elapsed_s, labels)


def reason_code(error: Exception) -> str:
    """Return the reason code of a failure; codes contain nothing from the file.

    Examples
    --------
    >>> reason_code(ZeroDivisionError("secret"))
    'zero_division_error'
    >>> reason_code(ImageFailed("no_tissue"))
    'no_tissue'
    """
    if is_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, ImageFailed):
        return str(error.args[0])
    if isinstance(error, MissingObject):
        return "missing_pixels"
    if isinstance(error, CorruptStore):
        return "corrupt_pixels"
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(error).__name__).lower()


def _plain(kind: pa.DataType) -> np.dtype[Any] | None:
    """Return the numpy type equivalent to an Arrow type, or None."""
    is_plain = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    return np.dtype(kind.to_pandas_dtype()) if is_plain else None


def _checked(objects: Sequence[Kind], found: Mapping[str, Any]) -> Columns:
    """Check a result: one column per field of ``object_schema``, of its type, all of one length.

    Numpy arrays are converted to Arrow once for the whole unit, which takes as long as one array.
    """
    columns: dict[str, NDArray[Any] | pa.Array] = {}
    for name, kind, plain in objects:
        values = found[name]
        if plain is not None and isinstance(values, np.ndarray) and values.ndim == 1:
            fits = np.can_cast(values.dtype, plain)
            columns[name] = values.astype(plain, copy=False) if fits else pa.array(values, kind)
        elif isinstance(values, pa.Array) and values.type == kind:
            columns[name] = values
        else:
            columns[name] = pa.array(values, kind)
    if len({len(column) for column in columns.values()}) > 1:
        raise ImageFailed("columns_of_different_length")
    return columns


def _column(pieces: Sequence[NDArray[Any] | pa.Array], kind: pa.DataType) -> pa.Array:
    """Concatenate the columns of several images."""
    if pieces and all(isinstance(piece, np.ndarray) for piece in pieces):
        return pa.array(np.concatenate(pieces), kind)
    arrays = (
        p if isinstance(p, pa.Array) and p.type == kind else pa.array(p, kind) for p in pieces
    )
    return pa.concat_arrays([pa.array([], kind), *arrays])


def answers_table(
    operation: Operation,
    named: Sequence[tuple[str, ImageResult]],
    attempts: int,
    worker: str,
    device: str,
) -> pa.Table:
    """Turn results into a part's table, objects as lists of structs."""
    answers = [answer for _, answer in named]
    found = [answer.found for answer in answers if answer.found]
    counts = [len(next(iter(a.found.values()))) if a.found else 0 for a in answers]
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    fields = list(operation.object_schema)
    objects = [_column([f[spec.name] for f in found], spec.type) for spec in fields]
    columns: dict[str, Any] = {
        "image_id": [name for name, _ in named],
        "inputs": [answer.item.inputs for answer in answers],
        "block": [answer.item.block for answer in answers],
        "status": [DONE if answer.reason is None else FAILED for answer in answers],
        "reason": [answer.reason for answer in answers],
        "attempts": [attempts] * len(named),
        "elapsed_s": [answer.elapsed_s for answer in answers],
        "worker": [worker if a.need is None else f"{worker} ({a.need})" for a in answers],
        "device": [device] * len(named),
        "objects": pa.ListArray.from_arrays(
            offsets, pa.StructArray.from_arrays(objects, fields=fields)
        ),
    }
    schema = result_schema(operation.object_schema)
    plain = pa.schema([field for field in schema if field.name != "key"])
    return pa.table(
        {name: pa.array(columns[name], plain.field(name).type) for name in plain.names}, plain
    )
