"""Sources in an object store: the same images and rules as for a folder."""

from __future__ import annotations

import http.client
import io
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import obstore
import pytest
import tifffile
from distributed import Client

import engine
from engine.errors import NoSource, SourceUnreadable, StoreUnreachable
from engine.ingest.discovery import RootEmpty
from engine.ingest.roots import Source
from engine.sources.locations.base import containing_folder
from engine.sources.locations.object_store import BUFFER_BYTES, open_object, walk_objects
from jobs.source_checks import require_files
from tests.support.images import LAYOUT, catalog, grey, put

NIGHT = "d1/s1/e1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One night's folder: PNG, a TIFF of two pages, a torn file, a foreign one, and an odd name."""
    night = tmp_path / "data" / NIGHT
    for n in range(5):
        put(night / f"i{n}.png", grey(n))
    put(night / "ä b%20c.png", grey(9))
    tifffile.imwrite(night / "pages.tif", [grey(11), grey(12)], tile=(32, 32))
    (night / "torn.png").write_bytes((night / "i0.png").read_bytes()[:60])
    (night / "notes.txt").write_text("no image")
    return tmp_path / "data"


@pytest.fixture
def store(bucket: str, tmp_path: Path) -> tuple[str, Any]:
    url = f"{bucket}/{tmp_path.name}/data"
    return url, obstore.store.from_url(url)


@pytest.fixture
def upload(folder: Path, store: tuple[str, Any]) -> Callable[[], None]:
    def copy() -> None:
        for place in folder.rglob("*"):
            if place.is_file():
                obstore.put(store[1], place.relative_to(folder).as_posix(), place)

    return copy


def rows(cohort: engine.Cohort) -> list[tuple[Any, ...]]:
    """Return the catalog's rows of each image, without the time of ingest."""
    names = ["image_id", "source", "content", "state", "reason"]
    return sorted(
        (tuple(row[name] for name in names) for row in catalog(cohort).values()), key=repr
    )


def test_a_prefix_is_taken_like_a_folder(
    folder: Path, store: tuple[str, Any], upload: Callable[[], None], client: Client, tmp_path: Path
) -> None:
    upload()
    url, bucket = store
    near = engine.create(tmp_path / "near", layout=LAYOUT)
    near.ingest(folder, client=client)
    far = engine.create(tmp_path / "far", layout=LAYOUT)
    report = far.ingest(url, client=client)
    assert (report.taken, report.failed, report.ignored) == (8, 1, 1)
    assert rows(far) == rows(near)
    assert {row[1] for row in rows(far)} >= {f"data/{NIGHT}/ä b%20c.png"}
    assert far.verify().ok

    again = far.ingest(client=client)
    assert (again.taken, again.unchanged) == (0, 8)  # files, of which one has two pages

    put(folder / NIGHT / "i1.png", grey(21))  # the same size, as it happens, or not
    (folder / NIGHT / "i2.png").unlink()
    obstore.delete(bucket, f"{NIGHT}/i2.png")
    obstore.put(bucket, f"{NIGHT}/i1.png", folder / NIGHT / "i1.png")
    changed = far.ingest(client=client)
    assert (changed.taken, changed.orphaned) == (1, 1)
    near.ingest(client=client)
    assert rows(far) == rows(near)


def test_parts_of_a_prefix(
    store: tuple[str, Any], upload: Callable[[], None], client: Client, tmp_path: Path
) -> None:
    upload()
    url, _ = store
    cohort = engine.create(tmp_path / "c", layout=LAYOUT)
    assert cohort.ingest(f"{url}/{NIGHT}/i0.png", client=client).taken == 1
    assert cohort.config.roots["e1"].path == f"{url}/{NIGHT}"
    assert cohort.ingest(f"{url}/{NIGHT}/i1.png", client=client).taken == 1
    assert cohort.status().images == {"ready": 2}
    for use in (partial(cohort.ingest, client=client), lambda url: require_files(Source(url))):
        with pytest.raises(NoSource, match="no such"):
            use(f"{url}/no such")
    require_files(Source(url))
    with pytest.raises(StoreUnreachable, match="no such bucket"):
        cohort.ingest("s3://not-there/data", client=client)
    assert containing_folder(url) == url
    assert containing_folder(f"{url}/{NIGHT}/i0.png") == f"{url}/{NIGHT}"


