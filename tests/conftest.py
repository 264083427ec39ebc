"""What tests of all kinds share."""

from __future__ import annotations

import gc
import os
import random
import re
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from distributed import Client

import engine


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `make test-fast` and `make faults-short`."""
    parser.addoption(
        "--fast",
        action="store_true",
        help="leave out tests that start clusters, servers or processes",
    )
    parser.addoption(
        "--one-repetition",
        action="store_true",
        help="of each test's repetitions, run one that is drawn; leave out what tries every point",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what `make test-fast` runs, or one repetition of each test, if that is asked for.

    COHORT_TEST_SEED draws the same repetitions again.
    """
    if config.getoption("--fast"):
        slow = [item for item in items if not is_fast(item)]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if is_fast(item)]
    if not config.getoption("--one-repetition"):
        return
    seed = int(os.environ.get("COHORT_TEST_SEED", time.time_ns() % 2**31))
    print(f"repetitions drawn with COHORT_TEST_SEED={seed}")
    repetitions: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("faults") and not item.get_closest_marker("every_point"):
            repetitions[item.nodeid.partition("[")[0]].append(item)
    draw = random.Random(seed)
    kept = {draw.choice(same) for same in repetitions.values()}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


SERVERS = {"client", "made", "zygote", "connected", "store", "drivers"}
"""Fixtures that start a cluster or a server."""

PROCESSES = re.compile(r"\b(subprocess|multiprocessing|LocalCluster|serve\(|CliRunner)\b")
"""Names in a test's module that tell that its tests start processes or servers."""


@cache
def starts_processes(module: str) -> bool:
    """Return True if a module starts processes."""
    return PROCESSES.search(Path(module).read_text()) is not None


def is_fast(item: pytest.Item) -> bool:
    """Return True if a test starts no cluster, server or process."""
    names = set(getattr(item, "fixturenames", ()))
    marked = any(item.get_closest_marker(name) for name in ("faults", "deploy", "gpu"))
    return not (names & SERVERS or marked or starts_processes(str(item.path)))


@pytest.fixture(scope="session")
def client() -> Iterator[Client]:
    """A cluster of threads in this process: fast, and its code counts as covered."""
    how = {"workers": 1, "threads_per_worker": 2, "processes": False}
    with ExitStack() as stack:
        with warnings.catch_warnings():
            # Dask leaks a socket where another cluster has the dashboard's port already; it may
            # be collected while the cluster still starts.
            warnings.simplefilter("ignore", ResourceWarning)
            connected = stack.enter_context(engine.cluster("local", **how)).client
            gc.collect()
        yield connected
