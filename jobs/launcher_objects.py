"""What the launcher asks Kubernetes for: plain values, made of a namespace's PodTemplates."""

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
"""Characters of a cluster's name at most: the operator appends to it, and a name ends at 63."""

Object = dict[str, Any]
Templates = Mapping[str, Object]
"""Pod specs by what they are for: scheduler, worker, runner, and worker-gpu where there is one."""


@dataclass(frozen=True, slots=True)
class Night:
    """One run: its name, who owns what it makes, and how large it may grow.

    Attributes
    ----------
    name, owner_uid, namespace
        Of the Job that this is; the DaskJob has the same name.
    workers_min, workers_max
        Bounds of the CPU workers.
    gpu_workers_max
        GPU workers at most; 0 for none.
    """

    name: str
    owner_uid: str
    namespace: str
    workers_min: int
    workers_max: int
    gpu_workers_max: int = 0

    def __post_init__(self) -> None:
        """Check the name and the bounds."""
        if len(self.name) > NAME_MOST or "." in self.name:
            raise ParameterError(
                "JOB_NAME", self.name, f"at most {NAME_MOST} characters without dots"
            )
        if self.workers_min > self.workers_max:
            raise ParameterError(
                "WORKERS_MIN", self.workers_min, f"at most WORKERS_MAX ({self.workers_max})"
            )

    @property
    def address(self) -> str:
        """Where the scheduler answers."""
        return f"tls://{self.name}-scheduler.{self.namespace}.svc:{SCHEDULER_PORT}"

    @property
    def runner(self) -> str:
        """Name of the runner's pod, as the operator gives it."""
        return f"{self.name}-runner"

    def job(self, templates: Templates) -> Object:
        """Return the DaskJob: cluster and runner, owned by the Job."""
        return {
            **self._meta("DaskJob", self.name),
            "spec": {
                "cluster": {
                    "spec": {
                        "worker": {
                            "replicas": self.workers_min,
                            "spec": self._pod(templates["worker"]),
                        },
                        "scheduler": {
                            "spec": self._pod(templates["scheduler"]),
                            "service": self._service(),
                        },
                    }
                },
                "job": {"spec": self._pod(templates["runner"])},
            },
        }

    def gpu_group(self, templates: Templates, replicas: int) -> Object:
        """Return the group of GPU workers."""
        return {
            **self._meta("DaskWorkerGroup", self.gpu_group_name),
            "spec": {
                "cluster": self.name,
                "worker": {"replicas": replicas, "spec": self._pod(templates["worker-gpu"])},
            },
        }

    @property
    def gpu_group_name(self) -> str:
        """Name of the group of GPU workers."""
        return f"{self.name}-gpu"

    def autoscaler(self) -> Object:
        """Return the autoscaler of the CPU workers. Never made beside a GPU group.

        Scaling down, the operator retires workers of any group.
        """
        return {
            **self._meta("DaskAutoscaler", self.name),
            "spec": {
                "cluster": self.name,
                "minimum": self.workers_min,
                "maximum": self.workers_max,
            },
        }

    def _meta(self, kind: str, name: str) -> Object:
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": self.name,
            "uid": self.owner_uid,
            "controller": False,
            "blockOwnerDeletion": False,
        }
        return {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": self.namespace,
                "labels": {"app.kubernetes.io/part-of": "cohort"},
                "ownerReferences": [owner],
            },
        }

    def _service(self) -> Object:
        return {
            "type": "ClusterIP",
            # The name is in the selector: another run's scheduler is never meant.
            "selector": {"dask.org/cluster-name": self.name, "dask.org/component": "scheduler"},
            "ports": [
                {
                    "name": "tcp-comm",
                    "protocol": "TCP",
                    "port": SCHEDULER_PORT,
                    "targetPort": "tcp-comm",
                },
                {
                    "name": "http-dashboard",
                    "protocol": "TCP",
                    "port": DASHBOARD_PORT,
                    "targetPort": "http-dashboard",
                },
            ],
        }

    def _pod(self, spec: Object) -> Object:
        made = copy.deepcopy(spec)
        # The operator would say tcp://; it leaves alone what is there.
        for container in made["containers"]:
            container.setdefault("env", []).insert(
                0, {"name": "DASK_SCHEDULER_ADDRESS", "value": self.address}
            )
        return made
