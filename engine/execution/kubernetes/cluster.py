"""Dask cluster on Kubernetes for the lifetime of a notebook, created by Dask's operator."""

from __future__ import annotations

import atexit
import base64
import functools
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import dask
from dask.utils import parse_bytes
from distributed import Client, Security

from engine.errors import EngineError, ParameterError
from engine.execution.cluster.spec import START_S, ClusterSpec, OpenCluster
from engine.execution.kubernetes.api import (
    NOT_FOUND,
    Api,
    KubernetesFailed,
    OperatorSilent,
    why_waiting,
)
from engine.execution.kubernetes.credentials import in_pod
from engine.execution.kubernetes.manifests import (
    DASHBOARD_PORT,
    SCHEDULER_PORT,
    ClusterResources,
    Templates,
    resized,
)
from engine.execution.timeouts import startup_timeout_s
from engine.execution.versions import require_same_versions
from engine.execution.workers import count_slots, scheduler_needed, workers_of

SECRET = "cohort-tls"

WORKERS = 2
"""Default number of workers."""

IDLE_S = 3600
"""Idle time after which the operator removes a cluster, seconds: a notebook whose kernel died
closes nothing, and nodes cost money."""

ANSWER_S = 15.0
"""Period for which a request is retried without an answer, seconds: a user is waiting."""

OPERATOR_S = 60.0
"""Timeout for the operator to process a new object, seconds."""

SETTLE_S = 20.0
"""Maximum duration of a problem that rarely resolves by itself, seconds."""

POLL_S = 0.5

LASTING = ("Pull", "Image", "Config", "Error", "CrashLoop", "quota", "forbidden")
"""Pod waiting reasons that need user action; waiting for a node does not help."""


class PartNotStarted(EngineError):
    """A component of a cluster does not start: (component, cluster, seconds, reason)."""

    def __str__(self) -> str:
        part, cluster, seconds, reason = self.args
        return (
            f"The {part} of {cluster} did not start within {seconds:.0f} s: {reason}. Look at the "
            "image's name and tag in the overlay, at quotas (kubectl describe resourcequota), "
            "volumes (kubectl get pvc) and free nodes (kubectl describe nodes); where nodes are "
            "bought as they are needed, wait longer: DASK_COHORT__PATIENCE='20 minutes'."
        )


class SchedulerShut(EngineError, ConnectionError):
    """A scheduler on Kubernetes runs, but refuses connections: (address,)."""

    def __str__(self) -> str:
        return (
            f"The scheduler at {self.args[0]} runs, but refuses connections. Network policies "
            "admit pods of its namespace with the label app.kubernetes.io/component: notebook; "
            "from outside, the role cohort-notebook permits port forwarding; and both sides need "
            "certificates of one authority (docs/how-to/kubernetes.md)."
        )


@contextmanager
def open_on_kubernetes(wanted: ClusterSpec) -> Iterator[OpenCluster]:
    """Open a cluster from the pod templates that deploy/kubernetes installed in a namespace.

    Raises
    ------
    MissingExtra
        If the packages of the extra ``kubernetes`` are not installed.
    NoKubernetes, KubernetesFailed
        If there is no cluster, or it refuses: a permission, the operator or the overlay is missing.
    OperatorSilent, PartNotStarted
        If the operator does not create the cluster, or its pods wait for an image, a quota or a
        node.
    SchedulerShut, SchedulerLost, VersionMismatch, NoWorkerForResource
    """
    api = connect(wanted.where.partition("://")[2])
    security = _security(api)
    place = ClusterResources(
        f"cohort-{secrets.token_hex(4)}", api.namespace, "tls" if security is not None else "tcp"
    )
    gpus = wanted.gpu_workers or 0
    names = ["scheduler", "worker", *(["worker-gpu"] if gpus else [])]
    templates = _sized(api.templates(*names), wanted)
    with ExitStack() as stack:
        api.create(place.cluster(templates, wanted.workers or WORKERS, IDLE_S))
        stack.callback(_remove, api, place)
        # Also clean up after a restarted kernel, or a script without a ``with`` block.
        stack.callback(atexit.unregister, atexit.register(functools.partial(_leave, stack)))
        if gpus:
            api.create(place.gpu_group(templates, gpus))
        _wait_for(api, place, "scheduler", lambda: _is_ready(api, place))
        address, link = _way_in(stack, api, place)
        client = stack.enter_context(_client(address, security))
        with scheduler_needed():
            require_same_versions(client, address)
        _wait_for(api, place, "worker", lambda: _has_workers(client, wanted, gpus))

        def scale(workers: int, gpu_workers: int | None) -> None:
            api.scale("DaskWorkerGroup", place.group_name, workers)
            if gpu_workers is None:
                return
            group = place.gpu_group(_sized(api.templates("worker-gpu"), wanted), gpu_workers)
            if not api.create(group):
                api.scale("DaskWorkerGroup", place.gpu_group_name, gpu_workers)

        yield OpenCluster(client, scale, link, _told(place, link))


def connect(namespace: str) -> Api:
    """Connect by KUBECONFIG, as this pod's service account, or by the user's own configuration.

    Parameters
    ----------
    namespace
        Namespace; if empty, see `Api`.

    Raises
    ------
    MissingExtra
    NoKubernetes
    """
    if "KUBECONFIG" not in os.environ and in_pod():
        return Api(namespace, retry_s=ANSWER_S)
    return Api(namespace, os.environ.get("KUBECONFIG") or "~/.kube/config", retry_s=ANSWER_S)


