"""Launcher of a nightly job on Kubernetes: start a cluster, mirror its exit code, clean up.

``python -m jobs.kubernetes.launcher`` is the command of the CronJob in deploy/kubernetes. It
creates a DaskJob that the Job owns, passes on the runner's output, ends with the runner's exit
code, and deletes all objects that it created, also on SIGTERM. It only watches: if it dies, its
successor continues with the same run.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from engine.errors import EngineError, ParameterError
from engine.execution.kubernetes.api import Api
from engine.visible import visible
from jobs.kubernetes.cleanup import delete_job
from jobs.kubernetes.nightly_job import NightlyJob
from jobs.kubernetes.scaling import WorkerScaler
from jobs.kubernetes.watch import RunnerLost, watch_runner

MIRRORED = (0, 1, 2, 3, 130)
"""Exit codes of ``cohort``; any other code of a container becomes 1 with a named cause."""


class Stopped(EngineError):
    """The launcher received a signal to stop: (signal,)."""

    exit_code = 130

    def __str__(self) -> str:
        return (
            f"Stopped by {self.args[0]}: the runner could commit its work, and all objects "
            "are deleted. The next run continues from there."
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the CronJob, from environment variables."""

    night: NightlyJob
    cohort: str
    start_timeout_s: float
    gpu_units_per_worker: int

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """Read the settings.

        Raises
        ------
        ParameterError
            If a variable is missing or invalid.
        """

        def text(name: str) -> str:
            if not environment.get(name):
                raise ParameterError(name, "not set", "an environment variable of the launcher")
            return environment[name]

        def number(name: str, default: str, least: int) -> int:
            value = environment.get(name, default)
            if not value.isdecimal() or int(value) < least:
                raise ParameterError(name, value, f"a whole number, at least {least}")
            return int(value)

        night = NightlyJob(
            name=text("JOB_NAME"),
            owner_uid=text("JOB_UID"),
            namespace=text("NAMESPACE"),
            workers_min=number("WORKERS_MIN", "1", 1),
            workers_max=number("WORKERS_MAX", "1", 1),
            gpu_workers_max=number("GPU_WORKERS_MAX", "0", 0),
        )
        return cls(
            night=night,
            cohort=text("COHORT"),
            start_timeout_s=number("START_TIMEOUT_S", "1200", 1),
            gpu_units_per_worker=number("GPU_UNITS_PER_WORKER", "50", 1),
        )


def launch(settings: Settings, api: Api) -> int:
    """Run a night to its end, and return its exit code.

    Raises
    ------
    EngineError
        If there is no exit code to mirror: the operator does not answer, or the runner can't start
        or was lost. Created objects are deleted in any case.
    """
    night = settings.night
    gpu = ["worker-gpu"] if night.gpu_workers_max else []
    templates = api.templates("scheduler", "worker", "runner", *gpu)
    scaling = WorkerScaler(night, api, templates, settings.cohort, settings.gpu_units_per_worker)
    try:
        if not api.create(night.job(templates)):
            say(f"{night.name} is there already: watching it.")
        ended = watch_runner(night, api, settings.start_timeout_s, meanwhile=scaling.reconcile)
    finally:
        # A second SIGTERM must not interrupt the cleanup; SIGKILL follows in any case.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            delete_job(api, night)
        except EngineError as error:  # does not change the outcome of the night
            say(f"Error: {error}")
    if ended.code not in MIRRORED:
        raise RunnerLost(night.name, ended.cause or f"exit code {ended.code}")
    return ended.code


def say(text: str) -> None:
    """Print a message that is not the result."""
    print(visible(text, keep="\n"), file=sys.stderr, flush=True)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(signal.Signals(number).name)


def main() -> int:
    """Run the launcher; errors become one-sentence messages."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        settings = Settings.read(os.environ)
        return launch(settings, Api.connect(settings.night.namespace))
    except EngineError as error:
        say(f"Error: {error}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
