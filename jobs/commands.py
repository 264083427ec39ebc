"""What each command does: calls the engine, and says what came of it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
from distributed import Client
from rich.table import Table

import engine
from engine import Cohort
from engine.errors import ParameterError, UsageError
from engine.graph.admission import IngestReport
from engine.graph.run import RunReport
from engine.operations.plan import CAUSES, SETTLED, Plan
from engine.phantoms import DiscOptions, write_discs
from engine.sources import REASONS
from jobs.options import ClusterArguments, read_parameters
from jobs.output import Output

INCOMPLETE = 3
"""Exit code of a command that came to its end with more new failures than allowed."""

DEMO_RADIUS_PX = (15.0, 65.0)
"""Radii that the demo's discs have, with room on both sides, pixels."""


@contextmanager
def interruptible(output: Output) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C (or SIGTERM) end work in good order, and a second one at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        output.say("Stopping: tasks in flight end and are committed. Ctrl-C again stops at once.")

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def working(output: Output, cluster: ClusterArguments) -> Iterator[Client]:
    """Give a client for a command, and say where its dashboard is."""
    with engine.connect(cluster.options()) as client:
        if client.dashboard_link and sys.stderr.isatty():
            output.say(f"Dashboard: {client.dashboard_link}")
        yield client


def demo(output: Output, directory: Path, cluster: ClusterArguments) -> int:
    """Make images, ingest them, find their circles, and say where to look."""
    images, place = directory / "data" / "acquisitions", directory / "cohort"
    write_discs(images, DiscOptions())
    cohort = engine.create(place)
    with working(output, cluster) as client, interruptible(output) as stop:
        taken = cohort.ingest(images, client=client, events=output.events, stop=stop)
        operation = cohort.operation("circles", **_demo_parameters(cohort))
        report = cohort.run(operation, client=client, events=output.events, stop=stop)[0]
    tables = {name: str(place / "tables" / f"{name}.parquet") for name in report.tables}
    found = cohort.table("circles")
    output.result(
        {"ingest": taken.as_json(), "run": report.as_json(), "tables": tables},
        *_ingest_lines(taken),
        *_run_lines(report),
        _preview(found),
        "",
        "Look further:",
        f"  pandas.read_parquet('{tables['circles']}')",
        f"  cohort export {place} circles circles.csv",
        f"  cohort status {place}",
        f"  cohort plan {place} circles --radius-px 15:50   # what a change would recompute",
        f"  cohort ingest {place} && cohort run {place}     # tomorrow: only what is new",
    )
    return _code(report.failed + taken.failed, 0)


def _demo_parameters(cohort: Cohort) -> dict[str, Any]:
    return {} if "circles" in cohort.config.operations else {"radius_px": DEMO_RADIUS_PX}


def _preview(found: Any) -> Table:
    columns = ["date", "subject", "experiment", "name", "circle", "x", "y", "radius_px"]
    columns.append("mean_intensity")
    table = Table(
        title=f"{len(found)} circles; the first of each experiment:", title_justify="left"
    )
    for name in columns:
        table.add_column(name, justify="left" if name in columns[:4] else "right")
    first = found.groupby(columns[:3], sort=True).head(1)[columns]
    for row in first.itertuples(index=False):
        table.add_row(
            *(f"{value:.1f}" if isinstance(value, float) else str(value) for value in row)
        )
    return table


def ingest(
    output: Output,
    place: str,
    sources: Sequence[str],
    cluster: ClusterArguments,
    *,
    layout: str | None,
    rehash: bool,
    max_failed: int,
) -> int:
    """Take what is new or changed."""
    if sources:
        for source in sources:
            if not Path(source).exists():
                raise engine.errors.NoSource(source)
        cohort = engine.create(place, layout=layout)
    else:
        cohort = engine.open(place)
    with working(output, cluster) as client, interruptible(output) as stop:
        report = cohort.ingest(
            *sources, client=client, layout=layout, rehash=rehash, events=output.events, stop=stop
        )
    if not report.listed or (report.listed == report.ignored and not report.orphaned):
        output.say(f"No image was found in {', '.join(sources) or 'the roots of cohort.toml'}.")
    output.result(report.as_json(), *_ingest_lines(report))
    return _code(report.failed + report.left, max_failed)


def plan(
    output: Output,
    place: str,
    name: str | None,
    arguments: Sequence[str],
    where: str | None,
    limit: int | None,
    retry_failed: bool,
) -> int:
    """Say what a run would compute, and why."""
    cohort = engine.open(place)
    plans = [
        cohort.plan(operation, where=where, limit=limit, retry_failed=retry_failed)
        for operation in _operations(cohort, name, arguments)
    ]
    values = {"plans": [made.as_json() for made in plans]}
    output.result(values, *(line for made in plans for line in _plan_lines(made)))
    return 0


def _operations(
    cohort: Cohort, name: str | None, arguments: Sequence[str]
) -> list[engine.Operation]:
    # `cohort run C --radius-px 1:2` reads its first parameter as the operation's name.
    if name is not None and name.startswith("--"):
        raise UsageError(f"Name the operation before its parameters, e.g. circles {name} ...")
    given = read_parameters(arguments)
    if name is None:
        if given:
            raise UsageError("Name the operation whose parameters these are, e.g. circles.")
        return cohort.declared()
    return [cohort.operation(name, **given)]


