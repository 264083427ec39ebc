"""Client for the Kubernetes API, for the launcher of nightly jobs and for notebook clusters."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any

from engine.errors import EngineError
from engine.execution.kubernetes.credentials import ACCOUNT, REQUEST_S, Credentials, in_pod
from engine.execution.kubernetes.manifests import GROUP, VERSION, Object, Templates

if TYPE_CHECKING:
    import httpx

REMOVE_S = 60.0
"""Timeout for the deletion of an object without dependents, seconds."""

POLL_S = 1.0

RETRY_S = 600.0
"""Period for which a nightly job retries a request, seconds: an upgrade of the API server takes
minutes, and the job continues without it."""

RETRIED = (429, 500, 502, 503, 504)

DASK = f"/apis/{GROUP}/{VERSION}"

RESOURCES = {
    "DaskCluster": (DASK, "daskclusters"),
    "DaskJob": (DASK, "daskjobs"),
    "DaskWorkerGroup": (DASK, "daskworkergroups"),
    "DaskAutoscaler": (DASK, "daskautoscalers"),
    "Deployment": ("/apis/apps/v1", "deployments"),
    "Pod": ("/api/v1", "pods"),
    "PodTemplate": ("/api/v1", "podtemplates"),
    "Secret": ("/api/v1", "secrets"),
}
"""Path of the API and plural, by kind."""

UNAUTHORIZED = 401
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
    """Kubernetes API in one namespace, with the permissions of a service account or a user.

    kr8s finds the credentials and forwards ports; requests are JSON over httpx, on which kr8s is
    built (docs/decisions/kubernetes.md).

    Parameters
    ----------
    namespace
        Namespace; if empty, that of the pod or of the kubeconfig's context, else `NAMESPACE`.
    kubeconfig
        Paths of kubeconfigs, separated by colons; None for the service account of this pod.
    retry_s
        Period for which a request is retried without an answer, seconds.

    Raises
    ------
    MissingExtra
        If the packages of the extra ``kubernetes`` are not installed.
    NoKubernetes
        If there are no usable credentials.
    """

    def __init__(
        self, namespace: str, kubeconfig: str | None = None, retry_s: float = RETRY_S
    ) -> None:
        self.credentials = Credentials(kubeconfig)
        self._http = self.credentials.authenticate()
        self.namespace = namespace or self.credentials.default_namespace()
        self._retry_s = retry_s

    @classmethod
    def connect(cls, namespace: str) -> Api:
        """Connect as the pod's service account.

        Raises
        ------
        KubernetesFailed
            If this process does not run in a pod, or the pod has no token.
        """
        if not in_pod():
            raise KubernetesFailed("connect from inside a pod", "no token", f"in {ACCOUNT}")
        return cls(namespace)

    def _send(
        self, method: str, path: str, *, stream: bool = False, **options: Any
    ) -> httpx.Response:
        """Send a request, and once more with new credentials if those in use have expired."""
        server = self.credentials.session.auth.tls_server_name
        options["extensions"] = {"sni_hostname": server} if server else {}
        http = self._http
        response = http.send(http.build_request(method, path, **options), stream=stream)
        if response.status_code == UNAUTHORIZED:
            response.close()
            http = self._http = self.credentials.authenticate()
            response = http.send(http.build_request(method, path, **options), stream=stream)
        return response

    def request(
        self,
        what: str,
        method: str,
        kind: str,
        name: str = "",
        *,
        passing: int | None = None,
        **options: Any,
    ) -> Object | None:
        """Send a request; repeat it if the server does not answer.

        Parameters
        ----------
        what
            Description of the action, for the error.
        name
            Name of the object; if empty, the request is for all objects of the kind.
        passing
            A status that counts as success; None is then returned.
        options
            Options of httpx: ``json``, ``params``, ``headers``.

        Raises
        ------
        KubernetesFailed
        """
        import httpx

        deadline = time.monotonic() + self._retry_s
        while True:
            try:
                response = self._send(method, self._path(kind, name), **options)
                if response.status_code == passing:
                    return None
                if response.is_success:
                    found: Object = response.json()
                    return found
                if response.status_code not in RETRIED or time.monotonic() > deadline:
                    raise _refusal(what, response)
            except (httpx.RequestError, ValueError) as error:
                if time.monotonic() > deadline:
                    raise KubernetesFailed(what, "no answer", type(error).__name__) from error
            time.sleep(POLL_S)

    def lines(
        self, what: str, kind: str, name: str = "", *, silence_s: float | None, **query: Any
    ) -> Generator[str, None, None]:
        """Yield the lines of a watch or a log as they come, without retries.

        Parameters
        ----------
        silence_s
            Maximum time without data, seconds; None for no limit.

        Raises
        ------
        KubernetesFailed
            If the request is refused, or the connection breaks.
        """
        import httpx

        try:
            response = self._send(
                "GET", self._path(kind, name), stream=True, params=query,
                timeout=httpx.Timeout(REQUEST_S, read=silence_s),
            )  # fmt: skip
            with closing(response):
                if response.is_error:
                    response.read()
                    raise _refusal(what, response)
                rest = b""
                for chunk in response.iter_bytes():  # iter_lines would also split at U+0085
                    *whole, rest = (rest + chunk).split(b"\n")
                    yield from (line.decode(errors="replace") for line in whole)
                if rest:
                    yield rest.decode(errors="replace")
        except httpx.RequestError as error:
            raise KubernetesFailed(what, "no answer", type(error).__name__) from error

    def _path(self, kind: str, name: str) -> str:
        base, plural = RESOURCES[kind]
        return f"{base}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def templates(self, *names: str) -> Templates:
        """Return the pod specs of a cluster, e.g. of ``scheduler`` and ``worker``."""
        return {name: self._template(f"cohort-{name}") for name in names}

    def _template(self, name: str) -> Object:
        what = f"read the pod template {name} of namespace {self.namespace}"
        found = self.request(what, "GET", "PodTemplate", name)
        assert found is not None  # no status passes
        spec: Object = found["template"]["spec"]
        return spec

    def create(self, made: Object) -> bool:
        """Create an object; return False if one of that name exists."""
        kind = made["kind"]
        what = f"create {kind} {made['metadata']['name']}"
        return self.request(what, "POST", kind, json=made, passing=CONFLICT) is not None

    def get(self, kind: str, name: str) -> Object | None:
        """Return an object, or None if it does not exist."""
        return self.request(f"read {kind} {name}", "GET", kind, name, passing=NOT_FOUND)

    def find(self, kind: str, **query: str) -> tuple[list[Object], str]:
        """Return the selected objects of a kind, and the version at which they were listed."""
        found = self.request(f"list {RESOURCES[kind][1]}", "GET", kind, params=query)
        assert found is not None  # no status passes
        return found["items"], found["metadata"]["resourceVersion"]

    def scale(self, kind: str, name: str, replicas: int) -> None:
        """Set the number of workers of a group."""
        self.request(
            f"scale {kind} {name}", "PATCH", kind, name,
            json={"spec": {"worker": {"replicas": replicas}}},
            headers={"Content-Type": "application/merge-patch+json"},
        )  # fmt: skip

    def delete(self, kind: str, name: str) -> None:
        """Delete an object if it exists, and wait until it is gone.

        Raises
        ------
        NotRemoved
            If it still exists after `REMOVE_S`.
        """
        self.request(f"delete {kind} {name}", "DELETE", kind, name, passing=NOT_FOUND)
        self.until(lambda: self.get(kind, name) is None, name, f"The {kind}", REMOVE_S)

    def of_cluster(self, kind: str, cluster: str, component: str | None = None) -> list[Object]:
        """Return the objects of a cluster, or of one component; the runner is a component too."""
        also = f",dask.org/component={component}" if component else ""
        return self.find(kind, labelSelector=f"dask.org/cluster-name={cluster}{also}")[0]

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


def _refusal(what: str, response: httpx.Response) -> KubernetesFailed:
    try:
        words = str(response.json()["message"])
    except (TypeError, ValueError, KeyError):
        words = response.reason_phrase
    return KubernetesFailed(what, response.status_code, words)
