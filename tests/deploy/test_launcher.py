"""What the launcher says and refuses, without a control plane."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest

from engine.errors import EngineError, ParameterError
from jobs.launcher import Settings, Stopped
from jobs.launcher_api import KubernetesFailed, NotRemoved
from jobs.launcher_watch import OperatorSilent, RunnerLost, RunnerNotStarted

GOOD = {
    "JOB_NAME": "cohort-nightly-29403000",
    "JOB_UID": "0a1b",
    "NAMESPACE": "cohort",
    "COHORT": "/cohort/night",
    "WORKERS_MIN": "2",
    "WORKERS_MAX": "8",
    "GPU_WORKERS_MAX": "0",
    "START_TIMEOUT_S": "60",
}


def test_settings_are_read() -> None:
    settings = Settings.read(GOOD)
    assert settings.night.address == "tls://cohort-nightly-29403000-scheduler.cohort.svc:8786"
    assert (settings.night.workers_min, settings.night.workers_max) == (2, 8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COHORT", ""),
        ("WORKERS_MIN", "two"),
        ("WORKERS_MIN", "0"),
        ("WORKERS_MIN", "9"),
        ("GPU_WORKERS_MAX", "-1"),
        ("JOB_NAME", "n" * 54),
        ("JOB_NAME", "night.1"),
    ],
)
def test_wrong_settings_are_named(name: str, value: str) -> None:
    with pytest.raises(ParameterError, match=name) as caught:
        Settings.read({**GOOD, name: value})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "error",
    [
        KubernetesFailed("read the pod template cohort-worker", 403, "forbidden"),
        NotRemoved("night", "The runner", 60.0),
        OperatorSilent("night", 120.0),
        RunnerNotStarted("night", 1200.0, "ImagePullBackOff"),
        RunnerLost("night", "its pod was deleted"),
        Stopped("SIGTERM"),
    ],
)
def test_errors_say_what_and_travel(error: EngineError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert all(str(part) in str(error) for part in error.args if not isinstance(part, float))


def test_outside_a_pod_it_says_so_in_a_sentence() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "jobs.launcher"],
        env={"PATH": os.environ["PATH"], **GOOD}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.startswith("Error: Could not connect from inside a pod")
    assert "Traceback" not in ran.stderr
