"""Answers of Kubernetes that a real one seldom gives: scripted, over real HTTP."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from engine.execution.kubernetes.api import Api, KubernetesFailed, NotRemoved
from engine.execution.kubernetes.credentials import NoKubernetes
from engine.execution.kubernetes.manifests import ClusterResources
from jobs.kubernetes.nightly_job import NightlyJob
from jobs.kubernetes.watch import RunnerLost, watch_runner

pytest.importorskip("kr8s")

Answer = tuple[int, Any]

TEMPLATE = {
    "metadata": {"name": "cohort-worker"},
    "template": {"spec": {"containers": [{"name": "worker", "args": ["dask", "worker"]}]}},
}


class Server(ThreadingHTTPServer):
    """Gives prepared answers, the last one again and again, and notes what was asked.

    Watches and logs have answers of their own. Another token than ``token`` is refused.
    """

    answers: list[Answer]
    watches: list[Answer]
    logs: list[Answer]
    asked: list[str]
    versions: list[str]
    token: str | None = None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url, answers = urlsplit(self.path), self.server.answers
        query = parse_qs(url.query)
        if "watch" in query:
            answers = self.server.watches
            self.server.versions += query["resourceVersion"]
        elif url.path.endswith("/log"):
            answers = self.server.logs
        else:
            self.server.asked.append(self.command)
        if self.headers["Authorization"] == f"Bearer {self.server.token or 'first'}":
            status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        else:
            status, body = 401, {"message": "Unauthorized"}
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
    monkeypatch.setattr("jobs.kubernetes.watch.POLL_S", 0.01)
    with Server(("127.0.0.1", 0), Handler) as made:
        made.answers, made.watches, made.logs = [], [], [(200, "")]
        made.asked, made.versions = [], []
        thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> Path:
    """Write a kubeconfig whose token comes from a program, as those of clouds do."""
    write_token(tmp_path, "first")
    program = {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "cat",
        "args": [str(tmp_path / "credential")],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        # A name, not an address: names are resolved in other ways when a process ends.
        "clusters": [{"name": "c", "cluster": {"server": f"http://localhost:{server.server_port}"}}],
        "users": [{"name": "c", "user": {"exec": program}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }))  # fmt: skip
    return tmp_path / "kubeconfig"


def write_token(folder: Path, token: str) -> None:
    (folder / "credential").write_text(json.dumps({"status": {"token": token}}))


@pytest.fixture
def api(kubeconfig: Path) -> Api:
    return Api("cohort", str(kubeconfig), retry_s=0.5)


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
        api.create(ClusterResources("night", "cohort").autoscaler(1, 2))
    assert server.asked == ["POST"]


def test_what_is_there_already_is_an_answer(server: Server, api: Api) -> None:
    server.answers = [(409, {"message": "exists"}), (201, {}), (404, {"message": "none"})]
    made = ClusterResources("night", "cohort").autoscaler(1, 2)
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


def test_a_token_that_expired_is_renewed(server: Server, api: Api, tmp_path: Path) -> None:
    server.answers, server.token = [(200, TEMPLATE)], "second"
    with pytest.raises(KubernetesFailed, match="401 Unauthorized"):
        api.templates("worker")
    write_token(tmp_path, "second")
    server.asked = []
    for _ in range(2):
        api.templates("worker")
    assert server.asked == ["GET"] * 3


def test_the_namespace_is_that_of_the_context_or_the_default(kubeconfig: Path) -> None:
    assert Api("", str(kubeconfig)).namespace == "cohort"
    settings = yaml.safe_load(kubeconfig.read_text())
    settings["contexts"][0]["context"]["namespace"] = "lab"
    kubeconfig.write_text(yaml.safe_dump(settings))
    assert Api("", str(kubeconfig)).namespace == "lab"
    assert Api("other", str(kubeconfig)).namespace == "other"
    settings["users"][0]["user"]["exec"]["command"] = "false"
    kubeconfig.write_text(yaml.safe_dump(settings))
    with pytest.raises(NoKubernetes, match="KUBECONFIG"):
        Api("", str(kubeconfig))


def test_a_process_that_ends_deletes_its_cluster(server: Server, kubeconfig: Path) -> None:
    server.answers, server.token = [(200, {}), (404, {})], "second"
    script = (
        "import atexit, pathlib, sys; from engine.execution.kubernetes.api import Api; "
        "api = Api('cohort', sys.argv[1]); "
        "atexit.register(api.delete, 'DaskCluster', 'night'); "
        "credential = pathlib.Path(sys.argv[1]).with_name('credential'); "
        "credential.write_text(credential.read_text().replace('first', 'second'))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, str(kubeconfig)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert server.asked == ["DELETE", "DELETE", "GET"]


def test_both_sides_show_certificates(
    server: Server, kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # kr8s leaves files there
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out",
         "certificate", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    certificate, key = (tmp_path / name for name in ("certificate", "key"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    tls.load_verify_locations(certificate)
    tls.verify_mode = ssl.CERT_REQUIRED
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.answers = [(200, TEMPLATE)]

    def request(cluster: dict[str, Any], user: dict[str, Any]) -> None:
        settings = yaml.safe_load(kubeconfig.read_text())
        address = f"https://localhost:{server.server_port}"
        settings["clusters"][0]["cluster"] = {"server": address, **cluster}
        settings["users"][0]["user"] = {"token": "first", **user}
        (tmp_path / "other").write_text(yaml.safe_dump(settings))
        Api("cohort", str(tmp_path / "other"), retry_s=0).templates("worker")

    ours = {"client-certificate": "certificate", "client-key": "key"}
    encoded = base64.b64encode(certificate.read_bytes()).decode()
    request({"certificate-authority-data": encoded}, ours)
    request({"insecure-skip-tls-verify": True}, ours)
    for cluster, user in (({}, ours), ({"certificate-authority": "certificate"}, {})):
        with pytest.raises(KubernetesFailed, match="no answer"):
            request(cluster, user)


NIGHT = NightlyJob("night", "uid", "cohort", 1, 1)


def pod(phase: str, code: int | None = None) -> dict[str, Any]:
    """Return a runner's pod; the text in it contains a character that ends lines for some."""
    state = {} if code is None else {"terminated": {"exitCode": code, "reason": "\x85"}}
    return {
        "metadata": {"name": NIGHT.runner},
        "status": {"phase": phase, "containerStatuses": [{"name": "runner", "state": state}]},
    }


