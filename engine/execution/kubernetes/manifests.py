"""Manifests for Dask's operator: plain values, derived from a namespace's PodTemplates."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import ParameterError

GROUP = "kubernetes.dask.org"
VERSION = "v1"

SCHEDULER_PORT, DASHBOARD_PORT = 8786, 8787

NAME_MOST = 53
"""Maximum length of a cluster's name: the operator appends to it, and names end at 63 characters.
"""

MEMORY_SHARE = 0.875
"""Share of a container's memory that its worker may use, so that it acts before the kernel does."""

NEEDS_TLS = ("tls", "dask")
"""Volumes that TLS needs: certificates, and settings that name them."""

Object = dict[str, Any]
Templates = Mapping[str, Object]
"""Pod specs by purpose: scheduler, worker, runner, and worker-gpu if there is one."""


@dataclass(frozen=True, slots=True)
class ClusterResources:
    """Name, namespace and protocol of a Dask cluster.

    Attributes
    ----------
    protocol
        ``tls`` or ``tcp``.
    owner
        An ownerReference: deleting the owner deletes the created objects.
    """

    name: str
    namespace: str
    protocol: str = "tls"
    owner: Object | None = None

    def __post_init__(self) -> None:
        """Check the name."""
        if len(self.name) > NAME_MOST or "." in self.name:
            raise ParameterError(
                "name", self.name, f"at most {NAME_MOST} characters without dots"
            )  # fmt: skip

    @property
    def host(self) -> str:
        """Name of the scheduler's Service, as resolvable in all pods."""
        return f"{self.name}-scheduler.{self.namespace}.svc"

    @property
    def address(self) -> str:
        """Address of the scheduler."""
        return f"{self.protocol}://{self.host}:{SCHEDULER_PORT}"

    @property
    def group_name(self) -> str:
        """Name of the group of CPU workers, as the operator gives it."""
        return f"{self.name}-default"

    @property
    def gpu_group_name(self) -> str:
        """Name of the group of GPU workers."""
        return f"{self.name}-gpu"

    def spec(self, templates: Templates, workers: int) -> Object:
        """Return the spec of a cluster: scheduler and CPU workers."""
        return {
            "worker": {"replicas": workers, "spec": self.pod(templates["worker"])},
            "scheduler": {"spec": self.pod(templates["scheduler"]), "service": self._service()},
        }

    def cluster(self, templates: Templates, workers: int, idle_s: int) -> Object:
        """Return a cluster that the operator removes after the given idle time, seconds."""
        return {
            **self.meta("DaskCluster", self.name),
            "spec": {"idleTimeout": idle_s, **self.spec(templates, workers)},
        }

    def gpu_group(self, templates: Templates, replicas: int) -> Object:
        """Return the group of GPU workers."""
        return {
            **self.meta("DaskWorkerGroup", self.gpu_group_name),
            "spec": {
                "cluster": self.name,
                "worker": {"replicas": replicas, "spec": self.pod(templates["worker-gpu"])},
            },
        }

    def autoscaler(self, minimum: int, maximum: int) -> Object:
        """Return the autoscaler of the CPU workers. Never combine it with a GPU group.

        When it scales down, the operator retires workers of any group.
        """
        return {
            **self.meta("DaskAutoscaler", self.name),
            "spec": {"cluster": self.name, "minimum": minimum, "maximum": maximum},
        }

    def meta(self, kind: str, name: str) -> Object:
        """Return the common beginning of Dask's resources."""
        metadata: Object = {
            "name": name,
            "namespace": self.namespace,
            "labels": {"app.kubernetes.io/part-of": "cohort"},
        }
        if self.owner is not None:
            metadata["ownerReferences"] = [self.owner]
        return {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": metadata}

    def pod(self, spec: Object) -> Object:
        """Return a template's pod spec, with the scheduler's address."""
        made = copy.deepcopy(spec) if self.protocol == "tls" else without_tls(spec)
        # The operator would set tcp://; it keeps an existing value.
        for container in made["containers"]:
            container.setdefault("env", []).insert(
                0, {"name": "DASK_SCHEDULER_ADDRESS", "value": self.address}
            )
        return made

    def _service(self) -> Object:
        ports = {"tcp-comm": SCHEDULER_PORT, "http-dashboard": DASHBOARD_PORT}
        return {
            "type": "ClusterIP",
            # The selector contains the name, so it never matches another run's scheduler.
            "selector": {"dask.org/cluster-name": self.name, "dask.org/component": "scheduler"},
            "ports": [
                {"name": name, "protocol": "TCP", "port": port, "targetPort": name}
                for name, port in ports.items()
            ],
        }


def without_tls(spec: Object) -> Object:
    """Return a pod spec whose command uses tcp, without certificates."""
    made = copy.deepcopy(spec)
    made["volumes"] = [each for each in made["volumes"] if each["name"] not in NEEDS_TLS]
    for container in made["containers"]:
        container["volumeMounts"] = [
            each for each in container["volumeMounts"] if each["name"] not in NEEDS_TLS
        ]
        _set_flag(container["args"], "--protocol", "tcp")
    return made


def resized(spec: Object, threads: int | None, memory_bytes: int | None) -> Object:
    """Return a worker's pod spec of another size: flags, requests and limits agree.

    Parameters
    ----------
    threads
        Threads, and cores, of a worker; None leaves them unchanged.
    memory_bytes
        Memory of a worker; its container gets more, see `MEMORY_SHARE`. None leaves it unchanged.
    """
    made = copy.deepcopy(spec)
    [container] = made["containers"]
    arguments = container["args"]
    sizes: dict[str, str] = {}
    if threads is not None:
        sizes["cpu"] = str(threads)
        _set_flag(arguments, "--nthreads", str(threads))
        if arguments[arguments.index("--resources") + 1].startswith("CPU="):
            _set_flag(arguments, "--resources", f"CPU={threads}")
    if memory_bytes is not None:
        mebibytes = max(1, memory_bytes // 2**20)
        sizes["memory"] = f"{int(mebibytes / MEMORY_SHARE)}Mi"
        _set_flag(arguments, "--memory-limit", f"{mebibytes}MiB")
    for which in ("requests", "limits"):
        container["resources"][which].update(sizes)
    return made


def _set_flag(arguments: list[str], flag: str, value: str) -> None:
    arguments[arguments.index(flag) + 1] = value
