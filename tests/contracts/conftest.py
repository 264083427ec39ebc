"""Object store and cluster for the contract tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from distributed import Client, Scheduler, SpecCluster, Worker

from tests.contracts.object_server import serve, settings
from tests.support.concurrent_writers import Contenders


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a bucket on the session's server, with the environment set for it."""
    with (
        serve(tmp_path_factory.mktemp("moto"), "cohorts") as port,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in settings(port).items():
            patch.setenv(name, value)
        yield "s3://cohorts"


@pytest.fixture(scope="session")
def contenders() -> Iterator[Contenders]:
    """Processes that all do the same at the same moment."""
    found = Contenders()
    yield found
    found.close()


@pytest.fixture(scope="session")
def staffed() -> Iterator[Client]:
    """In-process cluster: one worker with a (fake) GPU resource, and one without."""
    workers = {
        name: {"cls": Worker, "options": {"nthreads": 1, "resources": resources}}
        for name, resources in (("with-gpu", {"GPU": 1}), ("without", {}))
    }
    options = {"protocol": "inproc://", "dashboard": False, "dashboard_address": ":0"}
    scheduler = {"cls": Scheduler, "options": options}
    with (
        SpecCluster(workers=workers, scheduler=scheduler) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
