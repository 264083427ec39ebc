"""A plain function as an operation: what a notebook asks of a cohort, without a package.

The function travels by value (cloudpickle) where it is defined in a notebook or a script, and by
name where it is imported. The key is made of what its owner states, never of its source.
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
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ConfigDict, create_model

from engine.errors import ParameterError, UsageError
from engine.operations.array_metadata import as_array, attributes_of
from engine.operations.attributes_read import reads_attributes
from engine.operations.base import Image, ImageFailed, Operation
from engine.operations.registry import NoOperation, find_operation
from engine.store.path_pattern import FIELDS

if TYPE_CHECKING:
    import xarray as xr

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""What a function's results and tables can be called: a name that every file system takes."""

TAKEN = frozenset({*FIELDS, "source", "orphaned", "image_id"})
"""Columns that every table has beside those of the objects."""

WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.int64(),
    pa.float16(): pa.float32(),
}
"""Delta Lake has no unsigned numbers and no half floats (Delta protocol, primitive types)."""

MOST_BYTES = 1024**2
"""What a function may carry, bytes: it travels with every task."""


class NotPortable(UsageError):
    """A function can't be sent to workers: (name, what is in the way)."""

    def __str__(self) -> str:
        name, problem = self.args
        return (
            f"The function {name} can't be sent to workers ({problem}). Make what it uses (an open "
            "file, a lock, a model) inside the function."
        )


@dataclass(frozen=True, slots=True)
class Definition:
    """All that makes a function an operation; small, hashable and picklable.

    ``parameters`` are JSON, as the key has them; ``code`` is the pickled function with their
    values; ``labelled`` tells that it takes a DataArray, and ``described`` that it reads its
    attributes.
    """

    name: str
    version: int
    objects: pa.Schema
    singular: str
    quantities: tuple[str, ...]
    resources: tuple[tuple[str, float], ...]
    halo_px: int
    labelled: bool
    described: bool
    parameters: str
    code: bytes


class Function(Operation):
    """A function that somebody gave, as an operation; made by `from_function`."""

    definition: ClassVar[Definition]

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters as plain JSON values, those that have a default included."""
        return dict(json.loads(self.definition.parameters))

    @property
    def halo_px(self) -> int:
        """Context that a block of a giant image needs on each side, pixels."""
        return self.definition.halo_px

    def prepare(self) -> None:
        """Load the function; what it imports must be there."""
        _load(self.definition.code)

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Call the function, and return its columns in coordinates of the whole image."""
        function, given = _load(self.definition.code)
        definition = self.definition
        seen = as_labelled(image, definition.described) if definition.labelled else image.pixels
        return _placed(columns_of(function(seen, **given), self.objects.names), image)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.definition,)


