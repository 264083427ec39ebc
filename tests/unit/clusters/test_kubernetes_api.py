"""Answers of Kubernetes that a real one seldom gives: scripted, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from engine.execution.kubernetes.api import Api, KubernetesFailed, NotRemoved
from engine.execution.kubernetes.manifests import Place

client = pytest.importorskip("kubernetes.client")

Answer = tuple[int, Any]

TEMPLATE = {
    "metadata": {"name": "cohort-worker"},
    "template": {"spec": {"containers": [{"name": "worker", "args": ["dask", "worker"]}]}},
}


class Server(ThreadingHTTPServer):
    """Gives prepared answers, the last one again and again, and notes what was asked."""

    answers: list[Answer]
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(self.command)
        answers = self.server.answers
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        text = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_DELETE = do_PATCH = _answer  # noqa: N815 - so it is called

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("engine.execution.kubernetes.api.POLL_S", 0.01)
    with Server(("127.0.0.1", 0), Handler) as made:
        made.answers, made.asked = [], []
        thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    settings = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    settings.retries = False  # its own come on top of ours
    with client.ApiClient(settings) as connected:
        yield Api(connected, "cohort", retry_s=0.5)


def test_it_waits_for_an_api_server_that_comes_back(server: Server, api: Api) -> None:
    server.answers = [(503, "away"), (429, "slowly"), (200, TEMPLATE)]
    assert api.templates("worker")["worker"]["containers"][0]["args"] == ["dask", "worker"]
    assert server.asked == ["GET"] * 3


def test_one_that_stays_away_is_named(server: Server, api: Api) -> None:
    server.answers = [(503, "away")]
    with pytest.raises(KubernetesFailed, match=r"read the pod template cohort-worker.*503"):
        api.templates("worker")
    assert len(server.asked) > 3


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((403, {"message": "pods is forbidden"}), r"403 pods is forbidden\. .*cohort-notebook"),
        ((404, "404 page not found"), r"404 .*deploy/kubernetes/operator/install"),
        ((422, {"message": "spec.worker is required"}), r"422 spec.worker is required"),
    ],
)
def test_a_refusal_is_said_at_once(server: Server, api: Api, answer: Answer, told: str) -> None:
    server.answers = [answer]
    with pytest.raises(KubernetesFailed, match=told):
        api.create(Place("night", "cohort").autoscaler(1, 2))
    assert server.asked == ["POST"]


def test_what_is_there_already_is_an_answer(server: Server, api: Api) -> None:
    server.answers = [(409, {"message": "exists"}), (201, {}), (404, {"message": "none"})]
    made = Place("night", "cohort").autoscaler(1, 2)
    assert [api.create(made), api.create(made)] == [False, True]
    assert api.get("DaskAutoscaler", "night") is None


def test_what_does_not_vanish_is_named(
    server: Server, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.execution.kubernetes.api.REMOVE_S", 0.1)
    server.answers = [(200, {})]
    with pytest.raises(NotRemoved, match=r"kubectl delete daskjob,daskcluster night"):
        api.delete("DaskCluster", "night")
    server.answers, server.asked = [(200, {}), (200, {}), (404, {})], []
    api.delete("DaskCluster", "night")
    assert server.asked == ["DELETE", "GET", "GET"]
