"""Nightly jobs on the control plane: cohort in a claim, settings, Job, and result."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import engine
from tests.deploy.control_plane.plane import ControlPlane, wait_for
from tests.deploy.manifests import Manifest, only, overlay, with_components
from tests.distributed.invariants import Calls, check_files, check_once, result_rows

NIGHT_S = 300.0
"""Timeout of a night, seconds; an idle machine needs 30."""

TOML = """\
layout = "{{date}}/{{subject}}/{{experiment}}/{{name}}"

[limits]
shard_images = 2

[roots.lab]
path = "/acquisitions"

[operations.{operation}]
{parameters}
"""


@dataclass
class Night:
    """Result of a night."""

    code: int
    out: str
    err: str
    elapsed_s: float

    @property
    def summary(self) -> dict[str, Any]:
        """The one JSON object on the launcher's standard output."""
        [line] = [line for line in self.out.splitlines() if line.startswith("{")]
        return dict(json.loads(line))


@dataclass
class Cluster:
    """Namespace ``cohort`` on a control plane, with the operator."""

    plane: ControlPlane
    images: Path
    count: int = field(default=0)
    operation: str = ""

    @property
    def place(self) -> Path:
        """Path of the cohort on this machine."""
        return self.plane.folder / "claims/cohort/night"

    @property
    def calls(self) -> Calls:
        """Calls of the test operation."""
        return Calls(self.plane.folder / "claims/cohort/calls")

    @property
    def sick(self) -> Path:
        """File of injected failures by image."""
        return self.plane.folder / "claims/cohort/sick.json"

    def begin(self, operation: str, **parameters: Any) -> None:
        """Create an empty cohort that declares an operation."""
        for assign_edges in ("cohort", "acquisitions"):
            shutil.rmtree(self.plane.folder / "claims" / assign_edges, ignore_errors=True)
        shutil.copytree(self.images, self.plane.folder / "claims/acquisitions")
        self.place.parent.mkdir(parents=True)
        engine.create(str(self.place))
        self.operation = operation
        if operation != "circles":
            parameters = {"calls": "/cohort/calls", "sick": "/cohort/sick.json", **parameters}
        lines = "\n".join(f"{k} = {json.dumps(v)}" for k, v in parameters.items())
        (self.place / "cohort.toml").write_text(TOML.format(operation=operation, parameters=lines))

    def configure(self, name: str = "cpu", **settings: Any) -> None:
        """Apply an overlay with some settings; two workers by default."""
        manifests = overlay(name)
        known = only(manifests, "ConfigMap", "cohort-settings")["data"]
        known |= {"WORKERS_MIN": "2", "WORKERS_MAX": "2", "START_TIMEOUT_S": "60"}
        known |= {key: str(value) for key, value in settings.items()}
        only(manifests, "CronJob", "cohort-nightly")["spec"]["suspend"] = True
        self.plane.apply(manifests)

    def make_secret(self, certificates: Path) -> None:
        """Make the Secret of the certificates, as docs/how-to/kubernetes.md says."""
        self.plane.kubectl(
            "create", "secret", "generic", "cohort-tls",
            *(f"--from-file={certificates / name}" for name in ("ca.crt", "tls.crt", "tls.key")),
        )  # fmt: skip

    def configure_notebook(self, folder: Path, **image: str) -> Manifest:
        """Apply the overlay for GPUs with the component for notebooks; return its Deployment.

        No notebook is started; the test runs its own code in it.
        """
        images = [{"name": "cohort", **image}] if image else []
        manifests = with_components(folder, "gpu", ["notebook"], images)
        only(manifests, "CronJob", "cohort-nightly")["spec"]["suspend"] = True
        notebook = only(manifests, "Deployment", "cohort-notebook")
        self.plane.apply([each for each in manifests if each is not notebook])
        return notebook

    def cron_fires(self) -> str:
        """Make the CronJob fire within a minute, once, and return its Job's name."""
        before = {job["metadata"]["name"] for job in self.plane.list("jobs")}
        every_minute = '{"spec":{"schedule":"* * * * *","suspend":%s}}'
        self._patch_cron(every_minute % "false")
        [name] = wait_for(
            lambda: {job["metadata"]["name"] for job in self.plane.list("jobs")} - before,
            "the CronJob", 120,
        )  # fmt: skip
        self._patch_cron(every_minute % "true")
        return str(name)

    def _patch_cron(self, patch: str) -> None:
        self.plane.kubectl("patch", "cronjob", "cohort-nightly", "--type=merge", "-p", patch)

    def start(self, *, attempts: int = 1) -> str:
        """Start a Job as ``kubectl create job --from=cronjob/cohort-nightly`` does."""
        self.count += 1
        cron = self.plane.get("cronjob", "cohort-nightly")
        job: Manifest = {
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": f"night-{self.count}", "namespace": "cohort"},
            "spec": {**cron["spec"]["jobTemplate"]["spec"], "backoffLimit": attempts - 1},
        }  # fmt: skip
        self.plane.apply([job])
        return f"night-{self.count}"

    def launchers(self, job: str) -> list[Manifest]:
        """Return the launcher's pods, the first attempt first."""
        found = self.plane.list("pods", "-l", f"job-name={job}")
        return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def wait(self, job: str) -> Night:
        """Wait for the end of a Job, and check that nothing of it remains."""
        began = time.monotonic()

        def ended() -> list[Manifest]:
            conditions = self.plane.get("job", job)["status"].get("conditions", ())
            return [each for each in conditions if each["status"] == "True"]

        wait_for(ended, f"the end of {job}", NIGHT_S)
        pod = self.launchers(job)[-1]
        [container] = pod["status"]["containerStatuses"]
        code = container["state"]["terminated"]["exitCode"]
        said = self.plane.log(pod["metadata"]["name"])
        out = "\n".join(line for line in said.splitlines() if line.startswith("{"))
        self.check_gone()
        return Night(code, out, said, time.monotonic() - began)

    def check_gone(self) -> None:
        """Check that all parts of a night are gone; Services may disappear shortly after pods."""
        for kind in ("daskjobs", "daskclusters", "daskworkergroups", "daskautoscalers"):
            assert self.plane.list(kind) == [], kind
        selector = "dask.org/cluster-name"
        assert self.plane.list("pods", "-l", selector) == []
        for kind in ("deployments", "services"):
            wait_for(lambda kind=kind: not self.plane.list(kind, "-l", selector), f"no {kind}", 30)

    def pods(self, job: str, component: str) -> list[Manifest]:
        """Return the pods of one component of a night's cluster."""
        selector = f"dask.org/cluster-name={job},dask.org/component={component}"
        return self.plane.list("pods", "-l", selector)

    def running(self, job: str, component: str) -> Manifest:
        """Wait until a pod of a component is ready, and return it."""

        def found() -> list[Manifest]:
            return [
                pod
                for pod in self.pods(job, component)
                for each in pod.get("status", {}).get("conditions", ())
                if each["type"] == "Ready" and each["status"] == "True"
            ]

        return wait_for(found, f"{component} of {job}")[0]

    def kill(self, pod: Manifest) -> None:
        """Kill a pod as a failing node would."""
        self.plane.kubectl(
            "delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false"
        )

    def when_called(self, times: int) -> None:
        """Wait until the test operation has had a number of calls."""
        wait_for(lambda: len(self.calls.all()) >= times, f"{times} calls", NIGHT_S)

    def check(self, *, failed: int = 0) -> None:
        """Check that each image has one result, and that files and ledgers agree."""
        check_files(self.place)
        check_once(self.place, operation=self.operation)
        rows = result_rows(self.place, operation=self.operation)
        assert len(rows) == len(list(self.images.rglob("*.png")))
        assert sum(row["status"] == "failed" for row in rows) == failed