def _security(api: Api) -> Security | None:
    """Return certificates from Dask's settings, or the namespace's; None for no TLS."""
    if dask.config.get("distributed.comm.tls.client.cert", None):
        return Security(require_encryption=True)
    found = api.request(
        f"read the secret {SECRET} of namespace {api.namespace}", "GET", "Secret", SECRET,
        passing=NOT_FOUND,
    )  # fmt: skip
    if found is None:
        warnings.warn(
            f"There is no secret {SECRET} in namespace {api.namespace}, so this cluster runs "
            "without TLS: anyone who can reach its scheduler can run code on it. Make "
            "certificates with deploy/kubernetes/certificates.",
            stacklevel=2,
        )
        return None
    try:
        ca, certificate, key = (
            base64.b64decode(found["data"][name]).decode()
            for name in ("ca.crt", "tls.crt", "tls.key")
        )
    except KeyError as error:
        raise KubernetesFailed(f"use the secret {SECRET}", "it lacks", error.args[0]) from None
    return Security(
        require_encryption=True,
        tls_ca_file=ca, tls_client_cert=certificate, tls_client_key=key,
    )  # fmt: skip


def _sized(templates: Templates, wanted: ClusterSpec) -> Templates:
    """Return the templates with workers of the requested size; GPU workers stay unchanged."""
    memory = wanted.memory_limit
    if memory in (0, "0"):
        raise ParameterError("memory_limit", memory, "a size: on Kubernetes a pod has a limit")
    memory_bytes = None if memory in (None, "auto") else int(parse_bytes(memory))
    return {
        name: resized(spec, wanted.threads_per_worker, memory_bytes) if name == "worker" else spec
        for name, spec in templates.items()
    }


def _is_ready(api: Api, place: ClusterResources) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for pod in api.of_cluster("Pod", place.name, "scheduler")
        for condition in pod["status"].get("conditions", ())
    )


def _has_workers(client: Client, wanted: ClusterSpec, gpus: int) -> bool:
    """Return whether each kind of worker has started; further workers may join later."""
    asked = [dict(wanted.resources)] if wanted.resources else []
    if gpus:
        asked += [{"GPU": 1.0}, {"CPU": 1.0}]
    return bool(workers_of(client)) and all(count_slots(client, each) for each in asked)


def _wait_for(api: Api, place: ClusterResources, part: str, ready: Callable[[], bool]) -> None:
    """Wait for a component of the cluster, and report why it does not start."""
    began = time.monotonic()
    settled = began  # last time without a lasting problem
    while not ready():
        now = time.monotonic()
        seen, reason = _trouble(api, place, part)
        if not any(word in reason for word in LASTING):
            settled = now
        if not seen and not reason and now - began > OPERATOR_S:
            raise OperatorSilent(f"{part} of DaskCluster {place.name}", now - began)
        if now - settled > SETTLE_S or now - began > startup_timeout_s(START_S):
            raise PartNotStarted(part, place.name, now - began, reason or "it does not answer")
        time.sleep(POLL_S)


def _trouble(api: Api, place: ClusterResources, part: str) -> tuple[bool, str]:
    """Return whether a component has pods, and the reason why one does not run."""
    pods = api.of_cluster("Pod", place.name, part)
    for pod in pods:
        reason = why_waiting(pod)
        waits = pod["status"].get("phase") != "Running" or any(w in reason for w in LASTING)
        if waits and reason not in ("Running", "Pending"):
            return True, reason
    if pods:
        return True, ""
    deployments = api.of_cluster("Deployment", place.name, part)
    for deployment in deployments:
        for condition in deployment.get("status", {}).get("conditions", ()):
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                return True, str(condition.get("message"))  # a quota, or a rule of the namespace
    return bool(deployments), ""


def _way_in(stack: ExitStack, api: Api, place: ClusterResources) -> tuple[str, str | None]:
    """Return the addresses of the scheduler and the dashboard, as reachable from this process."""
    if api.credentials.in_pod:
        return place.address, None
    from kr8s.objects import Pod

    [name] = [pod["metadata"]["name"] for pod in api.of_cluster("Pod", place.name, "scheduler")][:1]
    pod = Pod(name, namespace=api.namespace, api=api.credentials.session)
    scheduler, dashboard = (
        stack.enter_context(pod.portforward(port, local_port="auto"))
        for port in (SCHEDULER_PORT, DASHBOARD_PORT)
    )
    return f"{place.protocol}://127.0.0.1:{scheduler}", f"http://127.0.0.1:{dashboard}/status"


def _client(address: str, security: Security | None) -> Client:
    how: dict[str, Any] = {} if security is None else {"security": security}
    try:
        return Client(address, timeout=startup_timeout_s(ANSWER_S), set_as_default=False, **how)
    except (OSError, TimeoutError, RuntimeError) as error:
        raise SchedulerShut(address) from error


def _told(place: ClusterResources, link: str | None) -> str:
    told = f"{place.name} in namespace {place.namespace}"
    if place.protocol == "tcp":
        told += ", without TLS"
    if link is None:  # browsers rarely run in the cluster
        told += (
            f"; dashboard: kubectl -n {place.namespace} port-forward "
            f"svc/{place.name}-scheduler {DASHBOARD_PORT}"
        )
    return told


def _leave(stack: ExitStack) -> None:
    """Close everything at exit; errors are suppressed, since no caller can handle them."""
    with suppress(EngineError, OSError):
        stack.close()


def _remove(api: Api, place: ClusterResources) -> None:
    """Remove the cluster, GPU workers first: the operator removes pods with their cluster."""
    api.delete("DaskWorkerGroup", place.gpu_group_name)
    api.delete("DaskCluster", place.name)
