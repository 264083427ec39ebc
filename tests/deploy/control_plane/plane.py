"""Control plane of the tests: start, stop, and administrator access."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.deploy.control_plane.node import NODE
from tests.deploy.control_plane.pod import API_PORT, GATEWAY
from tests.deploy.manifests import KUBERNETES, REPOSITORY, Manifest, program

T = TypeVar("T")

ADMINISTRATOR = "administrators-token"
VISITOR = "visitors-token"
"""Tokens of an administrator, and of a user without permissions, unless a role is bound."""

CONTROLLERS = (
    "deployment,replicaset,garbagecollector,job,cronjob,namespace,serviceaccount,"
    "serviceaccount-token,endpoint,disruption,ttl-after-finished,podgc,resourcequota"
)

START_S = 150.0

OLDER = {"CronJob": "batch/v1beta1", "PodDisruptionBudget": "policy/v1beta1"}
"""API versions of Kubernetes 1.20 that differ, with the same fields except these."""

YOUNGER_FIELDS = {"timeZone", "podFailurePolicy"}


def wait_for(condition: Callable[[], T], what: str, timeout_s: float = START_S) -> T:
    """Wait for a condition and return its value."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come about within {timeout_s:.0f} s")
        time.sleep(0.2)
    return found


def older(value: Any) -> Any:
    """Return a manifest in the API versions of Kubernetes 1.20."""
    if isinstance(value, list):
        return [older(each) for each in value]
    if not isinstance(value, dict):
        return value
    made = {k: older(v) for k, v in value.items() if k not in YOUNGER_FIELDS}
    if made.get("kind") in OLDER and "apiVersion" in made:
        made["apiVersion"] = OLDER[made["kind"]]
    return made


class ControlPlane:
    """Control plane in this process' own network (see ``make deploy-test``).

    Parameters
    ----------
    programs
        Folder of kube-apiserver and kube-controller-manager.
    folder
        New folder for all output.
    environment, seen
        Contents of an image: variables, and folders in addition to this repository.
    """

    def __init__(
        self, programs: Path, folder: Path, environment: dict[str, str], seen: list[Path]
    ) -> None:
        self.folder = folder
        self._programs = programs
        self._image = {"environment": environment, "seen": [str(path) for path in seen]}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._logs = folder / "logs"
        self._logs.mkdir(parents=True)
        self.kubeconfig = folder / "kubeconfig"

    def start(self) -> None:
        """Start it, and wait for its node."""
        self._make_network()
        self._make_certificates()
        etcd = f"http://{GATEWAY}:2379"
        peer = f"http://{GATEWAY}:2380"
        self._run("etcd", "etcd", "--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync",
                  f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}",
                  f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                  f"--initial-cluster=default={peer}")  # fmt: skip
        key = str(self.folder / "tls.key")
        self._run("apiserver", str(self._programs / "kube-apiserver"), f"--etcd-servers={etcd}",
                  f"--bind-address={GATEWAY}", f"--advertise-address={GATEWAY}",
                  f"--secure-port={API_PORT}", f"--tls-cert-file={self.folder / 'tls.crt'}",
                  f"--tls-private-key-file={key}", f"--cert-dir={self.folder}",
                  f"--token-auth-file={self.folder / 'tokens.csv'}", "--authorization-mode=RBAC",
                  f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
                  "--service-account-issuer=https://kubernetes.default.svc",
                  "--service-cluster-ip-range=10.96.0.0/16", "--endpoint-reconciler-type=none",
                  "--kubelet-preferred-address-types=InternalIP",
                  "--enable-admission-plugins=OwnerReferencesPermissionEnforcement")  # fmt: skip
        wait_for(lambda: self.kubectl("get", "--raw=/readyz", check=False) == "ok", "API server")
        self._run("controllers", str(self._programs / "kube-controller-manager"),
                  f"--kubeconfig={self.kubeconfig}", f"--service-account-private-key-file={key}",
                  f"--bind-address={GATEWAY}", "--port=0", "--leader-elect=false",
                  f"--controllers={CONTROLLERS}")  # fmt: skip
        os.environ["NODE_IMAGE"] = json.dumps(self._image)
        self._run("node", sys.executable, "-m", "tests.deploy.control_plane.node",
                  str(self.folder), ADMINISTRATOR)  # fmt: skip
        wait_for(lambda: self.kubectl("get", "node", NODE, check=False), "the node")

    def _make_network(self) -> None:
        for command in (
            "mkdir -p /run/netns",
            "mount -t tmpfs tmpfs /run/netns",  # names of networks end with this process
            "ip link set lo up",
            "ip link add pods type bridge",
            f"ip addr add {GATEWAY}/16 dev pods",
            "ip link set pods up",
        ):
            subprocess.run(command.split(), check=True)

    def _make_certificates(self) -> None:
        folder = self.folder
        subprocess.run([KUBERNETES / "certificates", folder], check=True)
        # The same authority, with names of the API server.
        subprocess.run(
            "openssl req -new -key tls.key -subj /CN=kube-apiserver | openssl x509 -req -CA ca.crt "
            "-CAkey ca.key -CAcreateserial -days 1 -out tls.crt -extfile "
            f"<(printf 'subjectAltName=IP:{GATEWAY},DNS:kubernetes.default.svc')",
            shell=True, executable="/bin/bash", check=True, cwd=folder, capture_output=True,
        )  # fmt: skip
        (folder / "tokens.csv").write_text(
            f'{ADMINISTRATOR},admin,1,"system:masters"\n{VISITOR},visitor,2\n'
        )
        self.kubeconfig.write_text(self.configuration(ADMINISTRATOR))

    def configuration(self, token: str, namespace: str = "cohort") -> str:
        """Return a kubeconfig."""
        return yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": f"https://{GATEWAY}:{API_PORT}",
                "certificate-authority": str(self.folder / "ca.crt"),
            }}],
            "users": [{"name": "c", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {
                "cluster": "c", "user": "c", "namespace": namespace,
            }}],
        })  # fmt: skip

    def _run(self, name: str, *command: str) -> None:
        with (self._logs / name).open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY
                )
            )

    def stop(self) -> None:
        """Stop it, with the node's containers."""
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        """Run kubectl, and return its output."""
        ran = subprocess.run(
            [program("kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=given, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if check and ran.returncode:
            raise RuntimeError(f"kubectl {' '.join(arguments)}: {ran.stderr}")
        return ran.stdout if not ran.returncode else ""

    def apply(self, manifests: list[Manifest]) -> None:
        """Apply manifests."""
        text = "---\n".join(yaml.safe_dump(older(each)) for each in manifests)
        self.kubectl("apply", "--validate=false", "-f", "-", given=text)

    def get(self, *arguments: str) -> Any:
        """Return an object, or None if it does not exist."""
        text = self.kubectl("get", *arguments, "-o", "json", check=False)
        return json.loads(text) if text else None

    def list(self, *arguments: str) -> list[Manifest]:
        """Return objects."""
        found = self.get(*arguments)
        return [] if found is None else list(found["items"])

    def log(self, pod: str) -> str:
        """Return a pod's log, also after its removal."""
        files = sorted((self.folder / "pods" / pod).glob("*.log"))
        return "\n".join(file.read_text(errors="replace") for file in files)


def fetch(url: str) -> str:
    """Return a page of a pod."""
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())