@lru_cache(maxsize=128)
def _class_of(definition: Definition) -> type[Function]:
    # A class a definition, since an operation's name and columns are its class's. Made once in
    # each process, so that two operations of one definition are equal.
    inputs: tuple[str, ...] = ("content", "spacing") if definition.labelled else ("content",)
    if definition.described:
        inputs = (*inputs, "rescale", "fields")
    stated = {
        "__module__": __name__,
        "__doc__": f"The function {definition.name}.",
        "definition": definition,
        "name": definition.name,
        "version": definition.version,
        "objects": definition.objects,
        "inputs": inputs,
        "singular": definition.singular,
        "quantities": definition.quantities,
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
    """Checks parameters by a function's signature, with the errors that all operations have."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def measure(self, image: Image) -> Mapping[str, Sequence[Any] | NDArray[Any]]:
        """Answer nothing."""
        raise NotImplementedError


def from_function(
    function: Callable[..., Any],
    *,
    name: str,
    schema: Mapping[str, Any] | pa.Schema,
    version: int = 1,
    parameters: Mapping[str, Any] | None = None,
    resources: Mapping[str, float] | None = None,
    singular: str = "object",
    quantities: Sequence[str] | None = None,
    halo_px: int = 0,
) -> Function:
    """Make an operation of a function; it gets all that the built-in ones get.

    **The key holds name, version and parameters, never the function's source.** A function that
    was changed under the same version is not computed again: its results are those of the version
    that was computed. Give it a new ``version`` whenever its answers change.

    Parameters
    ----------
    function
        Called as ``function(image, **parameters)`` on a worker. ``image`` is an array (c, y, x) as
        stored, or, where the first parameter is annotated so, an `xarray.DataArray`: the one that
        `engine.Cohort.images` gives with ``stored=True``, with coordinates in micrometres where the
        spacing is known. Its attributes (image_id, source, date, subject, experiment, name,
        rescale) are there if this function, or one of its module that it calls, names one of them;
        then no two images share an answer. Returns a column
        for each name of ``schema`` (a dict or a DataFrame, one row per object; single values make
        one row); what else it returns is left out. It may raise `ImageFailed` with a reason code;
        any other exception fails the image under its own name. Defined in a notebook it travels
        by value, with what it refers to as it is now; imported, the workers need its package.
    name
        What its results and tables are called, e.g. ``texture``.
    schema
        Columns of one object: name to dtype (``float``, ``"int32"``, ``str``, a pyarrow type), or
        a pyarrow schema. ``y`` and ``x`` are pixels within the given array; for blocks of giant
        images they are moved to where the block lies.
    version
        Declared by you; a new one is computed anew.
    parameters
        Values for the function's other parameters, checked by their annotations. Those that are
        left out count with their defaults.
    resources
        What a worker must offer, e.g. ``{"GPU": 1}``.
    singular
        What one object is called in tables.
    quantities
        Columns that are averaged by image and by experiment; by default all numbers but y and x.
    halo_px
        Context that a block of a giant image is given on each side, pixels.

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
    objects = _objects(schema, singular)
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
    averaged = [n for n in numbers if n not in ("y", "x")] if quantities is None else quantities
    if not set(averaged) <= set(numbers):
        raise ParameterError("quantities", list(averaged), f"out of {', '.join(numbers)}")
    return _restore(
        Definition(
            name, version, objects, singular, tuple(averaged),
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


def _objects(schema: Mapping[str, Any] | pa.Schema, singular: str) -> pa.Schema:
    """Return the columns of an object, of types that ledgers can hold."""
    named = schema if isinstance(schema, pa.Schema) else pa.schema(_fields(schema))
    if not named.names:
        raise ParameterError("schema", schema, 'at least one column, e.g. {"area_px": float}')
    for name in named.names:
        if name in TAKEN or name == singular or name.startswith("_"):
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
    """Return the parameters, checked by the function's signature, and if it takes a DataArray."""
    try:
        image, *others = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise ParameterError("function", function, "a function of an image") from None
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # a partial has none, and a notebook may name what is not there any more
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
    xarray = sys.modules.get("xarray")  # it is there where somebody wrote its name
    return checked(**given), xarray is not None and hints.get(image.name) is xarray.DataArray


def _pickled(function: Callable[..., Any], values: dict[str, Any]) -> bytes:
    called = getattr(function, "__name__", type(function).__name__)
    try:
        code = cloudpickle.dumps((function, values))
    except Exception as error:  # whatever its objects raise that can't be pickled
        raise NotPortable(called, (str(error).splitlines() or [""])[0][:200]) from error
    if len(code) > MOST_BYTES:
        raise NotPortable(called, f"it carries {len(code):,} bytes of what it refers to")
    return code


def as_labelled(image: Image, described: bool) -> xr.DataArray:
    """Return an image as `engine.Cohort.images` gives it; its attributes if it is ``described``."""
    separate = 1 < len(image.noise_sd) == len(image.pixels)
    said = attributes_of(image.source, image.fields, image.rescale, separate) if described else {}
    return as_array(image.pixels, image.spacing_um, image.origin, said)


def columns_of(answer: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the named columns of a function's answer; single values make one row.

    Examples
    --------
    >>> columns_of({"n": 3, "mean": 1.5, "more": "left out"}, ["n", "mean"])
    {'n': [3], 'mean': [1.5]}
    """
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
    """Move a block's objects to where it lies, and keep those whose centre it answers for."""
    write = image.write
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
