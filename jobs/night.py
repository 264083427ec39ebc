"""The nightly job: ingest new images, run all declared operations, and summarise each step.

``cohort nightly COHORT`` or ``python -m jobs.nightly COHORT``, by cron or a systemd timer.
Concurrent jobs are safe, and after a killed job the next one continues from the committed state.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine import Cohort, ProgressListener
from engine.errors import EngineError, Interrupted, NothingFound, NoWorkers, SchedulerLost
from engine.operations.chains.binding import names_in_order
from engine.status.key_status import Failure
from engine.status.status import DRAWINGS, INGEST, Status

if TYPE_CHECKING:
    from distributed import Client

NAMED = 100
"""Maximum failures in a summary, new ones first; ``cohort status --json`` lists all."""

INCOMPLETE = 3
"""Exit code of a finished job with more new failures than allowed."""


class Report(Protocol):
    """Interface of a step's report."""

    failed: int

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""


@dataclass
class Step:
    """One step of the job: ``code`` is 0, 1 (``error`` names the reason) or 130.

    ``failed`` counts new failures of single images in a step that finished.
    """

    step: str
    code: int = 0
    elapsed_s: float = 0.0
    failed: int = 0
    error: str | None = None
    message: str | None = None
    report: dict[str, Any] = field(default_factory=dict)


@dataclass
class Summary:
    """Summary of the job, printed as one line of JSON.

    ``newly_failed`` counts the images, sources and annotations that failed in this job,
    ``failures`` names current failures, new ones first, and ``failed_total`` counts them.
    """

    cohort: str
    began: str
    exit_code: int = 0
    complete: bool = False
    elapsed_s: float = 0.0
    newly_failed: int = 0
    failed_total: int = 0
    steps: list[Step] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return {"job": "nightly", **asdict(self)}


def run_nightly(
    cohort: Cohort,
    client: Client,
    *,
    events: ProgressListener,
    max_failed: int = 0,
    stop: Callable[[], bool] = lambda: False,
    ended: Callable[[Step, Any], None] = lambda step, report: None,
) -> Summary:
    """Ingest all declared roots, run all declared operations, and make their pictures.

    After a failed step, the other steps are still tried, unless there are no workers left.

    Parameters
    ----------
    cohort, client
        Cohort, and client of the cluster to use.
    events, stop
        As in `engine.Cohort.run`.
    max_failed
        Maximum new failures for exit code 0.
    ended
        Called with each finished step and its report.
    """
    began = time.perf_counter()
    summary = Summary(cohort.store.url, datetime.now(UTC).isoformat(timespec="seconds"))
    before: set[tuple[str, str, str]] = set()
    with suppress(EngineError):  # the steps and the final status report the problem
        before = {_identity(failure) for failure in _failures(cohort.status())}
    try:
        steps = _steps(cohort, client=client, events=events, stop=stop)
    except EngineError as error:  # cohort.toml can't be read
        steps = {"cohort.toml": partial(_raise, error)}
    going_on = True
    for name, work in steps.items():
        if not going_on:
            summary.skipped.append(name)
            continue
        step, report, cause = _run_step(name, work)
        summary.steps.append(step)
        ended(step, report)
        going_on = not isinstance(cause, (Interrupted, SchedulerLost, NoWorkers))
    status, found, _ = _run_step("status", cohort.status)
    if status.code:
        summary.steps.append(status)
        ended(status, None)
    else:
        failures = sorted(_failures(found), key=lambda one: _identity(one) in before)
        summary.complete = found.complete
        summary.failed_total = len(failures)
        summary.failures = [
            {**asdict(one), "new": _identity(one) not in before} for one in failures[:NAMED]
        ]
        # Annotations count only if they still fail at the end: their images may be in a later root.
        drawn = (one for one in failures if one.operation == DRAWINGS)
        summary.newly_failed = sum(_identity(one) not in before for one in drawn)
    summary.newly_failed += sum(step.failed for step in summary.steps)
    codes = {step.code for step in summary.steps}
    summary.exit_code = next((code for code in (130, 1) if code in codes), 0)
    if not summary.exit_code and summary.newly_failed > max_failed:
        summary.exit_code = INCOMPLETE
    summary.elapsed_s = round(time.perf_counter() - began, 3)
    return summary


def _steps(cohort: Cohort, **how: Any) -> dict[str, Callable[[], Any]]:
    """Return the steps by name; each returns its report.

    One step per root, so that an unmounted disk only affects its own images.
    """
    config = cohort.config
    steps: dict[str, Callable[[], Any]] = {
        f"ingest {name}": partial(cohort.ingest, root.path, **how)
        for name, root in config.roots.items()
    }
    # Without declarations these raise an error with the next step.
    steps = steps or {"ingest": partial(cohort.ingest, **how)}
    names = names_in_order(config.operations)
    for name in names:
        steps[f"run {name}"] = partial(_run_one, cohort, name, how)
    for name in names:
        steps[f"qc {name}"] = partial(_show_one, cohort, name, how)
    if not config.operations:
        steps["run"] = cohort.declared
    return steps


def _run_one(cohort: Cohort, name: str, how: dict[str, Any]) -> Report:
    return cohort.run(name, **how)


def _show_one(cohort: Cohort, name: str, how: dict[str, Any]) -> Report:
    from engine.qc.driver import QcReport

    try:
        return cohort.qc(name, **how)
    except NothingFound:  # the run reported why there are no results
        return QcReport(name, cohort.operation(name).key)


def _run_step(name: str, work: Callable[[], Any]) -> tuple[Step, Any, Exception | None]:
    """Run a step; return its outcome, and its report or its error, the other being None."""
    began = time.perf_counter()
    step = Step(name)
    report: Any = None
    cause: Exception | None = None
    try:
        report = work()
    except EngineError as error:
        cause = error
        step.code = 130 if isinstance(error, Interrupted) else 1
        step.error, step.message = type(error).__name__, str(error)
    except Exception as error:  # a bug must not hide the other steps
        cause = error
        step.code, step.error = 1, type(error).__name__
        # Its text may contain text from a file, so report only the type and the location.
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        step.message = f"a fault of the program, {step.error} in {where}; please report it."
    else:
        if not isinstance(report, Status):
            step.report = report.as_json()
            step.failed = sum(getattr(report, n, 0) for n in ("failed", "left", "withheld"))
    step.elapsed_s = round(time.perf_counter() - began, 3)
    return step, report, cause


def _raise(error: EngineError) -> None:
    raise error


def _failures(status: Status) -> Iterator[Failure]:
    """Yield the failures of declared operations; the job ignores trials."""
    declared = {(state.operation, state.key) for state in status.keys if state.declared}
    for failure in status.failures:
        if failure.operation in (INGEST, DRAWINGS) or (failure.operation, failure.key) in declared:
            yield failure


def _identity(failure: Failure) -> tuple[str, str, str]:
    name = failure.image_id
    if failure.operation == DRAWINGS:
        name = "\n".join((failure.source, failure.structure or "", name))
    return failure.operation, name, failure.key or failure.reason
