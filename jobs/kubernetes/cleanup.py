"""Cleanup of a nightly job's objects, in an order that loses no results."""

from __future__ import annotations

from engine.execution.kubernetes.api import NOT_FOUND, REMOVE_S, Api
from engine.execution.kubernetes.manifests import Object
from jobs.kubernetes.nightly_job import NightlyJob


def delete_job(api: Api, night: NightlyJob) -> None:
    """Delete all objects of a night: first the runner, which commits its results while workers run.

    Raises
    ------
    NotRemoved
        If an object still exists after its pods' grace period.
    """

    def pods() -> list[Object]:
        return api.of_cluster("Pod", night.name)

    runner = api.request("delete the runner", "DELETE", "Pod", night.runner, passing=NOT_FOUND)
    if runner is not None:
        api.until(
            lambda: night.runner not in [pod["metadata"]["name"] for pod in pods()],
            night.name, "The runner", REMOVE_S + _grace_s(runner),
        )  # fmt: skip
    for kind, name in (
        ("DaskAutoscaler", night.name),
        ("DaskWorkerGroup", night.gpu_group_name),
        ("DaskJob", night.name),
    ):
        api.delete(kind, name)
    grace_s = max((_grace_s(pod) for pod in pods()), default=0.0)
    api.until(lambda: not pods(), night.name, "A pod", REMOVE_S + grace_s)


def _grace_s(pod: Object) -> float:
    return float(pod.get("spec", {}).get("terminationGracePeriodSeconds") or 30)
