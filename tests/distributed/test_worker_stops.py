"""Fault 6: a worker stops (SIGSTOP) beyond its time to live, and writes after its work was
redone."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from distributed import Client

from engine.execution.workers import workers_of
from tests.distributed.conftest import IMAGES, Lab, Right
from tests.distributed.invariants import check_catalog_once, check_files
from tests.distributed.processes import Cluster, Driver, is_alive, kill, wait_for
from tests.distributed.test_driver_dies import catalogued

EARLY_S, GONE_S = 6.0, 16.0
"""Times at which a stopped worker continues, seconds: before and after the scheduler drops it
at ten."""

TURNS = [(what, early) for what in ("part", "shard", "table") for early in (False, True, True)]


def _stopped(cluster: Cluster, driver: Driver) -> list[int]:
    """Return the stopped worker; an empty list if the driver came to its end."""
    there = [psutil.Process(pid) for pid in cluster.workers()]
    found = [process.pid for process in there if process.status() == psutil.STATUS_STOPPED]
    return found or ([] if driver.poll() is None else [driver.pid])


def _is_known(cluster: Cluster, pid: int) -> bool:
    """Return whether the scheduler counts a process among its workers."""
    with Client(cluster.address, set_as_default=False) as client:
        known = {int(address.rpartition(":")[2]) for address in workers_of(client)}
    try:
        sockets = psutil.Process(pid).net_connections("tcp")
    except psutil.NoSuchProcess:
        return False
    return any(socket.laddr.port in known for socket in sockets if socket.status == "LISTEN")


@pytest.mark.faults
@pytest.mark.fault(6, "worker stopped past its time to live, then writing")
@pytest.mark.parametrize(("what", "early"), TURNS)
def test_a_worker_writes_too_late(
    empty_lab: Lab,
    template: tuple[Path, Right],
    rng: random.Random,
    tmp_path: Path,
    environment: dict[str, str],
    what: str,
    early: bool,
) -> None:
    lab = empty_lab
    marker = tmp_path / "stop.once"
    settings = {
        # On a busy machine a worker that is well may be silent for longer than Dask's least, five
        # seconds; without a nanny nobody starts it again, and no worker would be left.
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "10s",
        "STOP_AT": what,
        "STOP_ONCE": str(marker),
    }
    if what != "shard":
        assert lab.start_ingest(threads=2).wait().code == 0
    preload = ("--preload", "tests.distributed.stopping")
    # A nanny would end a worker that does not answer: nobody would write late.
    lab.cluster = Cluster(
        tmp_path / "cluster",
        environment,
        workers=3,
        options=preload,
        nanny=False,
        settings=settings,
    )
    try:
        if what == "shard":
            driver = lab.start_ingest(commit_s=0.2)
        else:
            # Where it goes on early, the others still work.
            driver = lab.start("--pause-s", "0.4" if early else "0.02", commit_s=0.2)
        (victim,) = wait_for(lambda: _stopped(lab.cluster, driver), "a worker that stops")  # type: ignore[arg-type]
        assert victim != driver.pid
        if early:
            time.sleep(rng.uniform(EARLY_S, GONE_S))
            kill(victim, signal.SIGCONT)
        ended = driver.wait()
        assert ended.code == 0, ended.err
        kill(victim, signal.SIGCONT)
        outcome = marker.with_suffix(".outcome")
        # It may come to the next of its tasks before it learns that the scheduler gave it up, and
        # then ends; one that went on in time, and wrote, stays a worker.
        wait_for(
            lambda: not is_alive(victim) or (outcome.exists() and _is_known(lab.cluster, victim)),
            "the end of the late worker",
        )
        print(f"late: {outcome.read_text() if outcome.exists() else 'ended before it wrote'}")
        if what == "shard":
            check_catalog_once(lab.place, IMAGES)
            assert catalogued(lab.place) == catalogued(template[0])
            check_files(lab.place)
            assert lab.run().code == 0
        else:
            assert ended.run["published"] == IMAGES
            assert ended.run["failed"] == 0
        lab.check()
    finally:
        lab.cluster.close()
