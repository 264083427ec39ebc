"""Fault 25, repeated: thousands of random walks of the state machine, with new seeds each time."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from tests.distributed.fault_report import Trial
from tests.distributed.processes import REPOSITORY

WALKS = int(os.environ.get("COHORT_TEST_WALKS", "5000"))

STEPS = 10

WALKERS = 2
"""Number of processes that share the walks."""

PROGRAM = """
import sys
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.support.cohort_state_machine import Machine

walks, steps, number = map(int, sys.argv[1:])
how = settings(
    max_examples=walks, stateful_step_count=steps, deadline=None, database=None,
    suppress_health_check=list(HealthCheck), print_blob=True,
)
try:
    run_state_machine_as_test(seed(number)(Machine), settings=how)
finally:
    print(Machine.examples, dict(Machine.deaths), dict(Machine.damages))
"""


@pytest.mark.faults
@pytest.mark.fault(25, "walks of the state machine")
@pytest.mark.timeout(4 * 3600)
def test_walks(trial: Trial, rng: random.Random) -> None:
    began = [
        subprocess.Popen(
            [
                sys.executable, "-W", "ignore", "-c", PROGRAM,
                str(WALKS // WALKERS), str(STEPS), str(rng.randrange(2**31)),
            ],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(WALKERS)
    ]  # fmt: skip
    failed = []
    for process in began:
        said, _ = process.communicate()
        print(said)
        counted = [line.split()[0] for line in said.splitlines() if line[:1].isdigit()]
        trial.trials += int(counted[-1]) if counted else 1
        trial.silent += process.returncode != 0
        failed += [said] if process.returncode else []
    assert not failed, failed[0][-5000:]
