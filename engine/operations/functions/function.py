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
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import cloudpickle
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import ConfigDict, create_model

from engine.deprecations import renamed_arguments
from engine.errors import ParameterError, UsageError
from engine.operations.array_metadata import as_array, attributes_of
from engine.operations.base import LABELS, Image, ImageFailed, Operation
from engine.operations.functions.attributes_read import reads_attributes, reads_channels
from engine.operations.functions.columns import columns_of, object_columns, place_in_image
from engine.operations.functions.options import (
    check_halo,
    check_object_name,
    check_version,
    checked_list,
    checked_resources,
)
from engine.operations.instances import InstanceOperation, instance_schema
from engine.operations.registry import NoOperation, find_operation

if TYPE_CHECKING:
    import xarray as xr

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
"""Allowed names of a function's results and tables: valid on every file system."""

GIVEN = frozenset({"labels", "objects"})
"""Parameters of a function that reads the results of other operations."""

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
    attributes; ``names_channels`` that it reads their names.
    """

    name: str
    version: int
    objects: pa.Schema
    object_name: str
    averaged_columns: tuple[str, ...]
    resources: tuple[tuple[str, float], ...]
    halo_px: int
    labels: str | None
    upstream: tuple[str, ...]
    labelled: bool
    described: bool
    names_channels: bool
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
        answer = self._call(image)
        return place_in_image(columns_of(answer, self.object_schema.names), image)

    @property
    def upstream_names(self) -> Mapping[str, str]:
        """Names of the operations whose results it reads."""
        return {named.partition("@")[0]: named for named in self.definition.upstream}

    def _call(self, image: Image) -> Any:
        function, given = _load(self.definition.code)
        definition = self.definition
        if definition.upstream:
            named = {name: rows.to_pandas() for name, rows in image.objects.items()}
            given = {**given, **_taken(function, {"labels": image.labels, "objects": named})}
        seen = as_labelled(image, definition) if definition.labelled else image.pixels
        return function(seen, **given)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.definition, dict(self.upstream))


class InstanceFunction(InstanceOperation, Function):
    """A user's function that finds instances, as an operation; made by `from_function`."""

    def find(self, image: Image) -> tuple[Any, Mapping[str, Any]]:
        """Call the function; return its labels and its columns."""
        answer = self._call(image)
        if not isinstance(answer, Mapping):
            return answer, {}
        if LABELS not in answer:
            raise ImageFailed("answer_without_labels")
        return answer[LABELS], answer


@lru_cache(maxsize=128)
def _class_of(definition: Definition) -> type[Function]:
    # One class per definition, since name and columns are class variables. Cached, so that two
    # operations of one definition are equal within a process.
    base = InstanceFunction if definition.labels else Function
    spaced = definition.labelled or definition.labels is not None
    inputs: tuple[str, ...] = ("content", "spacing") if spaced else ("content",)
    if definition.described:
        inputs = (*inputs, "rescale", "fields")
    if definition.names_channels:
        inputs = (*inputs, "channels")
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
    made: type[Function] = metaclass(base.__name__, (base,), stated)
    return made


