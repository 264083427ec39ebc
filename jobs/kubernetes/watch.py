"""Watch of a night's runner: pass on its output, and report how it ended."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

from engine.errors import EngineError
from engine.execution.kubernetes.api import (
    POLL_S,
    Api,
    KubernetesFailed,
    OperatorSilent,
    why_waiting,
)
from engine.execution.kubernetes.manifests import Object
from jobs.kubernetes.nightly_job import NightlyJob

WATCH_S = 15
"""Duration of one watch before other work is done, seconds."""

OPERATOR_S = 120.0
"""Timeout for the operator to create the runner's pod, seconds."""

LOG_S = 10.0
"""Maximum delay of the log after the end of the runner, seconds."""


class RunnerNotStarted(EngineError):
    """The runner's pod does not start: (name, seconds, reason)."""

    def __str__(self) -> str:
        name, seconds, reason = self.args
        return (
            f"The runner of {name} did not start within {seconds:.0f} s: {reason}. Look at: "
            f"kubectl -n cohort describe pod {name}-runner"
        )


class RunnerLost(EngineError):
    """The runner disappeared without an exit code: (name, cause)."""

    def __str__(self) -> str:
        name, cause = self.args
        return (
            f"The runner of {name} was lost: {cause}. Its committed work is kept; the next run "
            "continues from there."
        )


@dataclass(frozen=True, slots=True)
class RunnerEnded:
    """End of a runner: its exit code, and Kubernetes' description."""

    code: int
    cause: str = ""


def watch_runner(
    night: NightlyJob, api: Api, start_timeout_s: float, meanwhile: Callable[[], None]
) -> RunnerEnded:
    """Wait for the end of the runner.

    Parameters
    ----------
    start_timeout_s
        Time that the runner may wait for a node and its image, seconds.
    meanwhile
        Called every `WATCH_S`.

    Raises
    ------
    OperatorSilent, RunnerNotStarted, RunnerLost
    """
    log = RunnerLog(night, api)
    began = time.monotonic()
    seen = False
    for kind, pod in _changes(night, api):
        waited = time.monotonic() - began
        if kind == "TICK":
            meanwhile()
            if not seen and waited > OPERATOR_S:
                raise OperatorSilent(f"runner of DaskJob {night.name}", waited)
            continue
        if kind == "GONE":
            if seen:
                raise RunnerLost(night.name, "its pod was deleted")
            continue
        seen = True
        phase = pod["status"].get("phase")
        if phase in ("Succeeded", "Failed"):
            log.finish()
            return _how_ended(night, pod)
        if kind == "DELETED":
            log.finish()
            raise RunnerLost(night.name, "its pod was deleted")
        if phase == "Running":
            log.follow()
        elif waited > start_timeout_s:
            raise RunnerNotStarted(night.name, waited, why_waiting(pod))
    raise AssertionError  # a watch does not end by itself


def _changes(night: NightlyJob, api: Api) -> Iterator[tuple[str, Object]]:
    """Yield each state of the runner's pod; "GONE" if a list lacks it, "TICK" regularly."""
    fields = f"metadata.name={night.runner}"
    while True:
        found, version = api.find("Pod", fieldSelector=fields)
        for pod in found:
            yield "LISTED", pod
        if not found:
            yield "GONE", {}
        yield "TICK", {}
        # Start at the version of the list, so that the last state of a deleted pod is not missed.
        events = api.lines(
            "watch the runner", "Pod", silence_s=2 * WATCH_S, fieldSelector=fields,
            watch="true", timeoutSeconds=WATCH_S, resourceVersion=version,
        )  # fmt: skip
        try:
            with closing(events):
                for event in map(json.loads, events):
                    if event["type"] == "ERROR":  # e.g. 410: the version is too old
                        raise ValueError(event["object"])
                    yield event["type"], event["object"]
        except (KubernetesFailed, ValueError):
            time.sleep(POLL_S)  # the next list shows the state, or fails


def _how_ended(night: NightlyJob, pod: Object) -> RunnerEnded:
    status = pod["status"]
    for container in status.get("containerStatuses", ()):
        ended = container.get("state", {}).get("terminated")
        if container["name"] == "runner" and ended:
            return RunnerEnded(int(ended["exitCode"]), str(ended.get("reason", "")))
    # Evicted, or its node died: there is no exit code.
    raise RunnerLost(night.name, status.get("reason") or "its node is gone")


class RunnerLog:
    """Forwarder of a runner's log while it runs.

    Kubernetes merges both streams of a container, so they are separated here: a JSON object goes to
    standard output, the rest to standard error.
    """

    def __init__(self, night: NightlyJob, api: Api) -> None:
        self._night, self._api = night, api
        self._thread: threading.Thread | None = None
        self._lines = 0

    def follow(self) -> None:
        """Start, if not started yet."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, args=(True,), daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Forward the rest; an unreadable log does not change the outcome of the run."""
        if self._thread is not None:
            self._thread.join(LOG_S)
        if self._thread is None or not self._thread.is_alive():
            self._read(False)

    def _read(self, follow: bool) -> None:
        try:
            lines = self._api.lines(
                "read the runner's log", "Pod", f"{self._night.runner}/log", silence_s=None,
                container="runner", follow=str(follow).lower(),
            )  # fmt: skip
            for number, line in enumerate(lines):
                if number >= self._lines:
                    self._lines = number + 1
                    pass_on(line)
        except EngineError as error:
            print(f"(the runner's log ended early: {error})", file=sys.stderr)


def pass_on(line: str) -> None:
    """Print a line to the stream that it belongs to."""
    print(line, file=sys.stdout if is_summary(line) else sys.stderr, flush=True)


def is_summary(line: str) -> bool:
    """Return whether a line is a command's JSON object.

    Examples
    --------
    >>> is_summary('{"runs": []}'), is_summary("circles: 12 of 40"), is_summary("[1]")
    (True, False, False)
    """
    if not line.startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
