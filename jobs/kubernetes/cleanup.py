"""Cleanup of a nightly job's objects, in an order that loses no results."""

from __future__ import annotations

from typing import Any

from engine.execution.kubernetes.api import NOT_FOUND, REMOVE_S, Api
from jobs.kubernetes.nightly_job import Night


def delete_job(api: Api, night: Night) -> None:
    """Delete all objects of a night: first the runner, which commits its results while workers run.

    Raises
    ------
    NotRemoved
        If an object still exists after its pods' grace period.
    """
    runner = api.ask(
        "delete the runner",
        api.core.delete_namespaced_pod, night.runner, api.namespace, passing=NOT_FOUND,
    )  # fmt: skip
    if runner is not None:
        api.until(
            lambda: night.runner not in [pod.metadata.name for pod in api.pods(night.name)],
            night.name, "The runner", REMOVE_S + _grace_s(runner),
        )  # fmt: skip
    for kind, name in (
        ("DaskAutoscaler", night.name),
        ("DaskWorkerGroup", night.gpu_group_name),
        ("DaskJob", night.name),
    ):
        api.delete(kind, name)
    grace_s = max((_grace_s(pod) for pod in api.pods(night.name)), default=0.0)
    api.until(lambda: not api.pods(night.name), night.name, "A pod", REMOVE_S + grace_s)


def _grace_s(pod: Any) -> float:
    return float(pod.spec.termination_grace_period_seconds or 30)
