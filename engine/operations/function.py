"""Plain functions as operations, for notebooks: no package is needed.

A function defined in a notebook or a script travels by value (cloudpickle), an imported one by
name. The key depends on the declared name, version and parameters, never on the source code.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import cloudpickle
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ConfigDict, create_model

from engine.deprecations import renamed_arguments
from engine.errors import ParameterError, UsageError
from engine.operations.array_metadata import as_array, attributes_of
from engine.operations.attributes_read import reads_attributes
from engine.operations.base import Image, ImageFailed, Operation
from engine.operations.column_order import LAST_COLUMNS
from engine.operations.registry import NoOperation, find_operation
from engine.store.path_pattern import FIELDS

if TYPE_CHECKING:
    import xarray as xr

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""Allowed names of a function's results and tables: valid on every file system."""

TAKEN = frozenset({*FIELDS, *LAST_COLUMNS})
"""Columns that every table has besides those of the objects."""

WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.int64(),
    pa.float16(): pa.float32(),
}
"""Delta Lake has no unsigned numbers and no half floats (Delta protocol, primitive types)."""

MOST_BYTES = 1024**2
"""Maximum size of a pickled function, bytes: it travels with every task."""


class NotPortable(UsageError):
    """A function that can't be sent to workers: (name, problem)."""

    def __str__(self) -> str:
        name, problem = self.args
        return (
            f"The function {name} can't be sent to workers ({problem}). Create the objects that it "
            "uses (an open file, a lock, a model) inside the function."
        )


@dataclass(frozen=True, slots=True)
class Definition:
    """Definition of an operation by a function; small, hashable and picklable.

    ``parameters`` are JSON, as in the key; ``code`` is the pickled function with its parameter
    values; ``labelled`` means that it takes a DataArray, and ``described`` that it reads its
    attributes.
    """

    name: str
    version: int
    objects: pa.Schema
    object_name: str
    averaged_columns: tuple[str, ...]
    resources: tuple[tuple[str, float], ...]
    halo_px: int
    labelled: bool
    described: bool
    parameters: str
    code: bytes


class Function(Operation):
    """A user's function as an operation; made by `from_function`."""

    definition: ClassVar[Definition]

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters as plain JSON values, including defaults."""
        return dict(json.loads(self.definition.parameters))

    @property
    def halo_px(self) -> int:
        """Context that a block of a giant image needs on each side, pixels."""
        return self.definition.halo_px

    def prepare(self) -> None:
        """Load the function; its imports must be installed."""
        _load(self.definition.code)

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Call the function, and return its columns in coordinates of the whole image."""
        function, given = _load(self.definition.code)
        definition = self.definition
        seen = as_labelled(image, definition.described) if definition.labelled else image.pixels
        return _placed(columns_of(function(seen, **given), self.object_schema.names), image)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.definition,)


@lru_cache(maxsize=128)
def _class_of(definition: Definition) -> type[Function]:
    # One class per definition, since name and columns are class variables. Cached, so that two
    # operations of one definition are equal within a process.
    inputs: tuple[str, ...] = ("content", "spacing") if definition.labelled else ("content",)
    if definition.described:
        inputs = (*inputs, "rescale", "fields")
    stated = {
        "__module__": __name__,
        "__doc__": f"The function {definition.name}.",
        "definition": definition,
        "name": definition.name,
        "version": definition.version,
        "object_schema": definition.objects,
        "inputs": inputs,
        "object_name": definition.object_name,
        "averaged_columns": definition.averaged_columns,
        "resources": dict(definition.resources),
    }
    metaclass: Any = type(Function)
    made: type[Function] = metaclass("Function", (Function,), stated)
    return made


def _restore(definition: Definition) -> Function:
    return _class_of(definition)()


@lru_cache(maxsize=128)
def _load(code: bytes) -> tuple[Callable[..., Any], dict[str, Any]]:
    function, given = cloudpickle.loads(code)
    return function, given


class _Parameters(Operation):
    """Validator of parameters against a function's signature, with the errors of all operations."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Raise NotImplementedError: this class only validates parameters."""
        raise NotImplementedError


