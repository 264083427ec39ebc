"""Scaling of a night's workers: CPU workers by load, GPU workers by the plan."""

from __future__ import annotations

import math
import sys
import time

from engine.errors import EngineError
from engine.execution.kubernetes.api import Api
from engine.execution.kubernetes.manifests import Templates
from jobs.kubernetes.nightly_job import NightlyJob

PLAN_EVERY_S = 30.0
"""Interval at which the plan is updated while a night runs, seconds."""


class WorkerScaler:
    """Controller for the number of a night's workers.

    The scheduler decides on CPU workers within their bounds (a DaskAutoscaler). GPU workers follow
    the plan's work for operations that need a GPU. They are started with such work, added with
    more, never removed one by one (the operator would retire workers of any group), and removed
    together when it is done. While there are GPU workers, there is no autoscaler.

    Parameters
    ----------
    units_per_worker
        Units of work that justify one more GPU worker.
    """

    def __init__(
        self, night: NightlyJob, api: Api, templates: Templates, cohort: str, units_per_worker: int
    ) -> None:
        self._night, self._api, self._templates = night, api, templates
        self._cohort = cohort
        self._units_per_worker = units_per_worker
        self._gpus = 0
        self._adaptive = False
        self._planned = -math.inf

    def reconcile(self) -> None:
        """Reconcile the actual number of workers with the desired one."""
        if self._api.get("DaskCluster", self._night.name) is None:
            return  # not created yet, or already deleted
        if self._night.gpu_workers_max and time.monotonic() - self._planned > PLAN_EVERY_S:
            self._planned = time.monotonic()
            self._set_gpus(gpu_workers(self._gpu_units(), self._units_per_worker, self._night))
        if not self._gpus and not self._adaptive and self._has_bounds:
            self._api.create(self._night.autoscaler())
            self._adaptive = True

    @property
    def _has_bounds(self) -> bool:
        return self._night.workers_max > self._night.workers_min

    def _set_gpus(self, wanted: int) -> None:
        if wanted and not self._gpus:
            self._api.delete("DaskAutoscaler", self._night.name)
            self._adaptive = False
            if not self._api.create(self._night.gpu_group(self._templates, wanted)):
                self._api.scale("DaskWorkerGroup", self._night.gpu_group_name, wanted)
        elif wanted > self._gpus:
            self._api.scale("DaskWorkerGroup", self._night.gpu_group_name, wanted)
        elif self._gpus and not wanted:
            self._api.delete("DaskWorkerGroup", self._night.gpu_group_name)
        else:
            return
        self._gpus = wanted
        print(f"GPU workers: {wanted}", file=sys.stderr, flush=True)

    def _gpu_units(self) -> int:
        """Return the number of units that need a GPU, by the current plan."""
        import engine
        from engine.runs.plan import pack_units

        try:
            cohort = engine.open(self._cohort)
            asking = [each for each in cohort.declared() if each.resources.get("GPU")]
            return sum(
                len(pack_units(cohort.plan(each).items, self._night.gpu_workers_max))
                for each in asking
            )
        except EngineError as error:
            # The runner meets the same error, and reports it with its exit code.
            print(f"Can't plan for GPUs: {error}", file=sys.stderr, flush=True)
            return 0


def gpu_workers(units: int, units_per_worker: int, night: NightlyJob) -> int:
    """Return the number of GPU workers that an amount of work justifies.

    Examples
    --------
    >>> night = NightlyJob("night", "uid", "cohort", 1, 1, gpu_workers_max=4)
    >>> [gpu_workers(units, 50, night) for units in (0, 1, 50, 51, 1000)]
    [0, 1, 1, 2, 4]
    """
    return min(night.gpu_workers_max, math.ceil(units / units_per_worker))
