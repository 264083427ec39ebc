"""Creation of operations from entries of cohort.toml: installed ones, and functions by their path.

An entry with ``function = "lab.nuclei:segment"`` names a function of an importable module; further
entries define its operation as the arguments of `from_function` do, and the rest are parameters.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from engine.errors import ConfigError, ParameterError, UsageError
from engine.operations.base import Operation
from engine.operations.functions.options import check_version
from engine.operations.registry import BrokenOperation, find_operation

DEFINITION = (
    "function", "schema", "labels", "upstream", "version", "resources", "object_name",
    "averaged_columns", "halo_px",
)  # fmt: skip
"""Entries that define a function's operation; the others are its parameters."""

PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class FunctionNotFound(BrokenOperation):
    """Function that can't be used: (operation, path, problem)."""

    def __str__(self) -> str:
        name, path, problem = self.args
        return f"The operation {name!r} is the function {path}, which can't be used: {problem}."


def definition_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an entry that defines a function's operation; else an empty dict."""
    return {n: entry[n] for n in DEFINITION if n in entry} if "function" in entry else {}


def create_operation(name: str, entry: Mapping[str, Any], given: Mapping[str, Any]) -> Operation:
    """Create an operation; given parameters override declared ones, which override defaults.

    Parameters
    ----------
    name
        Name of an installed operation, or any name if ``entry`` has a function.
    entry
        Entry of the operation in cohort.toml, or an empty one.

    Raises
    ------
    NoOperation, FunctionNotFound, UsageError
    ConfigError
        If the declared parameters are invalid.
    """
    definition = definition_of(entry)
    declared = {n: value for n, value in entry.items() if n not in definition}
    make: Callable[..., Operation]
    if definition:
        make, alternatives = partial(_from_path, name, definition), []
    else:
        make = kind = find_operation(name)
        alternatives = [*kind.alternatives]
    replaced = {n for group in alternatives if group & {*given} for n in group}
    kept = {n: value for n, value in declared.items() if n not in replaced}
    try:
        return make(**{**kept, **given})
    except FunctionNotFound:
        raise
    except UsageError as error:
        try:
            make(**declared)
        except UsageError as theirs:
            raise ConfigError(f"cohort.toml, operations.{name}", str(theirs)) from None
        raise error from None


def parameters_of(name: str, entry: Mapping[str, Any]) -> type[Operation]:
    """Return a class whose fields are the parameters of an operation.

    Raises
    ------
    NoOperation, FunctionNotFound, ParameterError
    """
    if "function" not in entry:
        return find_operation(name)
    from engine.operations.functions.function import parameter_model

    function = _imported(name, entry["function"])
    return parameter_model(function, name, {}, reads=bool(entry.get("upstream")))[0]


def version_of(name: str, entry: Mapping[str, Any]) -> int:
    """Return the version of the operation that `create_operation` makes.

    Raises
    ------
    NoOperation, ParameterError
    """
    if "function" not in entry:
        return find_operation(name).version
    return check_version(entry.get("version", 1))


def _from_path(name: str, definition: Mapping[str, Any], **parameters: Any) -> Operation:
    from engine.operations.functions.function import from_function  # pickling takes time to import

    function = _imported(name, definition["function"])
    options = {n: value for n, value in definition.items() if n != "function"}
    return from_function(function, name=name, parameters=parameters, **options)


def _imported(name: str, path: object) -> Callable[..., Any]:
    if not (isinstance(path, str) and PATH.fullmatch(path)):
        raise ParameterError("function", path, "module:function, e.g. lab.nuclei:segment")
    module, _, attribute = path.partition(":")
    if _is_standard(module):
        raise FunctionNotFound(name, path, "it is one of Python's own modules")
    try:
        function = getattr(import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        problem = f"{error}. Install its package, or add its folder to PYTHONPATH"
        raise FunctionNotFound(name, path, problem) from None
    except (Exception, SystemExit) as error:  # a foreign module may raise anything on import
        raise FunctionNotFound(name, path, f"{type(error).__name__}: {error}") from error
    if function is None:
        raise FunctionNotFound(name, path, f"{module} has no {attribute}")
    # An image could be code to pickle.loads, whatever the name by which a module offers it.
    if not callable(function) or _is_standard(getattr(function, "__module__", None) or ""):
        raise FunctionNotFound(name, path, "it is not a function of that module")
    return function


def _is_standard(module: str) -> bool:
    return module.partition(".")[0] in {*sys.stdlib_module_names, "builtins"}
