"""Manifests of a nightly job, its cluster and its runner, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ParameterError
from engine.execution.kubernetes.manifests import NAME_MOST, ClusterResources, Object, Templates


@dataclass(frozen=True, slots=True)
class NightlyJob:
    """One run: its name, the owner of its objects, and its size limits.

    Attributes
    ----------
    name, owner_uid, namespace
        Of the Job that runs this; the DaskJob has the same name.
    workers_min, workers_max
        Bounds of the CPU workers.
    gpu_workers_max
        Maximum GPU workers; 0 for none.
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
    def place(self) -> ClusterResources:
        """Name, namespace and owner of its cluster."""
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": self.name,
            "uid": self.owner_uid,
            "controller": False,
            "blockOwnerDeletion": False,
        }
        return ClusterResources(self.name, self.namespace, owner=owner)

    @property
    def runner(self) -> str:
        """Name of the runner's pod, as the operator gives it."""
        return f"{self.name}-runner"

    @property
    def gpu_group_name(self) -> str:
        """Name of the group of GPU workers."""
        return self.place.gpu_group_name

    def job(self, templates: Templates) -> Object:
        """Return the DaskJob: cluster and runner, owned by the Job."""
        place = self.place
        return {
            **place.meta("DaskJob", self.name),
            "spec": {
                "cluster": {"spec": place.spec(templates, self.workers_min)},
                "job": {"spec": place.pod(templates["runner"])},
            },
        }

    def gpu_group(self, templates: Templates, replicas: int) -> Object:
        """Return the group of GPU workers."""
        return self.place.gpu_group(templates, replicas)

    def autoscaler(self) -> Object:
        """Return the autoscaler of the CPU workers, within the night's bounds."""
        return self.place.autoscaler(self.workers_min, self.workers_max)
