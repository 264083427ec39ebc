"""The nightly job: takes what is new, runs all that is declared, and says what came of each step.

``cohort nightly COHORT`` or ``python -m jobs.nightly COHORT``, by cron or a systemd timer. Two at
once do no harm, and after one that was killed the next goes on from what is committed.
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
from typing import Any, Protocol

from distributed import Client

from engine import Cohort, Events
from engine.errors import EngineError, Interrupted, NothingFound, NoWorkers, SchedulerLost
from engine.qc.driver import QcReport
from engine.status.key_status import Failure
from engine.status.status import DRAWINGS, INGEST, Status

NAMED = 100
"""Failures that a summary names, those of this night first; ``cohort status --json`` names all."""

INCOMPLETE = 3
"""Exit code of a job that came to its end with more new failures than allowed."""


class Report(Protocol):
    """What a step gives back."""

    failed: int

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""


@dataclass
class Step:
    """One step of the job: ``code`` is 0, 1 (``error`` names why) or 130.

    ``failed`` counts what newly failed, of which the step itself came to its end.
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
    """What the job did, as one line of JSON says it.

    ``newly_failed`` counts images, sources and drawings of this night, ``failures`` names those
    that are failed now, the new ones first, and ``failed_total`` counts them.
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
        """Return it as plain values."""
        return {"job": "nightly", **asdict(self)}


def run_nightly(
    cohort: Cohort,
    client: Client,
    *,
    events: Events,
    max_failed: int = 0,
    stop: Callable[[], bool] = lambda: False,
    ended: Callable[[Step, Any], None] = lambda step, report: None,
) -> Summary:
    """Ingest all declared roots, run all that is declared, and make its pictures.

    A step that fails does not keep the others from being tried, unless there is nobody left to
    do the work.

    Parameters
    ----------
    cohort, client
        What is worked on, and where.
    events, stop
        As in `engine.Cohort.run`.
    max_failed
        New failures that are still exit code 0.
    ended
        Called with each step that ended, and what it gave back.
    """
    began = time.perf_counter()
    summary = Summary(cohort.root.url, datetime.now(UTC).isoformat(timespec="seconds"))
    before: set[tuple[str, str, str]] = set()
    with suppress(EngineError):  # what is wrong is said by the steps, and at the end
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
        # Of drawings only what is so at the end counts: their images may be of a later root.
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
    """Return the steps by name; each gives back its report.

    Roots are taken one by one, so that a disk that is not mounted keeps back its own images only.
    """
    config = cohort.config
    steps: dict[str, Callable[[], Any]] = {
        f"ingest {name}": partial(cohort.ingest, root.path, **how)
        for name, root in config.roots.items()
    }
    # Where nothing is declared these raise, and say what to do.
    steps = steps or {"ingest": partial(cohort.ingest, **how)}
    for name in config.operations:
        steps[f"run {name}"] = partial(_run_one, cohort, name, how)
    for name in config.operations:
        steps[f"qc {name}"] = partial(_show_one, cohort, name, how)
    if not config.operations:
        steps["run"] = cohort.declared
    return steps


def _run_one(cohort: Cohort, name: str, how: dict[str, Any]) -> Report:
    return cohort.run(name, **how)[0]


def _show_one(cohort: Cohort, name: str, how: dict[str, Any]) -> Report:
    try:
        return cohort.qc(name, **how)[0]
    except NothingFound:  # the run has said why there are no results
        return QcReport(name, cohort.operation(name).key)


def _run_step(name: str, work: Callable[[], Any]) -> tuple[Step, Any, Exception | None]:
    """Run a step; return what became of it, its report and its error, one of them None."""
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
    except Exception as error:  # a fault of ours: it hides nothing of the other steps
        cause = error
        step.code, step.error = 1, type(error).__name__
        # Its text may hold what a file said: the type and the place are told.
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
    """Yield what failed of what is declared; trials are not the job's."""
    declared = {(state.operation, state.key) for state in status.keys if state.declared}
    for failure in status.failures:
        if failure.operation in (INGEST, DRAWINGS) or (failure.operation, failure.key) in declared:
            yield failure


def _identity(failure: Failure) -> tuple[str, str, str]:
    name = failure.image_id
    if failure.operation == DRAWINGS:
        name = "\n".join((failure.source, failure.structure or "", name))
    return failure.operation, name, failure.key or failure.reason
