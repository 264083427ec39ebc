"""Help and shell completion for the parameters of an operation."""

from __future__ import annotations

import inspect
import re
import textwrap
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from typer.core import TyperCommand

if TYPE_CHECKING:
    from engine.operations.base import Operation

KINDS: dict[object, str] = {int: "INTEGER", float: "NUMBER", str: "TEXT", bool: "true|false"}
"""Text of each type in help."""

_SECTION = re.compile(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+$|\Z)", re.DOTALL | re.MULTILINE)


class ParameterHelp(NamedTuple):
    """Option of a parameter, with the text of its type, and its description."""

    option: str
    kind: str
    text: str


def parameters_help(operation: type[Operation]) -> list[ParameterHelp]:
    """Return the help of each parameter of an operation, in order.

    Descriptions come from the numpydoc section "Parameters" of the class, or of a base class.
    """
    described: dict[str, str] = {}
    for kind in reversed(operation.__mro__):
        described |= _described(inspect.cleandoc(kind.__doc__ or ""))
    found = []
    for name, field in operation.model_fields.items():
        text = described.get(name, "")
        if not (field.is_required() or field.default is None or "by default" in text):
            text = f"{text} [default: {_shown(field.default)}]".lstrip()
        option = f"--{name.replace('_', '-')}"
        found.append(ParameterHelp(option, _kind_text(field.annotation), text))
    return found


def _described(document: str) -> dict[str, str]:
    """Return the description of each parameter in a docstring."""
    section = _SECTION.search(document)
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in section[1].splitlines() if section else ():
        if line[:1].strip():
            names = [name.strip() for name in line.partition(":")[0].split(",")]
            found.update((name, []) for name in names)
        else:
            for name in names:
                found[name].append(line)
    return {
        name: " ".join(textwrap.dedent("\n".join(lines)).replace("`", "").split())
        for name, lines in found.items()
    }


def _kind_text(annotation: Any) -> str:
    """Return the text of a type, as `jobs.options.read_value` parses its values."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(_kind_text(i) for i in inner if i is not types.NoneType))
    if origin is Annotated:
        return _kind_text(inner[0])
    if origin is Literal:
        return "|".join(map(str, inner))
    if origin is tuple and len(inner) == 2:
        return "LOW:HIGH"
    return KINDS.get(annotation, "JSON")


def _shown(value: object) -> str:
    if isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)):
        return f"{value[0]:g}:{value[1]:g}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


class ParametrisedCommand(TyperCommand):
    """Command that accepts an operation's parameters; its help and completion list them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the cohort and the operation for `format_options`, then parse."""
        ctx.meta["named"] = self._named_in(ctx, args)
        return super().parse_args(ctx, args)

    def _named_in(self, ctx: Any, args: Sequence[str]) -> tuple[str, str] | None:
        words = [word for word in args if word not in ctx.help_option_names]
        resilient, ctx.resilient_parsing = ctx.resilient_parsing, True
        try:
            given, _, _ = self.make_parser(ctx).parse_args(args=words)
        finally:
            ctx.resilient_parsing = resilient
        place, name = given.get("place"), given.get("operation")
        return (str(place), name) if isinstance(name, str) and not name.startswith("-") else None

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, and the parameters of the named operation."""
        super().format_options(ctx, formatter)
        named = ctx.meta.get("named")
        if named is None:
            return
        from engine.errors import UsageError

        try:
            found = _parameters_of(*named)
        except UsageError as error:
            ctx.fail(str(error))
        if not found:  # a function may have no parameters
            return
        with formatter.section(f"Parameters of {named[1]}"):
            formatter.write_dl((f"{one.option} {one.kind}", one.text) for one in found)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the options and parameters that begin with the given letters."""
        from typer._click.shell_completion import CompletionItem

        from engine.errors import UsageError

        found = super().shell_complete(ctx, incomplete)
        named = ctx.meta.get("named")
        if named is None or not incomplete.startswith("-"):
            return found
        with suppress(UsageError):
            found += [
                CompletionItem(one.option, help=one.text)
                for one in _parameters_of(*named)
                if one.option.startswith(incomplete)
            ]
        return found


def _parameters_of(place: str, name: str) -> list[ParameterHelp]:
    """Return the help of an installed operation, or of a function that a cohort declares."""
    import engine
    from engine.errors import EngineError
    from engine.operations.functions.creation import parameters_of
    from engine.operations.registry import BUILT_IN

    entry: Mapping[str, Any] = {}
    if name not in BUILT_IN:
        with suppress(EngineError):  # help needs no cohort
            entry = engine.open(place).config.operations.get(name, {})
    return parameters_help(parameters_of(name, entry))


def complete_operation(incomplete: str) -> list[str]:
    """Return the names of operations that begin with the given letters."""
    from engine.operations.registry import operation_names

    return [name for name in operation_names() if name.startswith(incomplete)]
