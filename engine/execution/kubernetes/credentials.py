"""Credentials for the Kubernetes API: of a pod's service account or of a kubeconfig, by kr8s."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EngineError, MissingExtra
from engine.execution.kubernetes.manifests import Object

if TYPE_CHECKING:
    import httpx

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Folder of a pod's service account."""

NAMESPACE = "cohort"
"""Default namespace of deploy/kubernetes."""

REQUEST_S = 30
"""Timeout of one request, seconds."""


class NoKubernetes(EngineError):
    """No Kubernetes configuration was found: (reason,)."""

    def __str__(self) -> str:
        return (
            f"No Kubernetes cluster is known here: {self.args[0]}. Name its file in KUBECONFIG, or "
            "run this in a pod that has a service account; kubectl get pods must work."
        )


class Credentials:
    """Server and identity, which may be renewed: tokens rotate.

    Parameters
    ----------
    kubeconfig
        Paths of kubeconfigs, separated by colons; None for the service account of this pod.

    Attributes
    ----------
    session
        A client of kr8s, which has no connection yet.

    Raises
    ------
    MissingExtra
        If the packages of the extra ``kubernetes`` are not installed.
    """

    def __init__(self, kubeconfig: str | None) -> None:
        try:
            import kr8s
        except ImportError:
            raise MissingExtra("kr8s", "kubernetes", "for clusters on Kubernetes") from None
        self.in_pod = kubeconfig is None
        # kr8s prefers a kubeconfig to the service account, unless the named file does not exist.
        # Its factory would add a request, and return another user's client from its cache.
        self.session = kr8s.Api(
            bypass_factory=True, kubeconfig=kubeconfig or str(ACCOUNT / "no-kubeconfig")
        )

    def authenticate(self) -> httpx.Client:
        """Return an HTTP client with the current credentials.

        Raises
        ------
        NoKubernetes
            If there are no usable ones.
        """
        import httpx

        auth = self.session.auth
        try:
            self.session.reauthenticate()
            return httpx.Client(
                base_url=auth.server, verify=self._tls(), proxy=auth.proxy, timeout=REQUEST_S,
                headers={"Authorization": f"Bearer {auth.token.strip()}"} if auth.token else {},
                trust_env=not self.in_pod,  # no proxy is between a pod and its API server
            )  # fmt: skip
        except Exception as error:  # a kubeconfig can be wrong in any way
            why = " ".join(str(error).split()).rstrip(".")
            if not isinstance(error, (ValueError, OSError)):
                why = f"its configuration can't be used ({type(error).__name__} {why})"
            raise NoKubernetes(why) from error

    def default_namespace(self) -> str:
        """Return the namespace of the pod or of the kubeconfig's context, else `NAMESPACE`."""
        if self.in_pod:
            return (ACCOUNT / "namespace").read_text().strip()
        return self._context().get("namespace") or NAMESPACE  # kr8s' own default is "default"

    def _context(self) -> Object:
        auth = self.session.auth
        context: Object = auth.kubeconfig.get_context(auth.active_context)
        return context

    def _tls(self) -> ssl.SSLContext:
        # kr8s makes it in an event loop; a notebook's is running, and others may be closed.
        auth = self.session.auth
        cluster = {} if self.in_pod else auth.kubeconfig.get_cluster(self._context()["cluster"])
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if cluster.get("insecure-skip-tls-verify"):
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        elif auth.server_ca_file:
            tls.load_verify_locations(auth.server_ca_file)
        else:
            tls.load_default_certs()
        if auth.client_cert_file:
            tls.load_cert_chain(auth.client_cert_file, auth.client_key_file)
        return tls


def in_pod() -> bool:
    """Return whether this process runs in a pod that has a token."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and (ACCOUNT / "token").is_file()