def listed(version: str, *pods: dict[str, Any]) -> Answer:
    return 200, {"metadata": {"resourceVersion": version}, "items": pods}


def events(*pairs: tuple[str, dict[str, Any]]) -> Answer:
    lines = [json.dumps({"type": kind, "object": each}, ensure_ascii=False) for kind, each in pairs]
    return 200, "".join(f"{line}\n" for line in lines)


def test_a_watch_goes_on_after_it_was_closed_or_is_too_old(
    server: Server, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [listed(str(number), pod("Running")) for number in range(1, 6)]
    server.watches = [
        events(("ERROR", {"kind": "Status", "code": 410})),
        (410, {"message": "too old"}),
        (200, ""),
        (200, '{"type": "MODI'),
        events(("MODIFIED", pod("Running")), ("MODIFIED", pod("Succeeded", 3))),
    ]
    server.logs = [(200, 'circles: 1\x85of 2\n{"runs": []}\n')]
    ticks: list[int] = []
    ended = watch_runner(NIGHT, api, 60, lambda: ticks.append(1))
    assert ended.code == 3
    assert server.versions == ["1", "2", "3", "4", "5"]
    assert len(ticks) == 5
    told = capsys.readouterr()
    assert (told.out, told.err) == ('{"runs": []}\n', "circles: 1\x85of 2\n")


def test_the_last_state_of_a_deleted_pod_counts(server: Server, api: Api) -> None:
    server.answers = [listed("1", pod("Running"))]
    server.watches = [events(("DELETED", pod("Failed", 130)))]
    assert watch_runner(NIGHT, api, 60, lambda: None).code == 130
    server.watches = [events(("DELETED", pod("Running")))]
    with pytest.raises(RunnerLost, match="deleted"):
        watch_runner(NIGHT, api, 60, lambda: None)


def test_a_log_that_is_refused_is_named_and_harmless(
    server: Server, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers, server.logs = [listed("1", pod("Succeeded", 0))], [(403, {"message": "no"})]
    assert watch_runner(NIGHT, api, 60, lambda: None).code == 0
    assert "log ended early: Could not read the runner's log: 403 no" in capsys.readouterr().err
