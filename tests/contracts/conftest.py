"""An object store for the contracts' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contracts.contenders import Contenders
from tests.contracts.object_server import serve, settings


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a bucket on a server of this session, to which the environment points."""
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
