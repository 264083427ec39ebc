"""The command ``cohort``: what people and schedules call. Stable: their scripts depend on it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from engine.errors import EngineError, UsageError
from jobs import commands, phantoms
from jobs.options import (
    ClusterArguments,
    Json,
    Limit,
    MaxFailed,
    MemoryLimit,
    Scheduler,
    ThreadsPerWorker,
    Where,
    Workers,
)
from jobs.output import Output

app = typer.Typer(
    name="cohort",
    help="Turn folders of biomedical images into tables, computing only what is new.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(phantoms.app, name="phantom")

CohortPath = Annotated[str, typer.Argument(metavar="COHORT", help="Folder or URL of a cohort.")]
OperationName = Annotated[
    str | None,
    typer.Argument(metavar="[OPERATION]", help="What is asked; all that is declared by default."),
]
Retry = Annotated[bool, typer.Option("--failed", help="Also try again what failed before.")]

WITH_PARAMETERS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Commands that take an operation's parameters as options of the same name."""


def _guarded(json: bool, action: Callable[[Output], int]) -> None:
    """Run a command and end with its exit code; errors become one sentence each."""
    output = Output(json)
    try:
        code = action(output)
    except EngineError as error:
        output.error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        output.interrupted()
        code = 130
    output.close()
    sys.exit(code)


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    json: Json = False,
    scheduler: Scheduler = None,
    workers: Workers = None,
    threads_per_worker: ThreadsPerWorker = 1,
    memory_limit: MemoryLimit = "auto",
) -> None:
    """Make images, ingest them, find their circles, and say where to look."""
    cluster = ClusterArguments(scheduler, workers, threads_per_worker, memory_limit)
    _guarded(json, lambda out: commands.demo(out, directory, cluster))


@app.command()
def ingest(
    cohort: CohortPath,
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="[SOURCE]...", help="Files or folders.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="What the folders mean, e.g. {date}/{subject}/{experiment}/{name}."),
    ] = None,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Open all files, also those that look unchanged.")
    ] = False,
    max_failed: MaxFailed = 0,
    json: Json = False,
    scheduler: Scheduler = None,
    workers: Workers = None,
    threads_per_worker: ThreadsPerWorker = 1,
    memory_limit: MemoryLimit = "auto",
) -> None:
    """Take what is new or changed; makes the cohort where there is none."""
    cluster = ClusterArguments(scheduler, workers, threads_per_worker, memory_limit)
    _guarded(
        json,
        lambda out: commands.ingest(
            out, cohort, sources or [], cluster, layout=layout, rehash=rehash, max_failed=max_failed
        ),
    )


@app.command(context_settings=WITH_PARAMETERS)
def plan(
    context: typer.Context,
    cohort: CohortPath,
    operation: OperationName = None,
    where: Where = None,
    limit: Limit = None,
    failed: Retry = False,
    json: Json = False,
) -> None:
    """Say what a run would compute, and why; computes nothing.

    An operation's parameters are options too, e.g. --radius-px 10:60.
    """
    _guarded(
        json,
        lambda out: commands.plan(out, cohort, operation, context.args, where, limit, failed),
    )


@app.command(context_settings=WITH_PARAMETERS)
def run(
    context: typer.Context,
    cohort: CohortPath,
    operation: OperationName = None,
    where: Where = None,
    limit: Limit = None,
    failed: Retry = False,
    declare: Annotated[
        bool, typer.Option("--declare", help="Make these parameters the current ones.")
    ] = False,
    max_failed: MaxFailed = 0,
    json: Json = False,
    scheduler: Scheduler = None,
    workers: Workers = None,
    threads_per_worker: ThreadsPerWorker = 1,
    memory_limit: MemoryLimit = "auto",
) -> None:
    """Compute what lacks a result, and make the tables.

    An operation's parameters are options too, e.g. --radius-px 10:60.
    """
    cluster = ClusterArguments(scheduler, workers, threads_per_worker, memory_limit)
    _guarded(
        json,
        lambda out: commands.run(
            out,
            cohort,
            operation,
            context.args,
            cluster,
            where=where,
            limit=limit,
            retry_failed=failed,
            declare=declare,
            max_failed=max_failed,
        ),
    )


@app.command()
def export(
    cohort: CohortPath,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="E.g. circles_by_image.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help=".csv, .parquet or .arrow.")],
    json: Json = False,
) -> None:
    """Write a table to a file; the suffix says which kind."""
    _guarded(json, lambda out: commands.export(out, cohort, table, file))


@app.command()
def status(cohort: CohortPath, json: Json = False) -> None:
    """Say what is there, what is missing and what failed."""
    _guarded(json, lambda out: commands.status(out, cohort))


@app.command()
def verify(cohort: CohortPath, json: Json = False) -> None:
    """Check every file against the ledgers; exit code 1 where something is wrong."""
    _guarded(json, lambda out: commands.verify(out, cohort))


@app.command()
def gc(
    cohort: CohortPath,
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="HOURS", help="Leave what is younger.")
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Remove what no commit names: leftovers of runs that were killed."""
    _guarded(json, lambda out: commands.gc(out, cohort, older_than, dry_run))


def main() -> None:
    """Run the command line; wrong usage ends with exit code 2 and a sentence."""
    app()


__all__ = ["UsageError", "app", "main"]
