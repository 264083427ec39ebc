"""Processes that do the same thing to one store at the same moment.

Importing the engine takes seconds on a busy machine, so one process imports it once and forks the
contenders. It does nothing else before, since a fork copies no threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

START_S = 0.3
"""Delay from a request to the common start, seconds: forks take a few milliseconds."""

LOST = 3
"""Exit code of a process that lost the race."""


def create(url: str, who: str) -> int:
    """Try to create one path."""
    from engine.errors import AlreadyExists
    from engine.store.backend.open import open_store

    try:
        open_store(url).create("contended/one", who.encode() * 10_000)
    except AlreadyExists:
        return LOST
    return 0


def count(url: str, times: str) -> int:
    """Add 1 to a counter, many times."""
    from engine.store.backend.open import open_store

    store = open_store(url)
    for _ in range(int(times)):
        store.update("contended/counter", lambda old: str(int(old or b"0") + 1).encode())
    return 0


def write(url: str, who: str) -> int:
    """Create and replace objects until killed. An object repeats a single byte."""
    from engine.store.backend.open import open_store

    store = open_store(url)
    number = 0
    while True:
        number += 1
        body = bytes([number % 256]) * (64 * 1024 + number)
        store.create(f"loop/{who}-{number}", body)
        store.replace("loop/replaced", body)
        store.update("loop/updated", lambda old, body=body: body)  # type: ignore[misc]
        with store.staging() as folder:
            (folder / "made").write_bytes(body)
            store.create_from(f"loop/{who}-{number}-made", folder / "made")


def serve() -> None:
    """Fork contenders for each line on standard input; see `Contenders`."""
    import engine.store.backend.local
    import engine.store.backend.object_store  # noqa: F401 - so that the contenders need not

    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in request["wait"]]
            print(json.dumps(codes), flush=True)
            continue
        begin = time.time() + START_S
        pids = []
        for given in request["given"]:
            if pid := os.fork():
                pids.append(pid)
                continue
            code = 70
            try:
                os.environ.update(request["environment"])
                time.sleep(max(0.0, begin - time.time()))
                code = {"create": create, "count": count, "write": write}[request["what"]](
                    request["url"], given
                )
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(json.dumps(pids), flush=True)


class Contenders:
    """Client of the process that forks contenders."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.support.concurrent_writers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ready = False

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def _ask(self, request: dict[str, Any]) -> list[int]:
        assert self._process.stdin is not None
        if not self._ready:
            assert self._answer() == "ready\n"
            self._ready = True
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return list(json.loads(self._answer()))

    def start(self, what: str, url: str, given: Sequence[str]) -> list[int]:
        """Start one process for each of ``given`` and return their ids."""
        environment = {name: value for name, value in os.environ.items() if name[:4] == "AWS_"}
        return self._ask({"what": what, "url": url, "given": given, "environment": environment})

    def wait(self, pids: Sequence[int]) -> list[int]:
        """Wait until all have ended; return their exit codes (minus a signal)."""
        return self._ask({"wait": pids})

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


if __name__ == "__main__":
    serve()
