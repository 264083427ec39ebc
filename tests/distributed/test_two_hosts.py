"""Cluster of two hosts with TLS: work, intruders, and a cut link."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.conftest import Lab
from tests.distributed.invariants import result_rows
from tests.distributed.network_namespaces import Hosts, certificate_settings, two_hosts
from tests.distributed.processes import REPOSITORY, wait_for

CUT_S = 20.0

INTRUDER = """\
import sys
from distributed import Client
Client(sys.argv[1], timeout=3).submit(open, sys.argv[2], "w").result()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make certificates of two authorities, with the documented script."""
    made = tmp_path_factory.mktemp("two-hosts")
    for name in ("ours", "theirs"):
        subprocess.run([REPOSITORY / "deploy/kubernetes/certificates", made / name], check=True)
    (made / "intruder.py").write_text(INTRUDER)
    return made


@pytest.fixture(scope="module")
def hosts(folder: Path, environment: dict[str, str]) -> Iterator[Hosts]:
    settings = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    ours = certificate_settings(folder / "ours")
    with two_hosts(folder / "hosts", {**environment, **settings, **ours}) as made:
        made.start_cluster()
        yield made


def start_run(hosts: Hosts, lab: Lab, name: str, *argv: str) -> subprocess.Popen[bytes]:
    return hosts.start(
        "a", name, "cohort", "run", str(lab.place), "probe", "--calls", str(lab.calls.path), *argv,
        "--scheduler", hosts.scheduler,
    )  # fmt: skip


def test_both_hosts_work_and_intruders_do_not(hosts: Hosts, lab: Lab, folder: Path) -> None:
    # Fault 24, from the other host: no certificate, and one of another authority.
    marker = folder / "a-task-ran"
    theirs = certificate_settings(folder / "theirs", required=False)
    plain = {name: "" for name in theirs if "TLS" in name} | {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "False"
    }
    intruders = [
        hosts.start(
            "b", f"intruder-{n}", "python", str(folder / "intruder.py"), address, str(marker), **how
        )
        for n, (address, how) in enumerate(
            [(hosts.scheduler.replace("tls", "tcp"), plain), (hosts.scheduler, theirs)]
        )
    ]
    driver = start_run(hosts, lab, "run")
    assert driver.wait(120) == 0, hosts.log("run")
    for intruder in intruders:
        assert intruder.wait(60) != 0
    assert not marker.exists(), "a task ran"
    assert {row["worker"] for row in result_rows(lab.place)} == {"a", "b"}
    lab.check(threads=1)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_cut_wire_loses_nothing(hosts: Hosts, lab: Lab) -> None:
    driver = start_run(hosts, lab, "cut", "--pause-s", "0.5")
    wait_for(lambda: len(lab.calls.all()) >= 8, "8 calls")
    hosts.set_wire("down")
    time.sleep(CUT_S)
    hosts.set_wire("up")
    code = driver.wait(240)
    print(f"cut for {CUT_S:.0f} s: exit code {code}, {len(lab.calls.all())} calls of 48 images")
    assert code in (0, 1), hosts.log("cut")
    if code == 1:
        assert "Error" in hosts.log("cut")
        again = start_run(hosts, lab, "again")
        assert again.wait(240) == 0, hosts.log("again")
    lab.check(threads=1)
