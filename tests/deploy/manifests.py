"""Rendered manifests, and their validation against strict schemas."""

from __future__ import annotations

import copy
import functools
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask_kubernetes
import jsonschema
import kubernetes_validate.utils
import pytest
import yaml
from helm_python import Chart

REPOSITORY = Path(__file__).parents[2]
KUBERNETES = REPOSITORY / "deploy" / "kubernetes"
CHART = (
    Path(dask_kubernetes.__file__).parent
    / "operator/deployment/helm/dask-kubernetes-operator"
)  # fmt: skip
OVERLAYS = ("cpu", "gpu", "spot")

# It reloads its schemas for each manifest, which takes nearly all of the time of a check.
kubernetes_validate.utils.schema_contents = functools.cache(
    kubernetes_validate.utils.schema_contents
)

CORE = kubernetes_validate.latest_version()
"""Version of Kubernetes for the schemas of core kinds."""

Manifest = dict[str, Any]


def program(name: str) -> str:
    """Return the path of a program of the test environment, or skip with a message."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}") or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@functools.cache
def rendered(folder: Path) -> str:
    """Return the output of ``kubectl kustomize``."""
    ran = subprocess.run(
        [program("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def kustomize(folder: Path) -> list[Manifest]:
    """Return the manifests of ``kubectl apply -k``."""
    return [each for each in yaml.load_all(rendered(folder), yaml.CSafeLoader) if each]


def overlay(name: str) -> list[Manifest]:
    """Return the manifests of an overlay."""
    return kustomize(KUBERNETES / "overlays" / name)


def with_components(
    folder: Path, name: str, components: list[str], images: list[Manifest] | None = None
) -> list[Manifest]:
    """Return the manifests of a custom overlay in a folder: an overlay and components."""
    shutil.copytree(KUBERNETES, folder / "kubernetes", dirs_exist_ok=True)
    own = folder / "kubernetes/own"
    own.mkdir(exist_ok=True)
    made = {
        "resources": [f"../overlays/{name}"],
        "components": [f"../components/{each}" for each in components],
        "namespace": "cohort",
        "images": images or [],
    }
    (own / "kustomization.yaml").write_text(yaml.safe_dump(made))
    rendered.cache_clear()  # a folder may be written twice
    return kustomize(own)


def chart() -> list[Manifest]:
    """Return the manifests of ``helm install`` of the operator, with our values."""
    values = yaml.safe_load((KUBERNETES / "operator/values.yaml").read_text())
    with Chart.load(str(CHART)) as loaded:
        rendered = loaded.render(values, name="dask-kubernetes-operator", namespace="cohort")
    return [
        each
        for path, text in rendered.items()
        if path.endswith(".yaml")
        for each in yaml.safe_load_all(text)
        if each
    ]


def only(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Return the only manifest of this kind and name."""
    [found] = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


@functools.cache
def schemas() -> dict[str, Manifest]:
    """Return the operator's own schemas by kind, which reject unknown fields."""
    found = {}
    for file in sorted((CHART / "crds").glob("*.yaml")):
        for crd in yaml.load_all(file.read_text(), yaml.CSafeLoader):  # ten times as fast
            [version] = crd["spec"]["versions"]
            schema = _strict(version["schema"]["openAPIV3Schema"])
            schema["properties"] |= {"apiVersion": {}, "kind": {}, "metadata": {"type": "object"}}
            found[crd["spec"]["names"]["kind"]] = schema
    return found


def _strict(schema: Manifest) -> Manifest:
    made = dict(schema)
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in made:
        made["properties"] = {k: _strict(v) for k, v in made["properties"].items()}
        if not made.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    for inner in ("items", "additionalProperties"):
        if isinstance(made.get(inner), dict):
            made[inner] = _strict(made[inner])
    return made


CERT_MANAGER = {
    # The fields of cert-manager.io/v1 that we use: no package contains its schemas.
    "Issuer": {"selfSigned": dict, "ca": {"secretName": str}},
    "Certificate": {
        "isCA": bool,
        "commonName": str,
        "secretName": str,
        "duration": str,
        "renewBefore": str,
        "usages": list,
        "privateKey": {"algorithm": str, "size": int, "rotationPolicy": str},
        "issuerRef": {"name": str, "kind": str},
    },
}


def validate(manifest: Manifest) -> None:
    """Validate a manifest.

    Raises
    ------
    ValueError
        If it has a field that is unknown for its kind, or of the wrong type.
    """
    group = manifest["apiVersion"].split("/")[0]
    try:
        if group == "kubernetes.dask.org":
            jsonschema.Draft7Validator(schemas()[manifest["kind"]]).validate(manifest)
        elif group == "cert-manager.io":
            _check_fields(manifest["spec"], CERT_MANAGER[manifest["kind"]])
        else:
            kubernetes_validate.validate(manifest, CORE, strict=True)
    except (
        jsonschema.ValidationError,
        kubernetes_validate.ValidationError,
        kubernetes_validate.SchemaNotFoundError,
        KeyError,
    ) as error:
        raise ValueError(getattr(error, "message", error)) from error


def _check_fields(value: Manifest, known: Manifest) -> None:
    for name, inner in value.items():
        if name not in known:
            raise KeyError(name)
        if isinstance(known[name], dict):
            _check_fields(inner, known[name])
        elif not isinstance(inner, known[name]):
            raise KeyError(name)


FREE = {
    "labels", "annotations", "matchLabels", "data", "limits", "requests", "nodeSelector",
    "selfSigned", "emptyDir", "selector",
}  # fmt: skip
"""Maps with user-defined keys, or without required keys."""


Field = tuple[Any, ...]
"""Path of a field within a manifest: names and indices."""


def misspell(manifest: Manifest, field: Field) -> Manifest:
    """Return a copy of a manifest with one field's name misspelt."""
    made = copy.deepcopy(manifest)
    place: Any = made
    for step in field[:-1]:
        place = place[step]
    place[f"{field[-1]}s"] = place.pop(field[-1])
    return made


def fields(value: Any, above: Field = ()) -> Iterator[Field]:
    """Yield the path of each field of a manifest with a name defined by Kubernetes."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not above and name in ("apiVersion", "kind", "metadata"):
                continue
            yield (*above, name)
            if name not in FREE or (name == "selector" and "matchLabels" in (inner or ())):
                yield from fields(inner, (*above, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from fields(inner, (*above, number))


def pod_specs(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield each pod spec, with the name of its owner."""
    for manifest in manifests:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] == "PodTemplate":
            yield name, manifest["template"]["spec"]
        elif manifest["kind"] == "CronJob":
            yield name, manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        elif manifest["kind"] in ("Deployment", "Job"):
            yield name, manifest["spec"]["template"]["spec"]
