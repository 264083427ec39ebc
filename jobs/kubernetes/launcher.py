"""Launch a night on Kubernetes: a cluster of its own, whose exit code is ours, and nothing left.

``python -m jobs.kubernetes.launcher`` is what the CronJob of deploy/kubernetes runs. It makes a
DaskJob that the Job owns, passes on what the runner says, ends with the runner's exit code, and
removes all that it made, on SIGTERM too. It only watches: if it dies, its successor goes on with
the same run.
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
from jobs.kubernetes.cleanup import remove_night
from jobs.kubernetes.nightly_job import Night
from jobs.kubernetes.scaling import Scaling
from jobs.kubernetes.watch import RunnerLost, watch_runner

MIRRORED = (0, 1, 2, 3, 130)
"""Exit codes of ``cohort``; whatever else a container ends with is a 1 that has a name."""


class Stopped(EngineError):
    """The launcher was told to stop: (signal,)."""

    exit_code = 130

    def __str__(self) -> str:
        return (
            f"Stopped by {self.args[0]}: the runner was let commit what it had, and all is "
            "removed. The next run goes on from there."
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """What the CronJob says, by environment variables."""

    night: Night
    cohort: str
    start_timeout_s: float
    gpu_units_per_worker: int

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Settings:
        """Read them.

        Raises
        ------
        ParameterError
            If one is missing or not what it must be.
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

        night = Night(
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
        If there is no exit code to mirror: the operator does not answer, the runner can't start or
        was lost. What was made is removed in any case.
    """
    night = settings.night
    gpu = ["worker-gpu"] if night.gpu_workers_max else []
    templates = api.templates("scheduler", "worker", "runner", *gpu)
    scaling = Scaling(night, api, templates, settings.cohort, settings.gpu_units_per_worker)
    try:
        if not api.create(night.job(templates)):
            say(f"{night.name} is there already: watching it.")
        ended = watch_runner(night, api, settings.start_timeout_s, meanwhile=scaling.tick)
    finally:
        # A second SIGTERM must not interrupt the cleaning up; SIGKILL follows in any case.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            remove_night(api, night)
        except EngineError as error:  # changes nothing of how the night ended
            say(f"Error: {error}")
    if ended.code not in MIRRORED:
        raise RunnerLost(night.name, ended.cause or f"exit code {ended.code}")
    return ended.code


def say(text: str) -> None:
    """Say something that is not the result."""
    print(visible(text, keep="\n"), file=sys.stderr, flush=True)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(signal.Signals(number).name)


def main() -> int:
    """Run the launcher; errors become one sentence each."""
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
