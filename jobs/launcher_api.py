"""What the launcher asks of Kubernetes' API; its role in deploy/kubernetes allows this, no more."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from engine.errors import EngineError
from jobs.launcher_objects import GROUP, VERSION, Night, Object, Templates

REMOVE_S = 60.0
"""How long the rest may take to vanish once the runner has ended, seconds."""

POLL_S = 1.0

REQUEST_S = 30
"""Timeout of one request, seconds."""

RETRY_S = 600.0
"""How long a request is repeated where nobody answers, seconds: an API server that is upgraded is
away for minutes, and the night goes on without it."""

RETRIED = (429, 500, 502, 503, 504)

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

    def ask(
        self,
        what: str,
        function: Callable[..., Any],
        *arguments: Any,
        passing: int | None = None,
        **options: Any,
    ) -> Any:
        """Call the client, repeatedly for `RETRY_S` where nobody answers.

        Parameters
        ----------
        what
            What is wanted, for the error.
        passing
            A status that is an answer too; then None is returned.

        Raises
        ------
        KubernetesFailed
        """
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        deadline = time.monotonic() + RETRY_S
        while True:
            try:
                return function(*arguments, _request_timeout=REQUEST_S, **options)
            except ApiException as error:
                if error.status == passing:
                    return None
                if error.status not in RETRIED or time.monotonic() > deadline:
                    raise KubernetesFailed(what, error.status, _words(error)) from error
            except HTTPError as error:
                if time.monotonic() > deadline:
                    raise KubernetesFailed(what, "no answer", type(error).__name__) from error
            time.sleep(POLL_S)

    def plain(self, value: Any) -> Object:
        """Return one of the client's objects as Kubernetes writes it."""
        made: Object = self._client.sanitize_for_serialization(value)
        return made

    def templates(self, gpu: bool) -> Templates:
        """Return the pod specs that a night is made of."""
        wanted = ["scheduler", "worker", "runner", *(["worker-gpu"] if gpu else [])]
        return {name: self._template(f"cohort-{name}") for name in wanted}

    def _template(self, name: str) -> Object:
        found = self.ask(
            f"read the pod template {name}",
            self.core.read_namespaced_pod_template, name, self.namespace,
        )  # fmt: skip
        return self.plain(found.template.spec)

    # Dask's resources

    def create(self, made: Object) -> bool:
        """Create an object; False if one of its name is there already."""
        kind = made["kind"]
        return self.ask(
            f"create {kind} {made['metadata']['name']}",
            self._custom.create_namespaced_custom_object, *self._place(kind), made,
            passing=CONFLICT,
        ) is not None  # fmt: skip

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object, or None if there is none."""
        found: Object | None = self.ask(
            f"read {kind} {name}",
            self._custom.get_namespaced_custom_object, *self._place(kind), name,
            passing=NOT_FOUND,
        )  # fmt: skip
        return found

    def scale(self, kind: str, name: str, replicas: int) -> None:
        """Set the number of a group's workers."""
        change = {"spec": {"worker": {"replicas": replicas}}}
        self.ask(
            f"scale {kind} {name}",
            self._custom.patch_namespaced_custom_object, *self._place(kind), name, change,
        )  # fmt: skip

    def delete(self, kind: str, name: str) -> None:
        """Delete an object if it is there, and wait until it is gone.

        Raises
        ------
        NotRemoved
            If it is still there after `REMOVE_S`.
        """
        self.ask(
            f"delete {kind} {name}",
            self._custom.delete_namespaced_custom_object, *self._place(kind), name,
            passing=NOT_FOUND,
        )  # fmt: skip
        self._until(lambda: self.get(kind, name) is None, name, f"The {kind}", REMOVE_S)

    def _place(self, kind: str) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURALS[kind]

    # pods

    def pods(self, night: Night) -> list[Any]:
        """Return the pods of a night's cluster, the runner among them."""
        found: list[Any] = self.ask(
            "list pods",
            self.core.list_namespaced_pod, self.namespace,
            label_selector=f"dask.org/cluster-name={night.name}",
        ).items  # fmt: skip
        return found

    def remove(self, night: Night) -> None:
        """Remove all of a night: the runner first, which commits what it has while workers live.

        Raises
        ------
        NotRemoved
            If something is still there after the time that its pods may take.
        """
        runner = self.ask(
            "delete the runner",
            self.core.delete_namespaced_pod, night.runner, self.namespace, passing=NOT_FOUND,
        )  # fmt: skip
        if runner is not None:
            self._until(
                lambda: night.runner not in [pod.metadata.name for pod in self.pods(night)],
                night.name, "The runner", REMOVE_S + _grace_s(runner),
            )  # fmt: skip
        for kind, name in (
            ("DaskAutoscaler", night.name),
            ("DaskWorkerGroup", night.gpu_group_name),
            ("DaskJob", night.name),
        ):
            self.delete(kind, name)
        grace_s = max((_grace_s(pod) for pod in self.pods(night)), default=0.0)
        self._until(lambda: not self.pods(night), night.name, "A pod", REMOVE_S + grace_s)

    def _until(self, gone: Callable[[], bool], name: str, what: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not gone():
            if time.monotonic() > deadline:
                raise NotRemoved(name, what, within_s)
            time.sleep(POLL_S)


def _grace_s(pod: Any) -> float:
    return float(pod.spec.termination_grace_period_seconds or 30)


def _words(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
