"""Client for the Kubernetes API, for the launcher of nightly jobs and for notebook clusters."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from engine.errors import EngineError
from engine.execution.kubernetes.manifests import GROUP, VERSION, Object, Templates

REMOVE_S = 60.0
"""Timeout for the deletion of an object without dependents, seconds."""

POLL_S = 1.0

REQUEST_S = 30
"""Timeout of one request, seconds."""

RETRY_S = 600.0
"""Period for which a nightly job retries a request, seconds: an upgrade of the API server takes
minutes, and the job continues without it."""

RETRIED = (429, 500, 502, 503, 504)

PLURALS = {
    "DaskCluster": "daskclusters",
    "DaskJob": "daskjobs",
    "DaskWorkerGroup": "daskworkergroups",
    "DaskAutoscaler": "daskautoscalers",
}

FORBIDDEN, NOT_FOUND, CONFLICT = 403, 404, 409


class KubernetesFailed(EngineError):
    """Kubernetes is unreachable or refuses: (action, status, message)."""

    def __str__(self) -> str:
        what, status, words = self.args
        return f"Could not {what}: {status} {words}. {ADVICE.get(status, 'Try: kubectl get pods')}."


ADVICE: dict[int | str, str] = {
    FORBIDDEN: (
        "Ask an administrator of the namespace to bind the role to you: cohort-notebook "
        "for a cluster of a notebook, cohort-launcher for the nightly job "
        "(docs/how-to/kubernetes.md)"
    ),
    NOT_FOUND: (
        "Check that the namespace is the right one, and that Dask's operator "
        "(deploy/kubernetes/operator/install) and an overlay (kubectl apply -k "
        "deploy/kubernetes/overlays/cpu; gpu for GPU workers) are installed in it"
    ),
}
"""Next step for the user, by status."""


class NoKubernetes(EngineError):
    """No Kubernetes configuration was found: (reason,)."""

    def __str__(self) -> str:
        return (
            f"No Kubernetes cluster is known here: {self.args[0]}. Name its file in KUBECONFIG, or "
            "run this in a pod that has a service account; kubectl get pods must work."
        )


class OperatorSilent(EngineError):
    """The operator did not create an object: (object, seconds)."""

    def __str__(self) -> str:
        what, seconds = self.args
        return (
            f"Dask's operator created no {what} within {seconds:.0f} s. Check that it runs in this "
            "namespace: kubectl -n cohort logs deploy/dask-kubernetes-operator"
        )


class NotRemoved(EngineError):
    """An object was not deleted in time: (name, object, seconds)."""

    def __str__(self) -> str:
        name, what, seconds = self.args
        return (
            f"{what} of {name} was not deleted within {seconds:.0f} s. Check that Dask's operator "
            f"runs, then: kubectl delete daskjob,daskcluster {name}"
        )


class Api:
    """Kubernetes API with the permissions of a service account or a user.

    Parameters
    ----------
    client
        A client of the package ``kubernetes``.
    retry_s
        Period for which a request is retried without an answer, seconds.
    """

    def __init__(self, client: Any, namespace: str, retry_s: float = RETRY_S) -> None:
        from kubernetes.client import AppsV1Api, CoreV1Api, CustomObjectsApi

        self.namespace = namespace
        self._client = client
        self._retry_s = retry_s
        self.core = CoreV1Api(client)
        self.apps = AppsV1Api(client)
        self._custom = CustomObjectsApi(client)

    @classmethod
    def connect(cls, namespace: str) -> Api:
        """Connect as the pod's service account.

        Raises
        ------
        KubernetesFailed
            If this process does not run in a pod, or the pod has no token.
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
        """Call the client, with retries if there is no answer.

        Parameters
        ----------
        what
            Description of the action, for the error.
        passing
            A status that counts as success; None is then returned.

        Raises
        ------
        KubernetesFailed
        """
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        deadline = time.monotonic() + self._retry_s
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
        """Return an object of the client in Kubernetes' JSON form."""
        made: Object = self._client.sanitize_for_serialization(value)
        return made

    def templates(self, *names: str) -> Templates:
        """Return the pod specs of a cluster, e.g. of ``scheduler`` and ``worker``."""
        return {name: self._template(f"cohort-{name}") for name in names}

    def _template(self, name: str) -> Object:
        found = self.ask(
            f"read the pod template {name} of namespace {self.namespace}",
            self.core.read_namespaced_pod_template, name, self.namespace,
        )  # fmt: skip
        return self.plain(found.template.spec)

    # Dask's resources.

    def create(self, made: Object) -> bool:
        """Create an object; return False if one of that name exists."""
        kind = made["kind"]
        return self.ask(
            f"create {kind} {made['metadata']['name']}",
            self._custom.create_namespaced_custom_object, *self._place(kind), made,
            passing=CONFLICT,
        ) is not None  # fmt: skip

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object, or None if it does not exist."""
        found: Object | None = self.ask(
            f"read {kind} {name}",
            self._custom.get_namespaced_custom_object, *self._place(kind), name,
            passing=NOT_FOUND,
        )  # fmt: skip
        return found

    def scale(self, kind: str, name: str, replicas: int) -> None:
        """Set the number of workers of a group."""
        change = {"spec": {"worker": {"replicas": replicas}}}
        self.ask(
            f"scale {kind} {name}",
            self._custom.patch_namespaced_custom_object, *self._place(kind), name, change,
        )  # fmt: skip

    def delete(self, kind: str, name: str) -> None:
        """Delete an object if it exists, and wait until it is gone.

        Raises
        ------
        NotRemoved
            If it still exists after `REMOVE_S`.
        """
        self.ask(
            f"delete {kind} {name}",
            self._custom.delete_namespaced_custom_object, *self._place(kind), name,
            passing=NOT_FOUND,
        )  # fmt: skip
        self.until(lambda: self.get(kind, name) is None, name, f"The {kind}", REMOVE_S)

    def _place(self, kind: str) -> tuple[str, str, str, str]:
        return GROUP, VERSION, self.namespace, PLURALS[kind]

    # Pods.

    def pods(self, cluster: str, component: str | None = None) -> list[Any]:
        """Return the pods of a cluster, or of one component; the runner is a component too."""
        also = f",dask.org/component={component}" if component else ""
        found: list[Any] = self.ask(
            "list pods",
            self.core.list_namespaced_pod, self.namespace,
            label_selector=f"dask.org/cluster-name={cluster}{also}",
        ).items  # fmt: skip
        return found

    def until(self, gone: Callable[[], bool], name: str, what: str, within_s: float) -> None:
        """Wait until something is gone.

        Raises
        ------
        NotRemoved
        """
        deadline = time.monotonic() + within_s
        while not gone():
            if time.monotonic() > deadline:
                raise NotRemoved(name, what, within_s)
            time.sleep(POLL_S)


def why_waiting(pod: Object) -> str:
    """Return the reason why a pod does not run yet, as Kubernetes states it.

    Examples
    --------
    >>> why_waiting({"status": {"phase": "Pending", "containerStatuses": [
    ...     {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}})
    'ImagePullBackOff no such image'
    """
    status = pod["status"]
    for container in status.get("containerStatuses", ()):
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating"):
            return f"{waiting['reason']} {waiting.get('message', '')}".strip()
    for condition in status.get("conditions", ()):
        if condition.get("status") == "False" and condition.get("message"):
            return str(condition["message"])
    return str(status.get("phase"))


def _words(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