def test_an_emptied_prefix_orphans_nothing(
    store: tuple[str, Any], upload: Callable[[], None], client: Client, tmp_path: Path
) -> None:
    upload()
    url, bucket = store
    cohort = engine.create(tmp_path / "c", layout=LAYOUT)
    cohort.ingest(url, client=client)
    before = rows(cohort)
    obstore.delete(bucket, [found.path for found in walk_objects(url)])
    with pytest.raises(RootEmpty):
        cohort.ingest(client=client)
    assert rows(cohort) == before


def test_an_object_is_read_by_ranges_and_never_half_an_old_one(store: tuple[str, Any]) -> None:
    url, bucket = store
    data = os.urandom(600_000)
    obstore.put(bucket, "a.bin", data)
    with open_object(url, "a.bin") as file:
        assert file.read(10) == data[:10]
        assert file.seek(-5, io.SEEK_END) == len(data) - 5
        assert file.read() == data[-5:]
        file.seek(300_000)
        assert file.read(400_000) == data[300_000:]
        assert file.read(1) == b""
        file.seek(0)
        assert file.read() == data
        with pytest.raises(OSError, match="before the start"):
            file.seek(-1)
    with open_object(url, "a.bin") as file:
        file.read(1)
        obstore.put(bucket, "a.bin", data[::-1])
        file.seek(500_000)
        with pytest.raises(OSError, match="the store said"):
            file.read()
    obstore.delete(bucket, "a.bin")
    with pytest.raises(SourceUnreadable, match="gone"):
        open_object(url, "a.bin")


class Moody(BaseHTTPRequestHandler):
    """Proxy to the store that returns errors for some objects."""

    behind = 0
    moods: ClassVar[dict[str, tuple[str, bool]]] = {}
    """Failures of objects, by suffix of their name, and whether only after the first bytes."""

    def do_GET(self) -> None:
        """Answer."""
        mood, late = next((m for end, m in self.moods.items() if self.path.endswith(end)), ("", 0))
        late_now = not self.headers.get("Range", "bytes=0-").startswith("bytes=0-")
        if mood.isdigit() and late_now >= late:
            self.send_response(int(mood))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.behind, timeout=30)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        self.end_headers()
        if mood == "reset" and late_now >= late and self.command == "GET":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[str, bool]]]:
    """Run a proxy in front of the store, with configurable failures."""
    Moody.behind = int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
    Moody.moods.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Moody) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # of resets
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        yield Moody.moods
        server.shutdown()
        thread.join(10)


@pytest.mark.fault(29, "an object that answers 403, 500 or a reset")
def test_an_object_that_is_not_given_costs_itself(
    store: tuple[str, Any], client: Client, tmp_path: Path, moody: dict[str, tuple[str, bool]]
) -> None:
    url, bucket = store
    for n in range(8):
        path = put(tmp_path / f"i{n}.png", grey(n, (700, 600)))
        assert path.stat().st_size > BUFFER_BYTES
        obstore.put(bucket, f"{NIGHT}/i{n}.png", path)
    cohort = engine.create(tmp_path / "c", layout=LAYOUT)
    moods = [("403", False), ("500", False), ("reset", False)]
    moody.update({f"i{n}.png": (mood, n > 2) for n, (mood, _) in enumerate(moods * 2)})
    report = cohort.ingest(url, client=client)
    assert (report.new, report.failed) == (2, 6)
    assert dict(report.reasons) == {"unreadable": 6}
    assert {row[4] for row in rows(cohort)} == {None, "unreadable"}
    moody.clear()
    healed = cohort.ingest(client=client)
    assert (healed.taken, healed.failed, healed.unchanged) == (6, 0, 2)
    obstore.put(bucket, f"{NIGHT}/i1.png", tmp_path / "i2.png")
    moody["i1.png"] = ("403", False)
    kept = cohort.ingest(client=client)
    assert (kept.failed, kept.orphaned) == (1, 0)
    assert {row[3] for row in rows(cohort)} == {"ready"}
