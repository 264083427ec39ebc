"""Commands of daily use: each calls the engine and prints the outcome."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

import engine
from engine.errors import ParameterError, UsageError
from engine.execution.progress import pluralise
from engine.ingest.roots import Source
from engine.plain_files import reads_end_on
from engine.sources.registry import broken_formats
from jobs.framework import app, command
from jobs.messages.core import (
    experiments_table,
    gc_lines,
    ingest_lines,
    plan_lines,
    qc_lines,
    repair_lines,
    reveal_lines,
    run_lines,
    status_lines,
    step_lines,
    verify_lines,
)
from jobs.night import INCOMPLETE, Step, run_nightly
from jobs.opening import opened, repaired
from jobs.options import (
    ClusterArguments,
    CohortPath,
    MaxFailed,
    OperationName,
    Selection,
    read_parameters,
)
from jobs.output import Output
from jobs.source_checks import WITHHELD, list_formats, require_files, require_key

if TYPE_CHECKING:
    from distributed import Client

    from engine import Cohort
    from engine.qc.driver import QcReport
    from engine.runs.driver import RunReport

DEMO_RADIUS_PX = (15.0, 65.0)
"""Radii of the demo's discs, with a margin on both sides, pixels."""


DEMO_FOLDERS = {"data", "cohort"}
"""Subfolders that a demo creates."""


@contextmanager
def graceful_interrupt(output: Output) -> Iterator[Callable[[], bool]]:
    """Stop gracefully on the first Ctrl-C or SIGTERM, immediately on the second."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        output.info("Stopping: tasks in flight end and are committed. Ctrl-C again stops at once.")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with reads_end_on(lambda: asked):
            yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def open_client(output: Output, cluster: ClusterArguments) -> AbstractContextManager[Client]:
    """Yield a client; on first use its cluster starts and the dashboard's address is printed."""
    return cluster.open_on_demand(output.info)


@command(app)
def demo(
    output: Output,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    *,
    cluster: ClusterArguments,
) -> int:
    """Make images, find their circles, show them, and say where to look."""
    from engine.phantoms import DiscOptions, write_discs

    images, place = directory / "data" / "acquisitions", directory / "cohort"
    there = {entry.name for entry in directory.iterdir()} if directory.is_dir() else set()
    if there - DEMO_FOLDERS or directory.is_file():
        raise ParameterError("DIR", str(directory), "a new or empty folder, or that of a demo")
    write_discs(images, DiscOptions())
    cohort = repaired(output, engine.create(place))
    with graceful_interrupt(output) as stop, open_client(output, cluster) as client:
        taken = cohort.ingest(images, client=client, events=output.events, stop=stop)
        operation = cohort.operation("circles", **_demo_parameters(cohort))
        report = cohort.run(operation, client=client, events=output.events, stop=stop)
        shown = cohort.qc(operation, client=client, events=output.events, stop=stop)
    tables = {name: str(place / "tables" / f"{name}.parquet") for name in report.tables}
    # Ready to paste: the path of the program if its virtual environment is not active.
    typed = shlex.quote(str(place))
    program = "cohort" if shutil.which("cohort") else shlex.quote(sys.argv[0])
    output.result(
        {
            "ingest": taken.as_json(),
            "run": report.as_json(),
            "tables": tables,
            "qc": shown.as_json(),
        },
        *ingest_lines(taken),
        *run_lines(report),
        experiments_table(cohort.table("circles_by_experiment")),
        *qc_lines(shown),
        "Look further:",
        f"  pandas.read_parquet({tables['circles']!r})",
        f"  {program} export {typed} circles circles.csv",
        f"  {program} status {typed}",
        f"  {program} plan {typed} circles --radius-px 15:50   # what a change would recompute",
        f"  {program} ingest {typed} && {program} run {typed}     # tomorrow: only what is new",
    )
    return _code(report.failed + taken.failed + shown.failed, 0)


def _demo_parameters(cohort: Cohort) -> dict[str, Any]:
    return {} if "circles" in cohort.config.operations else {"radius_px": DEMO_RADIUS_PX}


