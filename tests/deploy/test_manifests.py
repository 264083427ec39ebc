"""Manifests of deploy/kubernetes: valid under strict schemas, and safe by default."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.execution.kubernetes.manifests import ClusterResources, Templates, resized
from jobs.kubernetes.nightly_job import NightlyJob
from tests.deploy.manifests import (
    KUBERNETES,
    OVERLAYS,
    Manifest,
    chart,
    fields,
    misspell,
    only,
    overlay,
    pod_specs,
    program,
    validate,
    with_components,
)

NIGHT = NightlyJob("cohort-nightly-29403000", "0a1b", "cohort", 2, 8, gpu_workers_max=4)

BYTES = {"Mi": 2**20, "Gi": 2**30, "MiB": 2**20, "GiB": 2**30}


def templates(name: str) -> dict[str, Manifest]:
    return {
        each["metadata"]["name"].removeprefix("cohort-"): each["template"]["spec"]
        for each in overlay(name)
        if each["kind"] == "PodTemplate"
    }


def made_by_launcher() -> list[Manifest]:
    found = templates("gpu")
    return [NIGHT.job(found), NIGHT.gpu_group(found, 3), NIGHT.autoscaler(), session(found)]


def session(found: Templates, protocol: str = "tls", **size: int) -> Manifest:
    """Return the cluster of a notebook."""
    worker = resized(found["worker"], size.get("threads"), size.get("memory_bytes"))
    return ClusterResources("cohort-1a2b", "cohort", protocol).cluster(
        {**found, "worker": worker}, 2, 3600
    )


@pytest.fixture(scope="module")
def with_all(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """Return the GPU overlay with all components."""
    return with_components(
        tmp_path_factory.mktemp("deploy"), "gpu", ["notebook", "s3", "cert-manager"],
        [{"name": "cohort", "newName": "registry.example/cohort", "newTag": "1.2"}],
    )  # fmt: skip


def quantity(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]+)", text).groups()  # type: ignore[union-attr]
    return int(number) * BYTES[unit]


def is_refused(manifest: Manifest) -> bool:
    try:
        validate(manifest)
    except ValueError:
        return True
    return False


def flag(container: Manifest, name: str) -> str:
    arguments: list[str] = container["args"]
    return arguments[arguments.index(name) + 1]


@pytest.mark.parametrize("name", OVERLAYS)
def test_each_overlay_is_valid(name: str) -> None:
    manifests = overlay(name)
    assert len(manifests) > 15
    for manifest in manifests:
        validate(manifest)


def test_components_are_valid(with_all: list[Manifest]) -> None:
    for manifest in with_all:
        validate(manifest)


def test_the_operators_chart_is_valid_with_our_values() -> None:
    manifests = chart()
    assert {each["kind"] for each in manifests} == {
        "Deployment", "Role", "RoleBinding", "ServiceAccount",
    }  # fmt: skip
    for manifest in manifests:
        validate(manifest)


def test_what_the_launcher_makes_is_valid() -> None:
    for manifest in made_by_launcher():
        validate(manifest)


def test_a_typo_in_each_kind_is_caught(with_all: list[Manifest]) -> None:
    role = yaml.safe_load_all((KUBERNETES / "operator/roles.yaml").read_text())
    everything = [*overlay("spot"), *with_all, *made_by_launcher(), *chart(), *role]
    kinds: dict[str, list[Manifest]] = {}
    for manifest in everything:
        validate(manifest)
        kinds.setdefault(manifest["kind"], []).append(manifest)
    assert len(kinds) >= 18
    rng = random.Random(1)
    for kind, manifests in kinds.items():
        found = [(each, field) for each in manifests for field in fields(each)]
        for manifest, field in rng.sample(found, min(len(found), 4)):
            if manifest["kind"] == "ConfigMap" and field != ("data",):
                continue
            assert is_refused(misspell(manifest, field)), f"{kind}: {field} may be misspelt"
    for kind in ("Namespace", "ServiceAccount"):  # have no field but metadata
        assert is_refused({**kinds[kind][0], "specs": {}})


def test_a_typo_in_a_kustomization_is_caught(tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    file = tmp_path / "kubernetes/overlays/gpu/kustomization.yaml"
    file.write_text(file.read_text().replace("patches:", "patchs:"))
    ran = subprocess.run(
        [program("kubectl"), "kustomize", str(file.parent)], capture_output=True, check=False
    )
    assert ran.returncode != 0
    assert b"patchs" in ran.stderr


def all_pods() -> list[tuple[str, Manifest]]:
    return [
        (f"{name}: {owner}", spec)
        for name in OVERLAYS
        for owner, spec in pod_specs(overlay(name))
    ] + list(pod_specs(chart()))  # fmt: skip


@pytest.mark.parametrize(("owner", "spec"), all_pods(), ids=lambda value: str(value)[:40])
def test_no_pod_may_do_more_than_it_must(owner: str, spec: Manifest) -> None:
    operator = "dask-kubernetes-operator" in owner
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        own = container["securityContext"]
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"]
        assert own["allowPrivilegeEscalation"] is False
        assert "memory" in container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    if not operator:
        assert spec["securityContext"]["runAsUser"] == 10001
        # A token for the launcher alone.
        assert spec["automountServiceAccountToken"] is ("CronJob" in owner)
        assert (spec["serviceAccountName"] == "cohort-launcher") is ("CronJob" in owner)
        assert not any("hostPath" in volume for volume in spec.get("volumes", ()))


def test_roles_are_small(with_all: list[Manifest]) -> None:
    roles = [each for each in with_all if each["kind"] in ("Role", "ClusterRole")]
    assert {role["metadata"]["name"] for role in roles} == {"cohort-launcher", "cohort-notebook"}
    for role in roles:
        for rule in role["rules"]:
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
            if "secrets" in rule["resources"]:  # of a notebook: what it shows to the scheduler
                assert (rule["resourceNames"], rule["verbs"]) == (["cohort-tls"], ["get"])
            changes = {"create", "patch", "update"} & set(rule["verbs"])
            assert (
                not changes
                or rule["apiGroups"] == ["kubernetes.dask.org"]
                or rule["resources"] == ["pods/portforward"]
            )
    bindings = [each for each in with_all if each["kind"] == "RoleBinding"]
    names = [(b["roleRef"]["name"], b["subjects"][0]["name"]) for b in bindings]
    assert names == [(name, name) for name in ("cohort-launcher", "cohort-notebook")]


@pytest.mark.parametrize("name", OVERLAYS)
def test_worker_flags_agree_with_limits(name: str) -> None:
    for part in ("worker", "worker-gpu"):
        if part not in templates(name):
            continue
        [container] = templates(name)[part]["containers"]
        limits = container["resources"]["limits"]
        assert container["resources"]["requests"] == limits  # never throttled, killed last
        assert flag(container, "--nthreads") == limits["cpu"]
        share = quantity(flag(container, "--memory-limit")) / quantity(limits["memory"])
        assert 0.8 <= share <= 0.9
        assert flag(container, "--name") == "$(DASK_WORKER_NAME)"
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert flag(container, "--worker-port") == str(ports["tcp-comm"])
        assert flag(container, "--dashboard-address") == f":{ports['http-dashboard']}"
        assert container["lifecycle"]["preStop"]["exec"]["command"] == [
            "python", "-m", "jobs.kubernetes.retire_worker",
        ]  # fmt: skip


def test_a_notebook_gives_workers_another_size() -> None:
    made = session(templates("cpu"), threads=6, memory_bytes=14 * 2**30)
    validate(made)
    [container] = made["spec"]["worker"]["spec"]["containers"]
    assert flag(container, "--nthreads") == container["resources"]["limits"]["cpu"] == "6"
    assert flag(container, "--resources") == "CPU=6"
    assert quantity(flag(container, "--memory-limit")) == 14 * 2**30
    assert container["resources"]["requests"] == {"cpu": "6", "memory": "16384Mi"}
    assert container["resources"]["limits"] == container["resources"]["requests"]


def test_without_certificates_nothing_of_tls_is_asked_for() -> None:
    made = session(templates("cpu"), "tcp")
    validate(made)
    assert "tls" not in str(made)
    assert "tcp://cohort-1a2b-scheduler.cohort.svc:8786" in str(made)


def test_gpu_workers_are_told_apart() -> None:
    spec = templates("gpu")["worker-gpu"]
    [container] = spec["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert isinstance(container["resources"]["limits"]["nvidia.com/gpu"], str)
    assert flag(container, "--resources") == "GPU=1"
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert spec["tolerations"]
    [cpu] = templates("gpu")["worker"]["containers"]
    # Work that asks for nothing asks for a CPU, which GPU workers do not offer.
    assert flag(cpu, "--resources") == f"CPU={flag(cpu, '--nthreads')}"


def test_parts_are_probed() -> None:
    for part in ("scheduler", "worker"):
        [container] = templates("cpu")[part]["containers"]
        assert container["readinessProbe"]["httpGet"]["path"] == "/health"
        assert container["livenessProbe"]["httpGet"]["port"] == "http-dashboard"


def test_one_night_at_a_time_and_with_deadlines() -> None:
    for name in OVERLAYS:
        spec = only(overlay(name), "CronJob", "cohort-nightly")["spec"]
        job = spec["jobTemplate"]["spec"]
        pod = job["template"]["spec"]
        assert spec["concurrencyPolicy"] == "Forbid"
        assert spec["startingDeadlineSeconds"] > 0
        assert spec["successfulJobsHistoryLimit"] > 0
        assert job["activeDeadlineSeconds"] > 0
        assert pod["restartPolicy"] == templates(name)["runner"]["restartPolicy"] == "Never"
        # The launcher outlives the runner, for which it waits when it is told to stop.
        runner_s = templates(name)["runner"]["terminationGracePeriodSeconds"]
        assert pod["terminationGracePeriodSeconds"] >= runner_s + 60


def test_nobody_talks_to_anybody_but_for_named_flows() -> None:
    policies = [each for each in overlay("cpu") if each["kind"] == "NetworkPolicy"]
    deny = only(policies, "NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies:
        spec = policy["spec"]
        for rule in [*spec.get("ingress", ()), *spec.get("egress", ())]:
            assert rule["ports"], "a rule without ports allows all of them"
            assert rule.get("from") or rule.get("to"), "a rule without peers allows everybody"
        for rule in spec.get("ingress", ()):
            assert not any("ipBlock" in peer for peer in rule["from"])


def test_tls_is_on_between_all_parts(with_all: list[Manifest]) -> None:
    for manifests in (overlay("cpu"), overlay("gpu"), with_all):
        settings = only(manifests, "ConfigMap", "cohort-dask")["data"]
        comm = yaml.safe_load(settings["tls.yaml"])["distributed"]["comm"]
        assert comm["require-encryption"] is True
        for owner, spec in pod_specs(manifests):
            if owner.startswith("PodTemplate"):
                [tls] = [v for v in spec["volumes"] if v["name"] == "tls"]
                assert tls["secret"]["secretName"] == "cohort-tls"
    for manifest in made_by_launcher()[:2]:
        assert "tcp://" not in str(manifest)
        assert NIGHT.place.address in str(manifest)
    assert only(with_all, "Certificate", "cohort-tls")["spec"]["secretName"] == "cohort-tls"


def test_settings_of_dask_are_the_engines() -> None:
    from engine.execution.cluster.local import local_config

    def flat(value: dict[str, Any], above: str = "") -> dict[str, Any]:
        found = {}
        for name, inner in value.items():
            path = f"{above}.{name}" if above else name
            found |= flat(inner, path) if isinstance(inner, dict) else {path: inner}
        return found

    there = flat(yaml.safe_load((KUBERNETES.parent / "dask.yaml").read_text()))
    assert there["distributed.scheduler.allowed-failures"] == 0
    assert "distributed.http.scheduler.api" in there["distributed.scheduler.http.routes"]
    for name, value in local_config().items():
        if not name.startswith("distributed.admin"):
            assert str(there[name]) == str(value), name


def test_on_an_object_store_the_cohorts_volume_is_gone(with_all: list[Manifest]) -> None:
    assert "cohort" not in {
        each["metadata"]["name"] for each in with_all if each["kind"] == "PersistentVolumeClaim"
    }
    for owner, spec in pod_specs(with_all):
        claims = [v["persistentVolumeClaim"]["claimName"] for v in spec["volumes"]
                  if "persistentVolumeClaim" in v]  # fmt: skip
        assert "cohort" not in claims, owner
        for container in spec["containers"]:
            assert "/cohort" not in [m["mountPath"] for m in container["volumeMounts"]]
            secrets = [e["secretRef"]["name"] for e in container.get("envFrom", ())
                       if "secretRef" in e]  # fmt: skip
            assert secrets == ([] if container["name"] == "scheduler" else ["cohort-s3"]), owner


def test_one_image_is_named_once(with_all: list[Manifest]) -> None:
    images = {
        container["name"]: container["image"]
        for _, spec in pod_specs(with_all)
        for container in spec["containers"]
        if "nvidia.com/gpu" not in container["resources"]["limits"]
    }
    assert set(images.values()) == {"registry.example/cohort:1.2"}


def test_the_operator_is_the_version_that_was_checked() -> None:
    pinned = version("dask-kubernetes")
    values = yaml.safe_load((KUBERNETES / "operator/values.yaml").read_text())
    assert values["image"]["tag"] == pinned
    assert f"version={pinned}\n" in (KUBERNETES / "operator/install").read_text()
    [operator] = [each for each in chart() if each["kind"] == "Deployment"]
    [container] = operator["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith(f":{pinned}")
    assert "--namespace=cohort" in container["args"]
