"""Notebook sessions on a cluster of a real control plane: engine.cluster("kubernetes")."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.deploy.control_plane.plane import ADMINISTRATOR, VISITOR, wait_for
from tests.deploy.manifests import CHART, REPOSITORY, Manifest
from tests.deploy.nights import Cluster

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]

NOTEBOOK = REPOSITORY / "notebooks/cluster.ipynb"

EXECUTE = """\
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=300).execute()
nbformat.write(notebook, sys.argv[2])
"""

SESSION = """\
import json, os, sys, time, urllib.request, warnings
import engine
from engine.execution.workers import workers_of

def worker():
    import os
    return os.environ["DASK_WORKER_NAME"]

told = {}
try:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        began = time.monotonic()
        cluster = engine.cluster(**json.loads(sys.argv[1]))
        told["up_s"] = round(time.monotonic() - began, 1)
    told["warned"] = [str(each.message) for each in said if "TLS" in str(each.message)]
    client = cluster.client
    told["address"], told["html"] = client.scheduler.address, cluster._repr_html_()
    told["page"] = urllib.request.urlopen(cluster.dashboard_link).status
    for workers, gpu_workers in json.loads(sys.argv[2]):
        cluster.scale(workers, gpu_workers)
        wanted, deadline = workers + (gpu_workers or 0), time.monotonic() + 90
        while len(workers_of(client)) != wanted and time.monotonic() < deadline:
            time.sleep(0.5)
        told.setdefault("sizes", []).append(len(workers_of(client)))
    told["workers"] = [
        {key: each[key] for key in ("nthreads", "memory_limit", "resources")}
        for each in workers_of(client).values()
    ]
    for resource in ("CPU", "GPU"):
        if any(resource in each["resources"] for each in told["workers"]):
            told[resource] = client.submit(worker, resources={resource: 1}, pure=False).result()
    began = time.monotonic()
    cluster.close()
    told["closed_s"] = round(time.monotonic() - began, 1)
    told["after"] = repr(cluster)
except engine.EngineError as error:
    told |= {"error": type(error).__name__, "text": str(error)}
print(json.dumps(told))
"""


def run_outside(
    cluster: Cluster, tmp_path: Path, code: str, *argv: str, token: str = ADMINISTRATOR
) -> subprocess.CompletedProcess[str]:
    """Run a program as on a laptop, with only a kubeconfig."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(cluster.plane.configuration(token))
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        env={"PATH": os.environ["PATH"], "KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path)},
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=400,
    )  # fmt: skip


def session(
    cluster: Cluster,
    tmp_path: Path,
    *,
    token: str = ADMINISTRATOR,
    scales: tuple[tuple[int, int | None], ...] = (),
    **how: Any,
) -> dict[str, Any]:
    """Open a cluster as from a laptop, with a kubeconfig; return the observations."""
    asked = json.dumps({"where": "kubernetes", **how})
    ran = run_outside(cluster, tmp_path, SESSION, asked, json.dumps(scales), token=token)
    assert ran.returncode == 0, ran.stderr
    told = dict(json.loads(ran.stdout.splitlines()[-1]))
    print(told)
    return told


@contextmanager
def without_templates_changed(cluster: Cluster, tmp_path: Path) -> Iterator[None]:
    """Re-apply the manifests at the end."""
    try:
        yield
    finally:
        cluster.configure_notebook(tmp_path)


@pytest.fixture
def notebook(cluster: Cluster, tmp_path: Path) -> Iterator[Manifest]:
    """Apply the manifests for notebooks; check at the end that nothing of a session remains."""
    yield cluster.configure_notebook(tmp_path)
    # A session waits for the end of its cluster; what belonged to that is removed by Kubernetes.
    for kind in ("daskworkergroups", "pods"):
        selector = ("-l", "dask.org/cluster-name") if kind == "pods" else ()
        wait_for(
            lambda kind=kind, more=selector: not cluster.plane.list(kind, *more), f"no {kind}", 150
        )
    cluster.check_gone()


def test_a_notebook_in_a_pod_borrows_a_cluster(cluster: Cluster, notebook: Manifest) -> None:
    cluster.begin("circles")
    spec = notebook["spec"]["template"]["spec"]
    [container] = spec["containers"]
    container["args"] = ["python", "-c", EXECUTE, str(NOTEBOOK), "/cohort/executed.ipynb"]
    container.pop("readinessProbe")
    labels = notebook["spec"]["template"]["metadata"]["labels"]
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "notebook", "namespace": "cohort", "labels": labels},
        "spec": {**spec, "restartPolicy": "Never"},
    }  # fmt: skip
    cluster.plane.apply([pod])

    def ended() -> bool:
        return cluster.plane.get("pod", "notebook")["status"]["phase"] in ("Succeeded", "Failed")

    wait_for(ended, "the end of the notebook", 300)
    phase = cluster.plane.get("pod", "notebook")["status"]["phase"]
    cluster.plane.kubectl("delete", "pod", "notebook")
    assert phase == "Succeeded", cluster.plane.log("notebook")
    executed = nbformat.read(cluster.place.parent / "executed.ipynb", as_version=4)
    texts = [
        str(output["data"]["text/plain"])
        for cell in executed.cells
        for output in cell.get("outputs", ())
        if "data" in output
    ]
    print(*texts, sep="\n")
    shown = [text for text in texts if text.startswith("<Cluster 'kubernetes'")]
    assert "1 worker, 2 threads" in shown[0]
    assert "2 workers, 4 threads" in shown[1]
    assert "TLS" not in shown[0]  # it would say that there is none
    assert "closed" in shown[2]
    assert "({'done': 24}, {'done': 24})" in texts


