"""Control plane with the operator, shared by all tests that need it (``make deploy-test``)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from engine.phantoms import DiscOptions, write_discs
from tests.deploy.control_plane.plane import ControlPlane, wait_for
from tests.deploy.manifests import CHART, KUBERNETES, REPOSITORY, chart, only, overlay
from tests.deploy.nights import Cluster

PROGRAMS = os.environ.get("COHORT_CONTROL_PLANE", "")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests of the control plane outside ``make deploy-test``."""
    for item in items:
        if item.get_closest_marker("deploy") and not PROGRAMS:
            item.add_marker(pytest.mark.skip(reason="needs a control plane: make deploy-test"))


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Start the control plane."""
    folder = tmp_path_factory.mktemp("plane")
    plugin = folder / "plugin/operations_for_tests-1.0.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: operations-for-tests\nVersion: 1.0\n"
    )
    (plugin / "entry_points.txt").write_text(
        "[cohort.operations]\n"
        "probe = tests.support.operations:Probe\n"
        "probe_gpu = tests.support.operations:ProbeGpu\n"
    )
    image = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": f"{REPOSITORY}:{plugin.parent}",
        # The image sets this in the environment's etc/dask.
        "DASK_CONFIG": str(REPOSITORY / "deploy/dask.yaml"),
    }
    made = ControlPlane(Path(PROGRAMS), folder, image, [plugin.parent])
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make certificates with the documented script."""
    folder = tmp_path_factory.mktemp("certificates")
    subprocess.run([KUBERNETES / "certificates", folder], check=True)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the images."""
    folder = tmp_path_factory.mktemp("images") / "lab"
    write_discs(
        folder,
        DiscOptions(
            images=24, size=64, placement="separate", discs=(1, 3), radius_px=(4, 8), noise=0.05,
            seed=7,
        ),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def cluster(plane: ControlPlane, certificates: Path, images: Path) -> Cluster:
    """Install the operator as docs/how-to/kubernetes.md says, and the certificates."""
    plane.kubectl("apply", "--server-side", "--validate=false", "-f", str(CHART / "crds"))
    plane.apply([only(overlay("cpu"), "Namespace", "cohort")])
    role = (KUBERNETES / "operator/roles.yaml").read_text()
    plane.apply([*yaml.safe_load_all(role)])
    for manifest in chart():
        manifest["metadata"].setdefault("namespace", "cohort")
        wait_for(lambda: plane.get("serviceaccount", "default"), "the default account")
        plane.apply([manifest])
    made = Cluster(plane, images)
    made.make_secret(certificates)
    return made
