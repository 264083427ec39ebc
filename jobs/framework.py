"""The Typer app ``cohort``, and the decorator that turns functions into commands."""

from __future__ import annotations

import inspect
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from jobs.lazy_commands import Commands
from jobs.operation_help import ParametrisedCommand
from jobs.options import Json

if TYPE_CHECKING:
    from jobs.output import Output

app = typer.Typer(
    name="cohort",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

VERSIONS = ("dask", "zarr", "deltalake")
"""Main dependencies of cohorts and clusters, whose versions help to diagnose problems."""


def print_versions(wanted: bool) -> None:
    """Print the versions in one line, and exit."""
    if wanted:
        from engine.store.config import FORMAT

        others = ", ".join(f"{name} {version(name)}" for name in VERSIONS)
        typer.echo(
            f"cohort {version('cohort-engine')}, format {FORMAT} of cohorts, "
            f"Python {sys.version.split()[0]}, {others}"
        )
        raise typer.Exit


@app.callback()
def cohort(
    asked: Annotated[
        bool,
        typer.Option(
            "--version", callback=print_versions, is_eager=True, help="Print the versions."
        ),
    ] = False,
) -> None:
    """Turn folders of biomedical images into tables, computing only what is new."""


Command = TypeVar("Command", bound=Callable[..., int])


def command(
    app: typer.Typer, *, name: str | None = None, parameters: bool = False
) -> Callable[[Command], Command]:
    """Register a function as a command: it prints to an `Output` and returns the exit code.

    The function's signature defines the command's. Its first parameter, the `Output`, becomes
    ``--json``; a parameter with a dataclass type becomes an option for each field. An `EngineError`
    becomes a one-sentence message and its exit code. The function itself is not changed.

    Parameters
    ----------
    app
        App or command group to add the command to.
    name
        Name of the command; the function's name by default.
    parameters
        Whether unknown options are accepted, as the parameters of an operation; the function gets
        them in its parameter ``context``, a `typer.Context`, as ``args``.
    """
    settings = {"allow_extra_args": True, "ignore_unknown_options": True} if parameters else {}
    kind = ParametrisedCommand if parameters else TyperCommand

    def register(function: Command) -> Command:
        app.command(name, cls=kind, context_settings=settings)(_as_typer_wants(function))
        return function

    return register


def _as_typer_wants(function: Callable[..., int]) -> Callable[..., None]:
    """Return a function with one flat parameter for each argument and option."""
    hints = get_type_hints(function, include_extras=True)
    own = list(inspect.signature(function).parameters.values())[1:]
    groups = {p.name: hints[p.name] for p in own if is_dataclass(hints[p.name])}
    members = {name: [field.name for field in fields(kind)] for name, kind in groups.items()}

    def run(json: bool, **given: Any) -> None:
        def call(output: Output) -> int:
            grouped = {
                name: kind(**{field: given.pop(field) for field in members[name]})
                for name, kind in groups.items()
            }
            return function(output, **grouped, **given)

        run_command(json, call)

    def flat() -> Iterator[tuple[str, Any, Any]]:
        for parameter in own:
            hint = hints[parameter.name]
            if parameter.name in groups:
                kinds = get_type_hints(hint, include_extras=True)
                yield from ((f.name, kinds[f.name], f.default) for f in fields(hint))
            else:
                yield parameter.name, hint, parameter.default
        yield "json", Json, False

    parameters = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hint,
            default=inspect.Parameter.empty if default is MISSING else default,
        )
        for name, hint, default in flat()
    ]
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def run_command(json: bool, action: Callable[[Output], int]) -> None:
    """Run a command and end with its exit code; errors become one sentence each."""
    from engine.errors import EngineError
    from engine.store.backend.os_errors import as_store_error
    from jobs.output import Output

    # From here on Ctrl-C raises KeyboardInterrupt; until now jobs.start ended the process at once.
    if signal.getsignal(signal.SIGINT) not in (signal.SIG_DFL, signal.SIG_IGN):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    output = Output(json)
    try:
        code = action(output)
    except EngineError as error:
        output.error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        output.interrupted()
        code = 130
    except BaseException as error:  # Rust's panics are not instances of Exception
        where = getattr(error, "filename", None)
        named = as_store_error(
            error, str(where or "this command"), others=isinstance(error, OSError)
        )
        if named is None:
            raise
        output.error(named)
        code = named.exit_code
    written = output.close()
    sys.exit(code if written else code or 1)
