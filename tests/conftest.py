"""What tests of all kinds share."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from distributed import Client

import engine


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """A cluster of threads in this process: fast, and its code counts as covered."""
    how = {"workers": 1, "threads_per_worker": 2, "processes": False}
    with ExitStack() as stack:
        with warnings.catch_warnings():
            # Dask leaks a socket where another cluster has the dashboard's port already; it may
            # be collected while the cluster still starts.
            warnings.simplefilter("ignore", ResourceWarning)
            connected = stack.enter_context(engine.cluster("local", **how))
            gc.collect()
        yield connected
