"""Network policies: every required flow passes, and no other does."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.deploy.control_plane.plane import wait_for
from tests.deploy.control_plane.policies import Party, allowed
from tests.deploy.manifests import Manifest, with_components
from tests.deploy.nights import Cluster

NAMESPACES = {
    name: {"kubernetes.io/metadata.name": name}
    for name in ("cohort", "kube-system", "monitoring", "other")
}


def dask(component: str) -> Party:
    return Party("10.0.0.1", {"dask.org/component": component, "dask.org/cluster-name": "x"})


PARTIES = {
    "scheduler": dask("scheduler"),
    "worker": dask("worker"),
    "runner": dask("job-runner"),
    "launcher": Party("10.0.0.2", {"app.kubernetes.io/component": "launcher"}),
    "notebook": Party("10.0.0.3", {"app.kubernetes.io/component": "notebook"}),
    "operator": Party("10.0.0.4", {"app.kubernetes.io/name": "dask-kubernetes-operator"}),
    "stranger": Party("10.0.0.5", {}),
    "neighbour": Party("10.0.1.5", {"dask.org/component": "worker"}, "other"),
    "monitoring": Party("10.0.2.5", {"app": "prometheus"}, "monitoring"),
    "names": Party("10.0.3.5", {"k8s-app": "kube-dns"}, "kube-system"),
    "api": Party("10.96.0.1", {}, None),
    "store": Party("52.1.2.3", {}, None),
    "metadata": Party("169.254.169.254", {}, None),
}

OURS = ("scheduler", "worker", "runner", "launcher", "notebook", "operator", "stranger")

PORTS = {
    "comm": 8786, "dashboard": 8787, "worker": 8788, "nanny": 8789, "notebook": 8888, "https": 443,
    "api": 6443, "names": 53, "ssh": 22, "http": 80, "etcd": 2379,
}  # fmt: skip


def needed(store: bool) -> set[tuple[str, str, str]]:
    """Return the required flows between components, as source, target and port."""
    flows = {
        ("worker", "scheduler", "comm"),
        ("runner", "scheduler", "comm"),
        ("notebook", "scheduler", "comm"),
        ("notebook", "scheduler", "dashboard"),
        ("operator", "scheduler", "dashboard"),  # how many workers; which to retire; idle since
        ("monitoring", "scheduler", "dashboard"),
        ("monitoring", "worker", "dashboard"),
        *((source, "worker", port) for source in ("worker", "scheduler")
          for port in ("worker", "nanny")),
    }  # fmt: skip
    # The API server's own address is nobody's business to know, so its ports are open.
    for source in ("launcher", "operator", "notebook"):
        flows |= {
            (source, target, port) for target in ("api", "store") for port in ("https", "api")
        }
    if store:
        flows |= {(s, t, "https") for s in ("worker", "runner") for t in ("api", "store")}
    flows |= {(source, "names", "names") for source in OURS}
    return flows


def passing(policies: list[Manifest]) -> set[tuple[str, str, str]]:
    """Return the flows that the policies allow, of all that could be tried."""
    return {
        (source, target, name)
        for (source, who), (target, whom) in itertools.product(PARTIES.items(), repeat=2)
        for name, port in PORTS.items()
        if "cohort" in (who.namespace, whom.namespace)
        and allowed(policies, NAMESPACES, who, whom, port)
    }


@pytest.fixture(scope="module", params=[False, True], ids=["volume", "s3"])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bool, list[Manifest]]:
    components = ["notebook", *(["s3"] if request.param else [])]
    manifests = with_components(tmp_path_factory.mktemp("deploy"), "gpu", components)
    return request.param, [each for each in manifests if each["kind"] == "NetworkPolicy"]


def test_the_flows_that_are_needed_pass_and_no_other(found: tuple[bool, list[Manifest]]) -> None:
    store, policies = found
    # Into pods of other namespaces that the API server's ports happen to mean, only they decide.
    tried = {
        each for each in passing(policies)
        if each[2] not in ("https", "api") or PARTIES[each[1]].namespace is None
        or PARTIES[each[1]].namespace == "cohort"
    }  # fmt: skip
    assert tried == needed(store)
    assert allowed(policies, NAMESPACES, PARTIES["worker"], PARTIES["names"], 53, "UDP")


def test_each_policy_is_needed(found: tuple[bool, list[Manifest]]) -> None:
    _, policies = found
    whole = passing(policies)
    for policy in policies:
        without = [each for each in policies if each is not policy]
        assert passing(without) != whole, policy["metadata"]["name"]


@pytest.mark.deploy
@pytest.mark.timeout(300)
def test_a_stranger_reaches_nobody(cluster: Cluster, tmp_path: Path) -> None:
    """The node enforces policies, so all other tests show that what is needed passes."""
    notebook = cluster.configure_notebook(tmp_path)
    cluster.begin("probe", pause_s=2.0)
    cluster.configure("gpu", GPU_WORKERS_MAX=0)
    job = cluster.start()
    scheduler = cluster.running(job, "scheduler")["status"]["podIP"]
    worker = cluster.running(job, "worker")["status"]["podIP"]
    places = [(scheduler, 8786), (scheduler, 8787), (worker, 8787), (worker, 8788)]
    code = (
        "import socket\n"
        f"for place in {places}:\n"
        "    try: socket.create_connection(place, 3); print('reached', *place)\n"
        "    except OSError as error: print('refused', *place)\n"
    )
    spec = notebook["spec"]["template"]["spec"]
    container = {**spec["containers"][0], "args": ["python", "-c", code]}
    container.pop("readinessProbe")
    labels = {"stranger": {}, "notebook": {"app.kubernetes.io/component": "notebook"}}
    pods: list[Manifest] = [
        {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "cohort", "labels": labels[name]},
            "spec": {**spec, "containers": [container], "restartPolicy": "Never"},
        }
        for name in labels
    ]  # fmt: skip
    cluster.plane.apply(pods)  # at once: a stranger waits 3 s at each place, and the night ends
    for name in labels:
        wait_for(
            lambda name=name: cluster.plane.get("pod", name)["status"]["phase"] == "Succeeded", name
        )
        said = cluster.plane.log(name).split("\n")
        cluster.plane.kubectl("delete", "pod", name)
        reached = {line.split()[-1] for line in said if line.startswith("reached")}
        refused = [line for line in said if line.startswith("refused")]
        assert len(said) >= len(places)
        assert reached == (set() if name == "stranger" else {"8786", "8787"}), said
        assert refused
    assert cluster.wait(job).code == 0
