"""Crontab line and systemd units, run as written in an equally bare environment."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import engine
from tests.support.images import grey, put
from tests.support.operations import install_below

REPOSITORY = Path(__file__).parents[2]
CRON = REPOSITORY / "deploy" / "cron" / "cohort"
UNITS = REPOSITORY / "deploy" / "systemd"
SERVICE = "cohort-nightly@.service"
TIMER = "cohort-nightly@.timer"

PROGRAM = "/opt/cohort/bin/cohort"
"""Path of the command in these files."""

SANDBOX = r"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$2"
mount --bind "$1" "$1"
findmnt --noheadings --list --output TARGET | grep -v -E "^/(proc|sys|dev)(/|$)" |
    grep -v -F -x -e "$1" -e "$2" | while read -r place; do
        mount -o remount,bind,ro "$place" 2>/dev/null || true
    done
shift 2
exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""
"""Most of the service's hardening without systemd: the system read-only except the cohort ($1) and
a temporary folder of its own ($2), no capabilities, and no way to gain any."""


@dataclass
class Ward:
    """A growing cohort, and the program that an administrator installed for it."""

    folder: Path

    def __post_init__(self) -> None:
        self.place, self.images = self.folder / "cohort", self.folder / "lab"
        self.calls, self.log = self.place / "calls", self.folder / "log"
        self.program = self.folder / "cohort-program"
        plugin = install_below(self.folder / "plugin")
        command = Path(sys.executable).parent / "cohort"
        self.program.write_text(
            f"#!/bin/sh\nPYTHONPATH={REPOSITORY}:{plugin} exec {command} "
            '"$@" --workers 1 --memory-limit 0\n'
        )
        self.program.chmod(0o755)
        engine.create(self.place)
        (self.place / "cohort.toml").write_text(
            f'[roots.lab]\npath = "{self.images}"\n\n[operations.probe]\ncalls = "{self.calls}"\n'
        )

    def grow(self, *seeds: int) -> None:
        """Add images to those that are there."""
        for seed in seeds:
            put(self.images / "d1/s1/e1" / f"{seed}.png", grey(seed))

    def computed(self) -> list[str]:
        """Return what was computed since the last call."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.write_text("")
        return sorted(line.rsplit("/", 1)[-1] for line in lines)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    return Ward(tmp_path_factory.mktemp("ward"))


def run_bare(command: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    """Run with the environment of cron, and nothing of ours."""
    bare = {"HOME": str(home), "LOGNAME": "cohort", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    kept = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
    return subprocess.run(
        ["env", "-i", *(f"{name}={value}" for name, value in {**bare, **kept}.items()), *command],
        cwd=home, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def read_crontab(ward: Ward) -> tuple[dict[str, str], str, str]:
    """Return the variables, time and command of the crontab, with the paths of a ward."""
    own = {"COHORT": ward.place, "PROGRAM": ward.program, "LOG": ward.log}
    variables, jobs = {}, []
    for line in CRON.read_text().splitlines():
        name, equals, value = line.partition("=")
        if not line or line.startswith("#"):
            continue
        if equals and name.isidentifier():  # crontab(5): name = value, no expansion
            variables[name] = str(own.get(name, value))
        else:
            jobs.append(line.split(maxsplit=5))
    assert set(own) < set(variables)
    ((*when, command),) = jobs
    assert "%" not in command, "cron takes it for a line's end"
    return variables, " ".join(when), command


def test_the_crontab_line_does_what_is_new(ward: Ward, tmp_path: Path) -> None:
    variables, when, command = read_crontab(ward)
    assert when == "0 2 * * *"
    shell = ["env", *(f"{n}={v}" for n, v in variables.items()), "/bin/sh", "-c", command]

    ward.grow(0, 1, 2, 3)
    first = run_bare(shell, tmp_path)
    assert first.returncode == 0, first.stderr + ward.log.with_suffix(".log").read_text()
    assert first.stdout == first.stderr == "", "cron mails what is printed"
    assert ward.computed() == ["0.png", "1.png", "2.png", "3.png"]

    ward.grow(4)
    (ward.images / "d1/s1/e1/broken.png").write_bytes(b"no image")
    second = run_bare(shell, tmp_path)
    assert second.returncode == 3
    assert ward.computed() == ["4.png"]
    mailed = json.loads(second.stdout)
    assert [one["source"] for one in mailed["failures"]] == ["lab/d1/s1/e1/broken.png"]
    nights = ward.log.with_suffix(".jsonl").read_text().splitlines()
    assert [json.loads(night)["exit_code"] for night in nights] == [0, 3]
    assert not list(tmp_path.iterdir()), "nothing is left in the user's home"


def units(ward: Ward, folder: Path) -> dict[str, Path]:
    """Write the units with the paths of a ward; return them by name."""
    escaped = subprocess.run(
        ["systemd-escape", "--path", ward.place], capture_output=True, text=True, check=True
    ).stdout.strip()
    found = {}
    for name in (SERVICE, TIMER):
        found[name] = folder / name.replace("@.", f"@{escaped}.")
        found[name].write_text((UNITS / name).read_text().replace(PROGRAM, str(ward.program)))
    return found


def verify(*paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_takes_the_units(ward: Ward, tmp_path: Path) -> None:
    written = units(ward, tmp_path)
    done = verify(*written.values())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name, right, wrong in (
        (SERVICE, "ProtectSystem=", "ProtectSytem="),
        (SERVICE, "Type=oneshot", "Type=onceshot"),
        (TIMER, "*-*-* 02:00", "*-*-* 25:00"),
    ):
        text = written[name].read_text()
        written[name].write_text(text.replace(right, wrong))
        assert verify(*written.values()).stderr, f"{wrong} passed"
        written[name].write_text(text)
    exposed = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", written[SERVICE]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert exposed.returncode == 0, exposed.stdout  # at most 2.0 of 10, "OK"


def setting(name: str) -> str:
    """Return a setting of the service that occurs once."""
    lines = [line.partition("=") for line in (UNITS / SERVICE).read_text().splitlines()]
    (value,) = (value for key, _, value in lines if key == name)
    return value


def test_the_service_runs_within_its_limits(ward: Ward, tmp_path: Path) -> None:
    """Its command, where nothing but the cohort can be written, as its settings say."""
    private = tmp_path / "private"
    private.mkdir()
    expand: dict[str, Any] = {"%f": ward.place, "%C": private, PROGRAM: ward.program}

    def expanded(text: str) -> list[str]:
        for word, value in expand.items():
            text = text.replace(word, str(value))
        return shlex.split(text)

    assert setting("ReadWritePaths") == "%f"
    assert (setting("ProtectSystem"), setting("NoNewPrivileges")) == ("strict", "yes")
    assert setting("CapabilityBoundingSet") == ""
    sandbox = ["unshare", "--mount", "sh", "-c", SANDBOX, "sh", str(ward.place), str(private)]
    inside = [*sandbox, "env", f"TMPDIR={private}", *expanded(setting("Environment"))]

    probe = run_bare([*inside, "sh", "-c", f"touch {tmp_path}/x; touch {ward.place}/x"], tmp_path)
    if not (ward.place / "x").exists():
        pytest.skip(f"no mount namespaces here: {probe.stderr.splitlines()[-1]}")
    (ward.place / "x").unlink()
    assert not (tmp_path / "x").exists(), "the sandbox holds"

    ward.grow(5)
    ward.computed()
    done = run_bare([*inside, *expanded(setting("ExecStart"))], tmp_path)
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_code"]) == (0, 0), done.stderr
    assert "5.png" in ward.computed()
