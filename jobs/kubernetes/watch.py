"""Watch a night's runner: pass on what it says, and tell how it ended."""

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
"""How long one watch lasts before other things are looked after, seconds."""

OPERATOR_S = 120.0
"""How long the operator may take to make the runner's pod, seconds."""

LOG_S = 10.0
"""How long the log may trail the end of the runner, seconds."""

SAID_LINES = 2000
"""Lines of the log that are asked for again where its stream broke."""


class RunnerNotStarted(EngineError):
    """The runner's pod does not get to run: (name, seconds, reason)."""

    def __str__(self) -> str:
        name, seconds, reason = self.args
        return (
            f"The runner of {name} did not start within {seconds:.0f} s: {reason}. Look at: "
            f"kubectl -n cohort describe pod {name}-runner"
        )


class RunnerLost(EngineError):
    """The runner is gone without an exit code of its own: (name, cause)."""

    def __str__(self) -> str:
        name, cause = self.args
        return (
            f"The runner of {name} was lost: {cause}. What it had committed stays; the next run "
            "goes on from there."
        )


@dataclass(frozen=True, slots=True)
class RunnerEnded:
    """How a runner ended: its exit code, and what Kubernetes says of it."""

    code: int
    cause: str = ""


def watch_runner(
    night: Night, api: Api, start_timeout_s: float, meanwhile: Callable[[], None]
) -> RunnerEnded:
    """Wait for the end of the runner.

    Parameters
    ----------
    start_timeout_s
        How long the runner may wait for a node and its image, seconds.
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
    raise AssertionError  # a watch has no end


def _changes(night: Night, api: Api) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each state of the runner's pod; "GONE" if a list lacks it, "TICK" now and then."""
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
        # From where the list was, so that the last state of a pod that is deleted is not missed.
        try:
            for event in Watch().stream(
                pods, api.namespace, field_selector=fields, timeout_seconds=WATCH_S,
                resource_version=found.metadata.resource_version,
            ):  # fmt: skip
                yield event["type"], event["raw_object"]
        except (ApiException, HTTPError):
            continue  # the list says what became of it, or that nobody answers


def _how_ended(night: Night, pod: dict[str, Any]) -> RunnerEnded:
    status = pod["status"]
    for container in status.get("containerStatuses", ()):
        ended = container.get("state", {}).get("terminated")
        if container["name"] == "runner" and ended:
            return RunnerEnded(int(ended["exitCode"]), str(ended.get("reason", "")))
    # Evicted, or its node died: there is no code.
    raise RunnerLost(night.name, status.get("reason") or "its node is gone")


class RunnerLog:
    """Passes on a runner's log while it runs.

    Kubernetes mixes both streams of a container, so they are told apart here: a JSON object goes
    to standard output, the rest to standard error.
    """

    def __init__(self, night: Night, api: Api) -> None:
        self._night, self._api = night, api
        self._thread: threading.Thread | None = None
        self._lines = 0

    def follow(self) -> None:
        """Begin, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, args=(True,), daemon=True)
            self._thread.start()

    def finish(self) -> None:
        """Pass on what is left; a log that can't be read changes nothing of how the run ended."""
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
        except Exception as error:  # whatever a stream can break by
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
    """Print a line where it belongs."""
    print(line, file=sys.stdout if is_summary(line) else sys.stderr, flush=True)


def is_summary(line: str) -> bool:
    """Tell whether a line is a command's JSON object.

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
