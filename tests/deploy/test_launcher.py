"""Messages and refusals of the launcher, without a control plane."""

from __future__ import annotations

import signal

import pytest

from engine.errors import ParameterError
from jobs.kubernetes.launcher import Settings, main

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
    assert settings.night.place.address == "tls://cohort-nightly-29403000-scheduler.cohort.svc:8786"
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


def test_outside_a_pod_it_says_so_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        assert main() == 1
    finally:
        for number, what in before.items():
            signal.signal(number, what)
    assert capsys.readouterr().err.startswith("Error: Could not connect from inside a pod")
