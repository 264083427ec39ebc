"""Dockerfile and compose.yaml: linted, locked, and safe by default."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import REPOSITORY, program

DOCKER = REPOSITORY / "deploy" / "docker"


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("hadolint"), str(file)], capture_output=True, text=True, check=False
    )


def services() -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"])


def test_dockerfile_is_clean(tmp_path: Path) -> None:
    ran = hadolint(DOCKER / "Dockerfile")
    assert ran.returncode == 0, ran.stdout
    planted = tmp_path / "Dockerfile"
    planted.write_text((DOCKER / "Dockerfile").read_text().replace("CMD [", "CDM ["))
    assert hadolint(planted).returncode != 0


def test_scripts_are_bash() -> None:
    scripts = [
        DOCKER / "build",
        REPOSITORY / "deploy/kubernetes/certificates",
        REPOSITORY / "deploy/kubernetes/operator/install",
        REPOSITORY / "tests/deploy/control_plane/build",
    ]
    for script in scripts:
        assert script.stat().st_mode & 0o100, f"{script} can't be run"
        subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize(("accelerator", "more"), [("cpu", []), ("cuda", ["segment"])])
def test_the_image_holds_versions_with_hashes_of_all_that_it_needs(
    accelerator: str, more: list[str]
) -> None:
    lock = (DOCKER / f"requirements-{accelerator}.lock").read_text()
    blocks = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", lock, flags=re.MULTILINE).strip())
    pinned = {}
    for block in blocks:
        found = re.match(r"([a-zA-Z0-9._-]+)==(\S+)", block)
        assert found, block[:80]
        assert "--hash=sha256:" in block, block[:80]
        pinned[re.sub(r"[-_.]+", "-", found[1]).lower()] = found[2]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    names = ["dicom", "nifti", "slides", "kubernetes", "jupyter", "notebooks", *more]
    for wanted in [*project["dependencies"], *(each for name in names for each in extras[name])]:
        assert re.match(r"[a-zA-Z0-9-]+", wanted)[0].lower() in pinned, wanted  # type: ignore[index]


@pytest.mark.parametrize("name", sorted(services()))
def test_each_service_may_do_no_more_than_it_must(name: str) -> None:
    service = services()[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), "only this machine reaches it"


def test_compose_is_a_cluster_with_a_notebook() -> None:
    found = services()
    assert {"scheduler", "worker", "gpu-worker", "notebook", "cohort"} == set(found)
    assert found["worker"]["deploy"]["replicas"] == 2
    assert found["gpu-worker"]["profiles"] == ["gpu"]
    assert found["gpu-worker"]["command"][found["gpu-worker"]["command"].index("--resources") + 1]
    assert "JUPYTER_TOKEN" in found["notebook"]["environment"]
    # Empty would mean: no token asked for.
    assert found["notebook"]["environment"]["JUPYTER_TOKEN"] is None
    for name in ("worker", "gpu-worker"):
        command, limits = found[name]["command"], found[name]["deploy"]["resources"]["limits"]
        assert float(command[command.index("--nthreads") + 1]) <= float(limits["cpus"])
        memory = command[command.index("--memory-limit") + 1]
        number, unit = re.fullmatch(r"(\d+)([MG]iB)", memory).groups()  # type: ignore[union-attr]
        limit = int(limits["memory"].removesuffix("G")) * 2**30
        assert 0.8 <= int(number) * {"MiB": 2**20, "GiB": 2**30}[unit] / limit <= 0.9