@command(app)
def ingest(
    output: Output,
    place: CohortPath,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="SOURCE", help="Files, folders, s3://..., dicomweb+https://..."),
    ] = None,
    *,
    layout: Annotated[
        str | None,
        typer.Option(help="Pattern of the folders, e.g. {date}/{subject}/{experiment}/{name}."),
    ] = None,
    rehash: Annotated[
        bool, typer.Option("--rehash", help="Open all files, also those that look unchanged.")
    ] = False,
    max_failed: MaxFailed = 0,
    cluster: ClusterArguments,
) -> int:
    """Ingest new and changed images.

    Creates the cohort if there is none. Without SOURCE, ingests all sources in cohort.toml.
    """
    given = [Source(source) for source in sources or []]
    if given:
        for source in given:  # check before creating a cohort
            require_files(source)
            require_key(source, place)
        cohort = repaired(output, engine.create(place, layout=layout))
    else:
        cohort = opened(output, place)
    request = cohort.require_sources(*given, layout=layout)
    with graceful_interrupt(output) as stop, open_client(output, cluster) as client:
        report = cohort.ingest(
            client=client, rehash=rehash, events=output.events, stop=stop, request=request
        )
    if report.withheld:
        output.info(WITHHELD.format(report.withheld))
    if report.listed == report.ignored and not report.orphaned:
        output.info(
            f"No image was found in {', '.join(sources or ()) or 'the roots of cohort.toml'}: of "
            f"{pluralise(report.listed, 'files')} none is {list_formats()}."
        )
    if report.ignored:
        for error in broken_formats():
            output.info(str(error))
    output.result(report.as_json(), *ingest_lines(report))
    failed = report.failed + report.left + report.withheld + len(report.lost) + report.refused
    return _code(failed, max_failed)


@command(app, parameters=True)
def plan(
    output: Output,
    context: typer.Context,
    place: CohortPath,
    operation: OperationName = None,
    *,
    selection: Selection,
) -> int:
    """Show what a run would compute, and why; computes nothing.

    Accepts an operation's parameters as options, e.g. --radius-px 10:60.
    """
    cohort = opened(output, place)
    plans = [
        cohort.plan(wanted, **selection.asked())
        for wanted in _requested_operations(cohort, operation, context)
    ]
    values = {"plans": [made.as_json() for made in plans]}
    output.result(values, *(line for made in plans for line in plan_lines(made)))
    return 0


def _requested_operations(
    cohort: Cohort, name: str | None, context: typer.Context
) -> list[engine.Operation]:
    # `cohort run C --radius-px 1:2` parses its first parameter as the operation's name.
    if name is not None and name.startswith("--"):
        raise UsageError(f"Name the operation before its parameters, e.g. circles {name} ...")
    given = read_parameters(context.args)
    if name is None:
        if given:
            raise UsageError("Name the operation whose parameters these are, e.g. circles.")
        return cohort.declared()
    return [cohort.operation(name, **given)]


@command(app, parameters=True)
def run(
    output: Output,
    context: typer.Context,
    place: CohortPath,
    operation: OperationName = None,
    *,
    selection: Selection,
    declare: Annotated[
        bool, typer.Option("--declare", help="Declare these parameters in cohort.toml.")
    ] = False,
    max_failed: MaxFailed = 0,
    cluster: ClusterArguments,
) -> int:
    """Compute missing results, and update the tables.

    Accepts an operation's parameters as options, e.g. --radius-px 10:60.
    """
    cohort = opened(output, place)
    operations = _requested_operations(cohort, operation, context)
    # Check before a cluster is started.
    cohort.require_images(where=selection.where, limit=selection.limit, declare=declare)
    reports: list[RunReport] = []
    with graceful_interrupt(output) as stop, open_client(output, cluster) as client:
        for wanted in operations:
            report = cohort.run(
                wanted,
                client=client,
                **selection.asked(),
                declare=declare,
                events=output.events,
                stop=stop,
            )
            reports.append(report)
    lines = [line for report in reports for line in run_lines(report)]
    output.result({"runs": [report.as_json() for report in reports]}, *lines)
    return _code(sum(report.failed for report in reports), max_failed)


