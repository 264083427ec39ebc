"""moto server of a test session: an object store on the local machine.

moto honours If-None-Match and If-Match, but checks and writes in two steps, so two simultaneous
requests may both pass. S3 serialises them, and so does this server.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_S = 60.0
"""Startup timeout of the server, seconds; it takes 2 on an idle machine."""

REGION = "us-east-1"


def free_port() -> int:
    """Return a free local port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def settings(port: int) -> dict[str, str]:
    """Return the environment that points a process to the server."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": REGION,
    }


def ask(port: int, method: str, path: str) -> int:
    """Send a request and return the status, or 0 without a response."""
    # moto takes the region from the signature, and does not verify it further.
    scope = f"nobody/20260101/{REGION}/s3/aws4_request"
    signed = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers={"Authorization": signed, "Content-Length": "0"})
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@contextmanager
def serve(folder: Path, bucket: str) -> Iterator[int]:
    """Run a server with one bucket for the block, and yield its port."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "tests.contracts.object_server", f"{port}"]
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_S
            while ask(port, "PUT", f"/{bucket}") != 200:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "moto.log").read_text()[-2000:])
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def one_by_one(app: Callable[..., Any]) -> Callable[..., Any]:
    """Serialise the requests of an application."""
    lock = threading.Lock()

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
        with lock:
            return list(app(environ, start))

    return answer


def main(port: int) -> None:
    """Serve until killed."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    app = one_by_one(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", port, app, threaded=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
