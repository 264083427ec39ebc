"""engine.cluster: one way to a client; it closes everything that it opened, and nothing else."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from distributed import Client

import engine
from engine.errors import NoWorkerForResource, ParameterError, SchedulerLost, UsageError
from engine.execution.cluster.cluster import NoCertificate, SchedulerUnreachable
from engine.execution.kubernetes.credentials import NoKubernetes
from engine.execution.workers import count_slots, wait_for_slots, workers_of
from tests.distributed.processes import Cluster, is_alive, kill, wait_for
from tests.support.images import connect_quietly


def test_a_scheduler_that_was_there_goes_on(session_cluster: Cluster) -> None:
    cluster = engine.cluster(session_cluster.address)
    client = cluster.client
    assert client.submit(os.getpid, pure=False).result() in session_cluster.workers()
    # A test before may have killed one, and its nanny starts another.
    wait_for(lambda: "2 workers, 2 threads" in cluster._repr_html_(), "both workers told")
    with pytest.raises(UsageError, match="was not started here"):
        cluster.scale(3)
    cluster.close()
    cluster.close()
    assert client.status == "closed"
    assert "closed" in repr(cluster)
    with engine.cluster(session_cluster.address) as again:
        assert again.client.submit(sum, [1, 2]).result() == 3


def test_a_slot_that_no_worker_offers_is_named(session_cluster: Cluster) -> None:
    with pytest.raises(NoWorkerForResource, match="FPGA"):
        engine.cluster(session_cluster.address, resources={"FPGA": 1})


def test_local_workers_end_with_it_and_the_port_may_be_taken() -> None:
    taken = None
    with suppress(OSError):  # it may be taken already
        taken = socket.create_server(("127.0.0.1", 8787))
    with connect_quietly(where="local", workers=1, resources={"GPU": 1}) as client:
        worker = client.submit(os.getpid, resources={"GPU": 1}, pure=False).result()
        assert ":8787/" not in client.dashboard_link
    wait_for(lambda: not is_alive(worker), "the end of the worker", 20)
    if taken is not None:
        taken.close()


def test_a_script_without_a_guard_ends_and_says_what_it_lacks(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import engine\nengine.cluster(workers=1)\n")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=100, check=False
    )
    child, parent = done.stderr.split("Traceback", 1)  # that of the script itself, and no other
    assert done.returncode == 1
    assert child.startswith("engine.execution.cluster.local.UnguardedScript: ")
    for told in (child, parent):
        assert 'if __name__ == "__main__":' in told.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("where", "how", "kind", "told"),
    [
        ("kubernets", {}, UsageError, "tcp://kubernets"),
        (
            "tcp://127.0.0.1:1",
            {"workers": 2},
            UsageError,
            "workers only applies to a new cluster",
        ),
        ("tcp://127.0.0.1:1", {"memory_limit": "1GiB"}, UsageError, "memory_limit"),
        ("tcp://127.0.0.1:1", {"gpu_workers": 1}, UsageError, "gpu_workers"),
        ("local", {"workers": 0}, ParameterError, "workers"),
        ("local", {"gpu_workers": 1}, UsageError, "resources"),
        ("local", {"threads_per_worker": -1}, ParameterError, "threads_per_worker"),
        ("local", {"memory_limit": "much"}, ParameterError, "memory_limit"),
        ("tls://127.0.0.1:1", {}, NoCertificate, "distributed.comm.tls"),
    ],
)
def test_what_can_not_be_is_refused_at_once(
    where: str, how: dict[str, object], kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        engine.cluster(where, **how)  # type: ignore[arg-type]


def test_where_no_kubernetes_is_known_it_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for text in (None, "", "a: [", "current-context: gone"):
        if text is not None:
            (tmp_path / "config").write_text(text)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        with pytest.raises(NoKubernetes, match="KUBECONFIG"):
            engine.cluster("kubernetes")


def test_a_program_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.execution.cluster.cluster.CONNECT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SchedulerUnreachable, match=address):
            engine.cluster(address)


def test_workers_are_seen_while_the_client_asks_for_totals_only(session_cluster: Cluster) -> None:
    with engine.cluster(session_cluster.address) as cluster:
        client = cluster.client
        over = threading.Event()

        def heartbeat() -> None:
            while not over.is_set():
                client.sync(client._update_scheduler_info)

        with ThreadPoolExecutor(1) as beside:
            beside.submit(heartbeat)
            seen = {len(workers_of(client)) for _ in range(300)}
            over.set()
        assert seen == {2}


def test_a_scheduler_that_vanishes_while_a_cluster_opens_is_named(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """At each of the questions that opening asks it; Dask's own error would be a traceback."""
    cluster = Cluster(tmp_path / "lost", environment, workers=1)
    try:
        client = Client(cluster.address, set_as_default=False, timeout=20)
        client.wait_for_workers(1, timeout=60)
        assert len(workers_of(client)) == 1
        kill(cluster.scheduler.pid)
        for ask in (
            workers_of,
            lambda lost: wait_for_slots(lost, {}),
            lambda lost: count_slots(lost, {}),
        ):
            with pytest.raises(SchedulerLost, match="scheduler was lost: it answered") as told:
                ask(client)
            assert told.value.exit_code == 1
            assert pickle.loads(pickle.dumps(told.value)).args == ()
        client.close()
    finally:
        cluster.close()