@pytest.mark.short
def test_a_laptop_borrows_one_with_a_gpu_and_scales_it(
    cluster: Cluster, notebook: Manifest, tmp_path: Path
) -> None:
    cluster.plane.kubectl(
        "create", "rolebinding", "visitor", "--role=cohort-notebook", "--user=visitor"
    )
    try:
        told = session(
            cluster, tmp_path, token=VISITOR, workers=1, threads_per_worker=3,
            memory_limit="512MiB", gpu_workers=1, scales=((2, None), (1, 2), (1, 1)),
        )  # fmt: skip
    finally:
        cluster.plane.kubectl("delete", "rolebinding", "visitor")
    assert told["address"].startswith("tls://127.0.0.1:")
    assert 'href="http://127.0.0.1:' in told["html"]
    assert told["page"] == 200
    assert told["sizes"] == [2, 3, 2]
    kinds = {json.dumps(each["resources"]): each for each in told["workers"]}
    assert set(kinds) == {'{"CPU": 3.0}', '{"GPU": 1.0}'}
    assert kinds['{"CPU": 3.0}']["nthreads"] == 3
    assert kinds['{"CPU": 3.0}']["memory_limit"] == 512 * 2**20
    assert "-default-worker" in told["CPU"]
    assert "-gpu-worker" in told["GPU"]
    assert "closed" in told["after"]


def test_a_script_that_closes_nothing_leaves_nothing(
    cluster: Cluster, notebook: Manifest, tmp_path: Path
) -> None:
    code = "import engine; cluster = engine.cluster('kubernetes', workers=1); print(cluster)"
    ran = run_outside(cluster, tmp_path, code)
    assert ran.returncode == 0, ran.stderr
    assert "1 worker" in ran.stdout
    assert ran.stderr == ""
    wait_for(lambda: not cluster.plane.list("daskclusters"), "no cluster")


def test_a_cluster_whose_kernel_was_killed_goes_when_it_is_idle(
    cluster: Cluster, notebook: Manifest, tmp_path: Path
) -> None:
    # Longer than a busy machine needs to start a worker: the cluster is idle until then.
    code = (
        "import os, engine, engine.execution.kubernetes.cluster as sessions; sessions.IDLE_S = 30; "
        "cluster = engine.cluster('kubernetes', workers=1); os._exit(9)"
    )
    assert run_outside(cluster, tmp_path, code).returncode == 9
    assert len(cluster.plane.list("daskclusters")) == 1
    wait_for(lambda: not cluster.plane.list("daskclusters"), "no cluster")


def test_without_certificates_it_works_and_says_so(
    cluster: Cluster, notebook: Manifest, certificates: Path, tmp_path: Path
) -> None:
    cluster.plane.kubectl("delete", "secret", "cohort-tls")
    try:
        told = session(cluster, tmp_path, workers=1)
    finally:
        cluster.make_secret(certificates)
    assert told["address"].startswith("tcp://")
    assert "without TLS" in told["html"]
    assert len(told["warned"]) == 1


def test_what_lacks_is_named_with_what_to_do(
    cluster: Cluster, notebook: Manifest, tmp_path: Path
) -> None:
    told = session(cluster, tmp_path, token=VISITOR)
    assert told["error"] == "KubernetesFailed"
    assert "cohort-notebook" in told["text"]
    told = session(cluster, tmp_path, where="kubernetes://default")
    assert told["error"] == "KubernetesFailed"
    assert "kubectl apply -k" in told["text"]


def test_a_quota_is_named(cluster: Cluster, notebook: Manifest, tmp_path: Path) -> None:
    cluster.plane.kubectl("create", "quota", "few", "--hard=count/pods=1,pods=1")
    try:
        wait_for(lambda: cluster.plane.get("quota", "few")["status"].get("hard"), "the quota")
        told = session(cluster, tmp_path)
    finally:
        cluster.plane.kubectl("delete", "quota", "few")
    assert told["error"] == "PartNotStarted"
    assert "exceeded quota" in told["text"]


def test_an_image_that_is_not_there_is_named(
    cluster: Cluster, notebook: Manifest, tmp_path: Path
) -> None:
    with without_templates_changed(cluster, tmp_path):
        cluster.configure_notebook(tmp_path, newTag="gone")
        told = session(cluster, tmp_path)
    assert told["error"] == "PartNotStarted"
    assert "cohort:gone" in told["text"]


def test_an_operator_that_is_away_is_named(
    cluster: Cluster, notebook: Manifest, tmp_path: Path
) -> None:
    scale = "scale", "deployment", "dask-kubernetes-operator"
    cluster.plane.kubectl(*scale, "--replicas=0")
    try:
        told = session(cluster, tmp_path)
    finally:
        cluster.plane.kubectl(*scale, "--replicas=1")
    assert told["error"] == "OperatorSilent"
    assert "deploy/dask-kubernetes-operator" in told["text"]


def test_resources_that_are_not_declared_are_named(cluster: Cluster, tmp_path: Path) -> None:
    cluster.configure_notebook(tmp_path)
    kind = "daskclusters.kubernetes.dask.org"
    cluster.plane.kubectl("delete", "crd", kind)
    try:
        told = session(cluster, tmp_path)
    finally:
        cluster.plane.kubectl(
            "apply", "--server-side", "--validate=false", "-f", str(CHART / "crds")
        )
    assert told["error"] == "KubernetesFailed"
    assert "deploy/kubernetes/operator/install" in told["text"]