@renamed_arguments(singular="object_name", quantities="averaged_columns")
def from_function(  # noqa: PLR0913 - options by name
    function: Callable[..., Any],
    *,
    name: str,
    schema: Mapping[str, Any] | pa.Schema,
    version: int = 1,
    parameters: Mapping[str, Any] | None = None,
    resources: Mapping[str, float] | None = None,
    object_name: str = "object",
    averaged_columns: Sequence[str] | None = None,
    halo_px: int = 0,
) -> Function:
    """Turn a function into an operation with all features of the built-in ones.

    **The key holds name, version and parameters, never the function's source.** A function that
    changes under the same version is not computed again: its old results are kept. Increase
    ``version`` whenever its results change.

    Parameters
    ----------
    function
        Called as ``function(image, **parameters)`` on a worker. ``image`` is an array (c, y, x) as
        stored. If the first parameter is annotated as `xarray.DataArray`, it is the DataArray that
        `engine.Cohort.images` gives with ``stored=True``, with coordinates in micrometres if the
        spacing is known. Its attributes (image_id, source, date, subject, experiment, name,
        rescale) are present if this function, or one of its module that it calls, names one of
        them; then no two images share a result. Returns a column for each name of ``schema`` (a
        dict or a DataFrame, one row per object; single values make one row); other columns are
        ignored. It may raise `ImageFailed` with a reason code; any other exception fails the image
        under its own name. A function defined in a notebook travels by value, with the current
        values that it refers to; for an imported function, the workers need its package.
    name
        Name of its results and tables, e.g. ``texture``.
    schema
        Columns of one object: name to dtype (``float``, ``"int32"``, ``str``, a pyarrow type), or a
        pyarrow schema. ``y`` and ``x`` are pixels within the given array; for blocks of giant
        images they are shifted by the block's position.
    version
        Declared by you; a new version is computed again.
    parameters
        Values for the function's other parameters, validated by their annotations. Omitted
        parameters take their defaults.
    resources
        Resources that a worker must offer, e.g. ``{"GPU": 1}``.
    object_name
        Name of one object in tables.
    averaged_columns
        Columns to average by image and by experiment; by default all numbers but y and x.
    halo_px
        Context that a block of a giant image gets on each side, pixels.

    Raises
    ------
    ParameterError, NotPortable

    Examples
    --------
    >>> def bright(image, above: float = 100.0):
    ...     return {"share": (image > above).mean()}
    >>> operation = from_function(bright, name="bright", schema={"share": float})
    >>> operation.parameters
    {'above': 100.0}
    >>> operation(np.array([[90, 120], [130, 80]], np.uint8))
       object  share
    0       1    0.5
    """
    _check_name(name)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ParameterError("version", version, "a whole number, at least 1")
    objects = _objects(schema, object_name)
    settled, labelled = _settle(function, name, dict(parameters or {}))
    values = {field: getattr(settled, field) for field in type(settled).model_fields}
    described = labelled and reads_attributes(function, values)
    try:
        json.dumps(values, allow_nan=False)
        stated = json.dumps(settled.parameters, sort_keys=True)
    except (ValueError, TypeError):
        raise ParameterError("parameters", values, "plain values: numbers, texts, lists") from None
    numbers = [
        f.name for f in objects if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)
    ]
    averaged = (
        [n for n in numbers if n not in ("y", "x")]
        if averaged_columns is None
        else averaged_columns
    )
    if not set(averaged) <= set(numbers):
        raise ParameterError("averaged_columns", list(averaged), f"out of {', '.join(numbers)}")
    return _restore(
        Definition(
            name, version, objects, object_name, tuple(averaged),
            tuple(sorted((resources or {}).items())), halo_px, labelled,
            described, stated,
            _pickled(function, values),
        )
    )  # fmt: skip


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ParameterError("name", name, "lower-case letters, digits and _, a letter first")
    try:
        find_operation(name)
    except NoOperation:
        return
    raise ParameterError("name", name, "another one: an installed operation is called so")


def _objects(schema: Mapping[str, Any] | pa.Schema, object_name: str) -> pa.Schema:
    """Return the columns of an object, in types that ledgers can hold."""
    named = schema if isinstance(schema, pa.Schema) else pa.schema(_fields(schema))
    if not named.names:
        raise ParameterError("schema", schema, 'at least one column, e.g. {"area_px": float}')
    for name in named.names:
        if name in TAKEN or name == object_name or name.startswith("_"):
            raise ParameterError("schema", name, "another name: tables have a column called so")
    return pa.schema([(f.name, WIDER.get(f.type, f.type)) for f in named])


