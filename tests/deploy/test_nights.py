"""Nights on a real control plane, with the real operator and our own commands."""

from __future__ import annotations

import pytest

from tests.deploy.control_plane.plane import fetch, wait_for
from tests.deploy.nights import Cluster

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]


def test_the_cronjob_fires_and_nothing_is_left(cluster: Cluster) -> None:
    cluster.begin("circles", radius_px=[4, 8])
    cluster.configure()
    job = cluster.cron_fires()
    scheduler = cluster.running(job, "scheduler")
    wait_for(lambda: len(cluster.pods(job, "worker")) == 2, "two workers")
    metrics = fetch(f"http://{scheduler['status']['podIP']}:8787/metrics")
    assert "dask_scheduler_workers" in metrics
    night = cluster.wait(job)
    assert night.code == 0, night.err
    assert night.summary
    cluster.check()
    assert (cluster.place / "tables/circles.parquet").exists()
