"""Proxy between a test and its object store that fails one put, or ignores conditions."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RESET, FORBIDDEN, BROKEN, SLOW_DOWN, LOST = "reset", "403", "500", "503", "lost"
FAULTS = (RESET, FORBIDDEN, BROKEN, SLOW_DOWN, LOST)
"""Connection reset; three error statuses; put executed with its response lost."""

CODES = {FORBIDDEN: "AccessDenied", BROKEN: "InternalError", SLOW_DOWN: "SlowDown"}

CONDITIONS = ("if-none-match", "if-match")


@dataclass
class Failing:
    """Planned failure: the ``point``-th put from now on, 0 for none; ``puts`` counts them.

    ``ignored`` are the conditions of puts that the store does not honour.
    """

    port: int
    fault: str = LOST
    point: int = 0
    puts: int = 0
    failed: str = ""
    ignored: tuple[str, ...] = ()
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, point: int = 0, fault: str = LOST) -> None:
        """Reset the counter."""
        with self.lock:
            self.point, self.fault, self.puts, self.failed = point, fault, 0, ""

    def due(self, path: str) -> bool:
        """Count a put, and return whether it fails."""
        with self.lock:
            self.puts += 1
            if self.puts != self.point:
                return False
            self.failed = path
            return True


def _handler(behind: int, failing: Failing) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Suppress the log."""

        def _forward(self) -> None:
            body = self._body()
            fault = failing.fault if self.command == "PUT" and failing.due(self.path) else None
            if fault == RESET:
                self._reset()
            elif fault in CODES:
                self._refuse(int(fault), CODES[fault])
            else:
                status, headers, data = self._ask(body)
                if fault == LOST:
                    self._reset()
                    return
                self.send_response(status)
                for name, value in headers:
                    if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                        self.send_header(name, value)
                length = {n.lower(): v for n, v in headers}.get("content-length", "0")
                self.send_header(
                    "Content-Length", length if self.command == "HEAD" else str(len(data))
                )
                self.end_headers()
                self.wfile.write(data)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _forward  # noqa: N815 - their names

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", behind, timeout=60)
            kept = {
                name: value
                for name, value in self.headers.items()
                if not (self.command == "PUT" and name.lower() in failing.ignored)
            }
            try:
                connection.request(self.command, self.path, body=body, headers=kept)
                answer = connection.getresponse()
                return answer.status, answer.getheaders(), answer.read()
            finally:
                connection.close()

        def _refuse(self, status: int, code: str) -> None:
            text = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def _reset(self) -> None:
            linger = struct.pack("ii", 1, 0)  # close immediately, with a reset
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RD)
            self.wfile.close()
            self.connection.close()

    return Handler


@contextmanager
def between(behind: int) -> Iterator[Failing]:
    """Run a proxy in front of the store, on a local port."""
    failing = Failing(0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(behind, failing))
    failing.port = server.server_address[1]
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield failing
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