def _restore(definition: Definition, upstream: Mapping[str, Operation] = {}) -> Function:
    return _class_of(definition)().with_upstream(upstream)


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
    schema: Mapping[str, Any] | pa.Schema | None = None,
    labels: Literal["instances"] | None = None,
    upstream: Sequence[str | Operation] = (),
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
        them; then no two images share a result. Its coordinate ``c`` has the names of the channels
        if the function reads it (``image.sel(c="DAPI")``, ``image.c``). Returns a column for each
        name of ``schema`` (a dict or a DataFrame, one row per object; single values make one row);
        other columns are ignored. It may raise `ImageFailed` with a reason code; any other
        exception fails the image under its own name. A function defined in a notebook travels by
        value, with the current values that it refers to; for an imported function, the workers need
        its package.
    name
        Name of its results and tables, e.g. ``texture``.
    schema
        Columns of one object: name to dtype (``float``, ``"int32"``, ``str``, a pyarrow type), or a
        pyarrow schema. ``y`` and ``x`` are pixels within the given array; for blocks of giant
        images they are shifted by the block's position. May be omitted with ``labels``.
    labels
        "instances" for a function that segments: it returns an integer array (y, x) with a positive
        number for each object and 0 for background, or a dict with it as ``labels`` and the columns
        of ``schema``, which have a value for each object by ascending number. The objects are
        stored as a label image, and numbered and measured for the table: centre, area, diameter,
        whether they touch the border of the image. ``halo_px`` should be at least the diameter of
        the largest object plus the context that the function needs.
    upstream
        Operations whose results the function reads, or names of operations of the cohort (a trial
        as ``name@<key8>``); it is called for images that have these. It gets them as ``labels`` (a
        dict of label images (y, x) by operation, of the array's region) and ``objects`` (a dict of
        DataFrames by operation, of the whole image), if it has these parameters.
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
    >>> import numpy as np
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
    check_version(version)
    if labels not in (None, "instances"):
        raise ParameterError("labels", labels, '"instances"')
    needed = checked_resources(resources)
    check_halo(halo_px)
    upstream = checked_list("upstream", upstream, (str, Operation), '["nuclei"]')
    own = None if labels and schema is None else object_columns(schema, object_name)
    objects = own or pa.schema([])
    given = dict(parameters or {})
    model, labelled = parameter_model(function, name, given, reads=bool(upstream))
    settled = model(**given)
    values = {field: getattr(settled, field) for field in type(settled).model_fields}
    described = labelled and reads_attributes(function, values)
    names_channels = labelled and reads_channels(function)
    try:
        json.dumps(values, allow_nan=False)
        stated = json.dumps(settled.parameters, sort_keys=True)
    except (ValueError, TypeError):
        raise ParameterError("parameters", values, "plain values: numbers, texts, lists") from None
    numbers = [
        f.name for f in objects if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)
    ]
    averaged = (
        tuple(n for n in numbers if n not in ("y", "x"))
        if averaged_columns is None
        else checked_list("averaged_columns", averaged_columns, str, '["area_px"]')
    )
    if not set(averaged) <= set(numbers):
        raise ParameterError("averaged_columns", list(averaged), f"out of {', '.join(numbers)}")
    if labels:
        objects = instance_schema(objects)
        averaged = (*InstanceOperation.averaged_columns, *averaged)
    check_object_name(object_name, objects.names)
    bound = {one.name: one for one in upstream if isinstance(one, Operation)}
    names = tuple(one.name if isinstance(one, Operation) else one for one in upstream)
    return _restore(
        Definition(
            name, version, objects, object_name, averaged, needed, halo_px, labels, names, labelled,
            described, names_channels, stated,
            _pickled(function, values),
        ),
        bound,
    )  # fmt: skip


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ParameterError("name", name, "lower-case letters, digits and _, a letter first")
    try:
        find_operation(name)
    except NoOperation:
        return
    raise ParameterError("name", name, "another one: an installed operation is called so")


def parameter_model(
    function: Callable[..., Any], name: str, given: Mapping[str, Any], *, reads: bool
) -> tuple[type[Operation], bool]:
    """Return a class whose fields are a function's parameters, and whether it takes a DataArray.

    Parameters
    ----------
    given
        Names of further parameters of a function with ``**parameters``.
    reads
        Whether it reads the results of other operations, which are no parameters.

    Raises
    ------
    ParameterError
    """
    results = GIVEN if reads else frozenset()
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
        if parameter.name in results:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            fields |= {n: (Any, ...) for n in given if n not in fields}
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints.get(parameter.name, Any), default)
    for field in fields:
        if hasattr(Operation, field) or field.startswith("_"):
            raise ParameterError("function", field, "a parameter of another name: it is taken")
    checked = create_model(name, __base__=_Parameters, __doc__=function.__doc__, **fields)
    checked.name = name
    xarray = sys.modules.get("xarray")  # already imported if the annotation refers to it
    return checked, xarray is not None and hints.get(image.name) is xarray.DataArray


def _taken(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of some values that a function has parameters for."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in values.items() if name in names}


def _pickled(function: Callable[..., Any], values: dict[str, Any]) -> bytes:
    called = getattr(function, "__name__", type(function).__name__)
    try:
        code = cloudpickle.dumps((function, values))
    except Exception as error:  # objects raise arbitrary exceptions when pickled
        raise NotPortable(called, (str(error).splitlines() or [""])[0][:200]) from error
    if len(code) > MOST_BYTES:
        raise NotPortable(called, f"it carries {len(code):,} bytes of objects that it refers to")
    return code


def as_labelled(image: Image, definition: Definition) -> xr.DataArray:
    """Return an image as `engine.Cohort.images` gives it, with what its function reads of it."""
    said, names = {}, image.channel_names if definition.names_channels else ()
    if definition.described:
        separate = 1 < len(image.noise_sd) == len(image.pixels)
        said = attributes_of(image.source, image.fields, image.rescale, separate)
    return as_array(image.pixels, image.spacing_um, image.origin, said, names)
