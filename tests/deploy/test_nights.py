"""Nightly jobs on a real control plane, with the real operator and our own commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.deploy.control_plane.plane import fetch, wait_for
from tests.deploy.manifests import KUBERNETES
from tests.deploy.nights import Cluster
from tests.distributed.invariants import result_rows

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

CLIENT = """
import sys
from distributed import Client
client = Client(sys.argv[1], timeout=5)
print(client.submit(print, "a task ran").result())
"""

PAUSE_S = 0.5
"""Duration of the test operation for an image: enough time to kill something."""


def run_client(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CLIENT, address],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def tls(folder: Path) -> dict[str, str]:
    prefix = "DASK_DISTRIBUTED__COMM__TLS__"
    return {
        f"{prefix}CA_FILE": str(folder / "ca.crt"),
        f"{prefix}CLIENT__CERT": str(folder / "tls.crt"),
        f"{prefix}CLIENT__KEY": str(folder / "tls.key"),
    }


@pytest.mark.short
def test_the_cronjob_fires_and_nothing_is_left(
    cluster: Cluster, certificates: Path, tmp_path: Path
) -> None:
    cluster.begin("circles", radius_px=[4, 8])
    cluster.configure()
    job = cluster.cron_fires()
    scheduler = cluster.running(job, "scheduler")
    wait_for(lambda: len(cluster.pods(job, "worker")) == 2, "two workers")
    pod_ip = scheduler["status"]["podIP"]
    assert "dask_scheduler_workers" in fetch(f"http://{pod_ip}:8787/metrics")
    # Fault 24: whoever has no certificate of this authority is refused.
    subprocess.run([KUBERNETES / "certificates", tmp_path], check=True)
    for address, environment in (
        (f"tcp://{pod_ip}:8786", {}),
        (f"tls://{pod_ip}:8786", tls(tmp_path)),
    ):
        refused = run_client(address, **environment)
        assert refused.returncode != 0
        assert "a task ran" not in refused.stdout
    assert run_client(f"tls://{pod_ip}:8786", **tls(certificates)).returncode == 0
    night = cluster.wait(job)
    assert night.code == 0, night.err
    assert night.summary
    cluster.check()
    table = pd.read_parquet(cluster.place / "tables/circles.parquet")
    assert len(table) > 20
    rows = result_rows(cluster.place, operation="circles")
    assert len({row["worker"] for row in rows}) == 2
    for pod in ("scheduler", "worker"):
        for log in (cluster.plane.folder / "pods").glob(f"{job}-*{pod}*/*.log"):
            assert "a task ran" not in log.read_text().replace("a task ran\n", "", 1)


@pytest.mark.parametrize(("allowed", "code"), [(0, 3), (1, 0)])
def test_a_poisoned_image_ends_as_max_failed_says(
    cluster: Cluster, allowed: int, code: int
) -> None:
    cluster.begin("probe")
    source = f"lab/{next(cluster.images.rglob('*.png')).relative_to(cluster.images)}"
    cluster.sick.write_text(json.dumps({source: "kill"}))
    cluster.configure(MAX_FAILED=allowed)
    night = cluster.wait(cluster.start())
    assert night.code == code, night.err
    cluster.check(failed=1)
    [bad] = [row for row in result_rows(cluster.place) if row["status"] == "failed"]
    assert bad["reason"] == "worker_crash"


def test_a_killed_worker_costs_nothing(cluster: Cluster) -> None:
    cluster.begin("probe", pause_s=PAUSE_S)
    cluster.configure()
    job = cluster.start()
    cluster.when_called(3)
    cluster.kill(cluster.running(job, "worker"))
    night = cluster.wait(job)
    assert night.code == 0, night.err
    cluster.check()


@pytest.mark.parametrize("part", ["scheduler", "job-runner"])
def test_a_killed_part_ends_truly_and_the_next_night_goes_on(cluster: Cluster, part: str) -> None:
    cluster.begin("probe", pause_s=PAUSE_S)
    cluster.configure()
    job = cluster.start()
    cluster.when_called(12)
    cluster.kill(cluster.running(job, part))
    night = cluster.wait(job)
    assert night.code in ((1,) if part == "job-runner" else (0, 1)), night.err
    if night.code:
        # With a cause that has a name: the runner's own, or the launcher's where that is gone.
        assert '"error": "SchedulerLost"' in night.out or "Error: The runner" in night.err
    committed, before = len(result_rows(cluster.place)), len(cluster.calls.all())
    again = cluster.wait(cluster.start())
    assert again.code == 0, again.err
    cluster.check()
    # Nothing that was committed is computed again, and all else is, once.
    images = len(list(cluster.images.rglob("*.png")))
    assert len(cluster.calls.all()) - before == images - committed


def test_a_second_attempt_of_the_same_job_goes_on(cluster: Cluster) -> None:
    cluster.begin("probe", pause_s=2 * PAUSE_S)
    cluster.configure()
    job = cluster.start(attempts=2)
    cluster.when_called(3)
    cluster.kill(cluster.running(job, "job-runner"))
    night = cluster.wait(job)
    assert night.code == 0, night.err
    assert len(cluster.launchers(job)) == 2
    cluster.check()


def test_a_launcher_that_dies_is_followed_by_one_that_watches(cluster: Cluster) -> None:
    cluster.begin("probe", pause_s=PAUSE_S)
    cluster.configure()
    job = cluster.start(attempts=3)
    cluster.when_called(8)
    [launcher] = cluster.launchers(job)
    cluster.kill(launcher)
    night = cluster.wait(job)
    assert night.code == 0, night.err
    assert f"{job} is there already" in night.err
    assert len(cluster.calls.all()) == len(list(cluster.images.rglob("*.png")))
    cluster.check()


def test_a_launcher_that_is_stopped_removes_everything(cluster: Cluster) -> None:
    cluster.begin("probe", pause_s=PAUSE_S)
    cluster.configure()
    job = cluster.start()
    cluster.when_called(8)
    [launcher] = cluster.launchers(job)
    cluster.plane.kubectl("delete", "job", job, "--cascade=foreground")
    cluster.check_gone()
    said = cluster.plane.log(launcher["metadata"]["name"])
    assert f"Stopped by {signal.SIGTERM.name}" in said
    # The runner was let commit what it had.
    assert len(result_rows(cluster.place)) >= 6
    assert cluster.wait(cluster.start()).code == 0
    cluster.check()


def test_gpu_workers_get_all_that_asks_for_one_and_only_that(cluster: Cluster) -> None:
    cluster.begin("probe_gpu", pause_s=PAUSE_S)
    toml = cluster.place / "cohort.toml"
    toml.write_text(toml.read_text() + "\n[operations.circles]\nradius_px = [4, 8]\n")
    cluster.configure("gpu", GPU_WORKERS_MAX=1, WORKERS_MIN=1, WORKERS_MAX=1)
    job = cluster.start()
    night = cluster.wait(job)
    assert night.code == 0, night.err
    cluster.check()
    on_gpu = {row["worker"] for row in result_rows(cluster.place, operation="probe_gpu")}
    on_cpu = {row["worker"] for row in result_rows(cluster.place, operation="circles")}
    assert on_gpu
    assert all(f"{job}-gpu-worker" in name for name in on_gpu)
    assert all(f"{job}-default-worker" in name for name in on_cpu)


def test_cpu_workers_follow_the_work_within_their_bounds(cluster: Cluster) -> None:
    least, most = 1, 3
    # The operator waits 15 s between two changes, and the first may be for the ingest: so there
    # is work for longer than that.
    cluster.begin("probe", pause_s=6 * PAUSE_S)
    source = f"lab/{max(cluster.images.rglob('*.png')).relative_to(cluster.images)}"
    cluster.sick.write_text(json.dumps({source: "slow"}))
    cluster.configure(WORKERS_MIN=least, WORKERS_MAX=most)
    job = cluster.start()
    seen: list[int] = []

    def shrunk() -> bool:
        count = len(cluster.pods(job, "worker"))
        if seen[-1:] != [count]:
            seen.append(count)
        return max(seen) > least and count == least

    wait_for(shrunk, "more workers, and then fewer", 180)
    night = cluster.wait(job)
    print("workers:", *seen)
    assert night.code == 0, night.err
    assert max(seen) == most
    cluster.check()
    # Shrinking took nothing from anybody.
    assert len(cluster.calls.all()) == len(list(cluster.images.rglob("*.png")))