def _fields(schema: Mapping[str, Any]) -> list[tuple[str, pa.DataType]]:
    found = []
    for name, kind in schema.items():
        try:
            if isinstance(kind, pa.DataType):
                dtype = kind
            elif kind in (str, "str", "string"):
                dtype = pa.string()
            else:
                dtype = pa.from_numpy_dtype(np.dtype(kind))
        except (TypeError, ValueError, pa.ArrowException):
            raise ParameterError(f"schema, {name}", kind, "a dtype, e.g. float or int32") from None
        found.append((name, dtype))
    return found


def _settle(
    function: Callable[..., Any], name: str, given: dict[str, Any]
) -> tuple[Operation, bool]:
    """Return the parameters, validated by the signature, and whether it takes a DataArray."""
    try:
        image, *others = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise ParameterError("function", function, "a function of an image") from None
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # a partial has no hints, and a notebook may name deleted objects
        hints = {}
    fields: dict[str, Any] = {}
    for parameter in others:
        if parameter.kind is parameter.VAR_KEYWORD:
            fields |= {n: (Any, ...) for n in given if n not in fields}
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints.get(parameter.name, Any), default)
    for field in fields:
        if hasattr(Operation, field) or field.startswith("_"):
            raise ParameterError("function", field, "a parameter of another name: it is taken")
    checked = create_model(name, __base__=_Parameters, **fields)
    checked.name = name
    xarray = sys.modules.get("xarray")  # already imported if the annotation refers to it
    return checked(**given), xarray is not None and hints.get(image.name) is xarray.DataArray


def _pickled(function: Callable[..., Any], values: dict[str, Any]) -> bytes:
    called = getattr(function, "__name__", type(function).__name__)
    try:
        code = cloudpickle.dumps((function, values))
    except Exception as error:  # objects raise arbitrary exceptions when pickled
        raise NotPortable(called, (str(error).splitlines() or [""])[0][:200]) from error
    if len(code) > MOST_BYTES:
        raise NotPortable(called, f"it carries {len(code):,} bytes of objects that it refers to")
    return code


def as_labelled(image: Image, described: bool) -> xr.DataArray:
    """Return an image as `engine.Cohort.images` gives it; with its attributes if ``described``."""
    separate = 1 < len(image.noise_sd) == len(image.pixels)
    said = attributes_of(image.source, image.fields, image.rescale, separate) if described else {}
    return as_array(image.pixels, image.spacing_um, image.origin, said)


def columns_of(answer: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the named columns of a function's result; single values make one row.

    Examples
    --------
    >>> columns_of({"n": 3, "mean": 1.5, "more": "left out"}, ["n", "mean"])
    {'n': [3], 'mean': [1.5]}
    """
    import pandas as pd

    if not isinstance(answer, (Mapping, pd.DataFrame)):
        raise ImageFailed("answer_without_columns")
    for name in names:
        if name not in answer:
            raise ImageFailed(f"no_column_{name}")
    found = {name: answer[name] for name in names}
    if all(np.ndim(value) == 0 for value in found.values()):
        return {name: [value] for name, value in found.items()}
    return {name: np.asarray(value) for name, value in found.items()}


def _placed(found: dict[str, Any], image: Image) -> dict[str, Any]:
    """Shift a block's objects by its position, and keep those centred in its core region."""
    write = image.core_region
    whole = image.origin == (0, 0) and (
        write is None or (write.start, write.shape) == ((0, 0), image.pixels.shape[1:])
    )
    if whole or not {"y", "x"} <= set(found):
        return found
    moved = {n: np.asarray(found[n]) + o for n, o in zip(("y", "x"), image.origin, strict=True)}
    columns = {**found, **moved}
    if write is None:
        return columns
    places = zip(columns["y"], columns["x"], strict=True)
    mine = np.fromiter((write.holds(y, x) for y, x in places), bool)
    return {name: np.asarray(column)[mine] for name, column in columns.items()}
