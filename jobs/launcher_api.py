"""What the launcher asks of Kubernetes' API; its role in deploy/kubernetes allows this, no more."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.errors import EngineError
from jobs.launcher_objects import GROUP, VERSION, Night, Object, Templates

REMOVE_S = 60.0
"""How long the rest may take to vanish once the runner has ended, seconds."""

POLL_S = 1.0

REQUEST_S = 30
"""Timeout of one request, seconds."""

PLURALS = {
    "DaskCluster": "daskclusters",
    "DaskJob": "daskjobs",
    "DaskWorkerGroup": "daskworkergroups",
    "DaskAutoscaler": "daskautoscalers",
}

NOT_FOUND, CONFLICT = 404, 409


class KubernetesFailed(EngineError):
    """Kubernetes can't be asked, or says no: (what was wanted, status, its words)."""

    def __str__(self) -> str:
        what, status, words = self.args
        return (
            f"Could not {what}: {status} {words}. Look at the role cohort-launcher and, for kinds "
            "that are not known, at the operator's installation (deploy/README.md)."
        )


class NotRemoved(EngineError):
    """Something that the launcher made is still there: (name, what, seconds)."""

    def __str__(self) -> str:
        name, what, seconds = self.args
        return (
            f"{what} of {name} did not vanish within {seconds:.0f} s. Look whether the operator "
            f"runs, then: kubectl delete daskjob {name}"
        )


class Api:
    """Kubernetes, as the launcher's service account sees it."""

    def __init__(self, client: Any, namespace: str) -> None:
        from kubernetes.client import CoreV1Api, CustomObjectsApi

        self.namespace = namespace
        self._client = client
        self.core = CoreV1Api(client)
        self._custom = CustomObjectsApi(client)

    @classmethod
    def connect(cls, namespace: str) -> Api:
        """Connect as the pod's service account.

        Raises
        ------
        KubernetesFailed
            If this is no pod, or it has no token.
        """
        from kubernetes.client import ApiClient
        from kubernetes.config import ConfigException, load_incluster_config

        try:
            load_incluster_config()
        except ConfigException as error:
            raise KubernetesFailed("connect from inside a pod", "no token", error) from error
        return cls(ApiClient(), namespace)

    def templates(self, gpu: bool) -> Templates:
        """Return the pod specs that a night is made of."""
        wanted = ["scheduler", "worker", "runner", *(["worker-gpu"] if gpu else [])]
        return {name: self._template(f"cohort-{name}") for name in wanted}

    def _template(self, name: str) -> Object:
        with asking(f"read the pod template {name}"):
            found = self.core.read_namespaced_pod_template(
                name, self.namespace, _request_timeout=REQUEST_S
            )
        return self.plain(found.template.spec)

    def plain(self, value: Any) -> Object:
        """Return one of the client's objects as Kubernetes writes it."""
        made: Object = self._client.sanitize_for_serialization(value)
        return made

    def create(self, made: Object) -> bool:
        """Create an object; False if one of its name is there already."""
        kind, name = made["kind"], made["metadata"]["name"]
        with asking(f"create {kind} {name}", passing=CONFLICT) as asked:
            self._custom.create_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURALS[kind], made, _request_timeout=REQUEST_S
            )
        return asked.ok

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object, or None if there is none."""
        found: Object | None = None
        with asking(f"read {kind} {name}", passing=NOT_FOUND):
            found = self._custom.get_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURALS[kind], name, _request_timeout=REQUEST_S
            )
        return found

    def scale(self, kind: str, name: str, replicas: int) -> None:
        """Set the number of a group's workers."""
        with asking(f"scale {kind} {name}"):
            self._custom.patch_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURALS[kind], name,
                {"spec": {"worker": {"replicas": replicas}}}, _request_timeout=REQUEST_S,
            )  # fmt: skip

    def delete(self, kind: str, name: str, *, within_s: float = REMOVE_S) -> None:
        """Delete an object if it is there, and wait until it is gone.

        Raises
        ------
        NotRemoved
            If it is still there after the time.
        """
        with asking(f"delete {kind} {name}", passing=NOT_FOUND):
            self._custom.delete_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURALS[kind], name, _request_timeout=REQUEST_S
            )
        deadline = time.monotonic() + within_s
        while self.get(kind, name) is not None:
            if time.monotonic() > deadline:
                raise NotRemoved(name, f"The {kind}", within_s)
            time.sleep(POLL_S)

    def pods(self, night: Night) -> list[Any]:
        """Return the pods of a night's cluster."""
        with asking("list pods"):
            found: list[Any] = self.core.list_namespaced_pod(
                self.namespace,
                label_selector=f"dask.org/cluster-name={night.name}",
                _request_timeout=REQUEST_S,
            ).items
        return found

    def remove(self, night: Night) -> None:
        """Remove all of a night: the runner first, which commits what it has while workers live.

        Raises
        ------
        NotRemoved
            If something is still there after the time that its pods may take.
        """
        grace_s = self._delete_runner(night)
        deadline = time.monotonic() + grace_s + REMOVE_S
        while any(pod.metadata.name == night.runner for pod in self.pods(night)):
            if time.monotonic() > deadline:
                raise NotRemoved(night.name, "The runner", grace_s + REMOVE_S)
            time.sleep(POLL_S)
        for kind, name in (
            ("DaskAutoscaler", night.name),
            ("DaskWorkerGroup", night.gpu_group_name),
            ("DaskJob", night.name),
        ):
            self.delete(kind, name)
        left = self.pods(night)
        grace_s = max((pod.spec.termination_grace_period_seconds or 30 for pod in left), default=0)
        deadline = time.monotonic() + grace_s + REMOVE_S
        while self.pods(night):
            if time.monotonic() > deadline:
                raise NotRemoved(night.name, "A pod", grace_s + REMOVE_S)
            time.sleep(POLL_S)

    def _delete_runner(self, night: Night) -> float:
        with asking("delete the runner", passing=NOT_FOUND) as asked:
            pod = self.core.delete_namespaced_pod(
                night.runner, self.namespace, _request_timeout=REQUEST_S
            )
        return float(pod.spec.termination_grace_period_seconds or 30) if asked.ok else 0.0


class _Asked:
    ok = False


@contextmanager
def asking(what: str, passing: int | None = None) -> Iterator[_Asked]:
    """Turn the client's errors into ours; one status may pass, and leaves ``ok`` False."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    asked = _Asked()
    try:
        yield asked
        asked.ok = True
    except ApiException as error:
        if error.status != passing:
            raise KubernetesFailed(what, error.status, _words(error)) from error
    except HTTPError as error:
        raise KubernetesFailed(what, "no answer", type(error).__name__) from error


def _words(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