@command(app, parameters=True)
def qc(
    output: Output,
    context: typer.Context,
    place: CohortPath,
    operation: OperationName = None,
    *,
    where: Annotated[
        str | None,
        typer.Option(metavar="CONDITION", help="Overlays of images with, e.g. count > 20."),
    ] = None,
    all_images: Annotated[
        bool, typer.Option("--all", help="Make an overlay of every image.")
    ] = False,
    max_failed: MaxFailed = 0,
    cluster: ClusterArguments,
) -> int:
    """Make pictures of the results, and a page that shows them.

    Accepts an operation's parameters as options, e.g. --radius-px 10:60.
    """
    cohort = opened(output, place)
    reports: list[QcReport] = []
    operations = _requested_operations(cohort, operation, context)
    with graceful_interrupt(output) as stop, open_client(output, cluster) as client:
        for wanted in operations:
            report = cohort.qc(
                wanted, client=client, where=where, all_images=all_images,
                events=output.events, stop=stop,
            )  # fmt: skip
            reports.append(report)
    lines = [line for report in reports for line in qc_lines(report)]
    output.result({"qc": [report.as_json() for report in reports]}, *lines)
    return _code(sum(report.failed for report in reports), max_failed)


@command(app)
def nightly(
    output: Output,
    place: CohortPath,
    *,
    max_failed: MaxFailed = 0,
    cluster: ClusterArguments,
) -> int:
    """Ingest, run and render all declared operations, and print a summary.

    For schedules: in every case, standard output gets one line of JSON, and the log goes to
    standard error. After a failed step, the other steps are still tried.
    """
    output.as_json = True

    def ended(step: Step, report: object) -> None:
        if step.message is not None:
            output.info(f"{step.step} failed: {step.message}")
        for line in step_lines(report):
            output.info(line)

    cohort = opened(output, place)
    with graceful_interrupt(output) as stop, open_client(output, cluster) as client:
        summary = run_nightly(
            cohort, client, events=output.events, max_failed=max_failed, stop=stop, ended=ended
        )
    output.result(summary.as_json())
    return summary.exit_code


@command(app)
def status(
    output: Output,
    place: CohortPath,
    *,
    reveal: Annotated[
        Path | None,
        typer.Option(metavar="SOURCE", help="Show a file's name in the cohort; needs the key."),
    ] = None,
) -> int:
    """Show existing, missing and failed results."""
    if reveal is not None:
        rows = opened(output, place).reveal(reveal)
        output.result({"revealed": rows}, *reveal_lines(rows))
        return 0
    found = opened(output, place).status()
    output.result(found.as_json(), *status_lines(found))
    return 0


@command(app)
def verify(
    output: Output,
    place: CohortPath,
    *,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop torn commits; remake checkpoints.")
    ] = False,
) -> int:
    """Check every file against the ledgers.

    Exits with code 1 if there is a problem.
    """
    cohort = engine.open(place)
    done = cohort.repair() if repair else ()
    report = cohort.verify()
    values = report.as_json() | ({"repaired": [asdict(one) for one in done]} if repair else {})
    output.result(values, *repair_lines(done, repair), *verify_lines(report))
    return 0 if report.ok else 1


@command(app)
def gc(
    output: Output,
    place: CohortPath,
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than",
            metavar="HOURS",
            help="Minimum age; use 0 only while nothing runs.",
        ),
    ] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the files.")] = False,
) -> int:
    """Delete unreferenced files, the leftovers of killed runs."""
    if older_than < 0:
        raise ParameterError("--older-than", older_than, "a number of hours, 0 or more")
    left = opened(output, place).gc(older_than_s=older_than * 3600, dry_run=dry_run)
    values = {"dry_run": dry_run, "removed": [one.as_json() for one in left]}
    output.result(values, *gc_lines(left, dry_run))
    return 0


def _code(failed: int, allowed: int) -> int:
    return INCOMPLETE if failed > allowed else 0