def run(
    output: Output,
    place: str,
    name: str | None,
    arguments: Sequence[str],
    cluster: ClusterArguments,
    *,
    where: str | None,
    limit: int | None,
    retry_failed: bool,
    declare: bool,
    max_failed: int,
) -> int:
    """Compute what lacks a result, and make the tables."""
    cohort = engine.open(place)
    operations = _operations(cohort, name, arguments)
    reports: list[RunReport] = []
    with working(output, cluster) as client, interruptible(output) as stop:
        for operation in operations:
            reports += cohort.run(
                operation,
                client=client,
                where=where,
                limit=limit,
                retry_failed=retry_failed,
                declare=declare,
                events=output.events,
                stop=stop,
            )
    lines = [line for report in reports for line in _run_lines(report)]
    output.result({"runs": [report.as_json() for report in reports]}, *lines)
    return _code(sum(report.failed for report in reports), max_failed)


def export(output: Output, place: str, name: str, file: Path) -> int:
    """Write a table to a file."""
    writers: dict[str, Callable[[pa.Table, Path], None]] = {
        ".csv": lambda table, path: pyarrow.csv.write_csv(table, path),
        ".parquet": lambda table, path: pq.write_table(table, path),
        ".arrow": lambda table, path: pyarrow.feather.write_feather(table, path),
    }
    if file.suffix not in writers:
        raise ParameterError("FILE", str(file), f"a name ending in {', '.join(writers)}")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {file.parent}; make it first.")
    table = engine.open(place).arrow_table(name)
    try:
        writers[file.suffix](table.replace_schema_metadata(None), file)
    except PermissionError:
        raise UsageError(f"No permission to write {file}.") from None
    output.result(
        {"table": name, "rows": table.num_rows, "file": str(file)},
        f"Wrote {table.num_rows} rows of {name} to {file}.",
    )
    return 0


def status(output: Output, place: str) -> int:
    """Say what is there, what is missing and what failed."""
    found = engine.open(place).status()
    output.result(found.as_json(), *found.lines())
    return 0


def verify(output: Output, place: str) -> int:
    """Check every file against the ledgers."""
    report = engine.open(place).verify()
    output.result(report.as_json(), *report.lines())
    return 0 if report.clean else 1


def gc(output: Output, place: str, older_than_h: float, dry_run: bool) -> int:
    """Remove what no commit names."""
    report = engine.open(place).gc(older_than_s=older_than_h * 3600, dry_run=dry_run)
    output.result(report.as_json(), *report.lines())
    return 0


def _code(failed: int, allowed: int) -> int:
    return INCOMPLETE if failed > allowed else 0


def _ingest_lines(report: IngestReport) -> list[str]:
    told = [
        f"{report.new} new",
        f"{report.changed} changed",
        f"{report.unchanged} files unchanged",
    ]
    for count, what in (
        (report.touched, "touched, same pixels"),
        (report.duplicates, "duplicates of other images"),
        (report.returned, "back again"),
        (report.orphaned, "orphaned (source is gone, pixels stay)"),
        (report.ignored, "files ignored"),
        (report.left, "left for the next ingest"),
    ):
        if count:
            told.append(f"{count} {what}")
    lines = [f"Ingested: {', '.join(told)} ({report.elapsed_s:.1f} s)."]
    if report.failed:
        lines.append(f"{report.failed} can't be read:")
    lines += [f"  {n} {code}: {REASONS.get(code, code)}" for code, n in report.reasons.items()]
    return lines


def _plan_lines(plan: Plan) -> list[str]:
    given = ", ".join(f"{k} {_shown(v)}" for k, v in plan.parameters.items() if v is not None)
    lines = [f"{plan.operation} ({given}), key {plan.key[:8]}:"]
    if not plan.to_compute:
        lines.append(f"  Nothing to do: all of {plan.selected} images are settled.")
    for cause, count in plan.causes.items():
        why = CAUSES[cause]
        if cause in ("parameters", "version", "weights") and plan.changes:
            why = "; ".join(f"{n} {_shown(a)} -> {_shown(b)}" for n, (a, b) in plan.changes.items())
        lines.append(f"  {count:>8} to compute: {cause} ({why})")
    lines += [f"  {count:>8} {SETTLED[state]}" for state, count in plan.settled.items()]
    if plan.unreadable:
        lines.append(f"  {plan.unreadable:>8} sources can't be read (cohort status names them)")
    if plan.orphaned:
        lines.append(f"  {plan.orphaned:>8} of them orphaned: source gone, pixels kept")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ":".join(_shown(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _run_lines(report: RunReport) -> list[str]:
    name = f"{report.operation}, key {report.key[:8]}"
    if not report.planned:
        lines = [f"{name}: nothing to do, {report.up_to_date} images are up to date."]
    else:
        lines = [
            f"{name}: {report.published} of {report.selected} images computed"
            + (f" ({report.copied} of them copied)" if report.copied else "")
            + f", {report.up_to_date} were up to date ({report.elapsed_s:.1f} s)."
        ]
    if report.failed:
        codes = ", ".join(f"{n} {code}" for code, n in report.reasons.items())
        lines.append(f"  {report.failed} failed: {codes}. cohort status names them.")
    if report.failed_before:
        lines.append(f"  {report.failed_before} failed before; --failed tries them again.")
    if report.unreadable_sources:
        lines.append(
            f"  {report.unreadable_sources} sources can't be read; cohort status names them."
        )
    if report.declared:
        lines.append("  These parameters are now the declared ones (cohort.toml).")
    if report.trial:
        lines.append(
            "  A trial: other parameters than the declared ones; --declare makes it current."
        )
    lines.append(f"  Tables: {', '.join(report.tables)}")
    return lines
