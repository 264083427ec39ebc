"""Watch of a night's runner: pass on its output, and report how it ended."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.errors import EngineError
from engine.execution.kubernetes.api import Api, OperatorSilent, why_waiting
from jobs.kubernetes.nightly_job import Night

WATCH_S = 15
"""Duration of one watch before other work is done, seconds."""

OPERATOR_S = 120.0
"""Timeout for the operator to create the runner's pod, seconds."""

LOG_S = 10.0
"""Maximum delay of the log after the end of the runner, seconds."""

SAID_LINES = 2000
"""Log lines that are requested again after its stream broke."""


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
    night: Night, api: Api, start_timeout_s: float, meanwhile: Callable[[], None]
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


def _changes(night: Night, api: Api) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each state of the runner's pod; "GONE" if a list lacks it, "TICK" regularly."""
    from kubernetes.client.exceptions import ApiException
    from kubernetes.watch import Watch
    from urllib3.exceptions import HTTPError

    fields = f"metadata.name={night.runner}"
    pods = api.core.list_namespaced_pod
    while True:
        found = api.ask("list the runner", pods, api.namespace, field_selector=fields)
        for pod in found.items:
            yield "LISTED", api.plain(pod)
        if not found.items:
            yield "GONE", {}
        yield "TICK", {}
        # Start at the version of the list, so that the last state of a deleted pod is not missed.
        try:
            for event in Watch().stream(
                pods, api.namespace, field_selector=fields, timeout_seconds=WATCH_S,
                resource_version=found.metadata.resource_version,
            ):  # fmt: skip
                yield event["type"], event["raw_object"]
        except (ApiException, HTTPError):
            continue  # the next list shows the state, or fails


def _how_ended(night: Night, pod: dict[str, Any]) -> RunnerEnded:
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

    def __init__(self, night: Night, api: Api) -> None:
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
            stream = self._api.core.read_namespaced_pod_log(
                self._night.runner, self._api.namespace, container="runner", follow=follow,
                _preload_content=False,
            )  # fmt: skip
            for number, line in enumerate(_lines(stream)):
                if number >= self._lines:
                    self._lines = number + 1
                    pass_on(line)
        except Exception as error:  # a stream can fail with any exception
            print(f"(the runner's log ended early: {type(error).__name__})", file=sys.stderr)


def _lines(stream: Any) -> Iterator[str]:
    rest = b""
    for chunk in stream.stream():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


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
