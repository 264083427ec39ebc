"""Lab for faults: tiny images, a cohort of them, a fork server, a cluster, and expected results."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import engine
from engine.phantoms import DiscOptions, write_discs
from tests.distributed.fault_report import FILE, Survival, Trial
from tests.distributed.invariants import (
    Calls,
    check_files,
    check_once,
    check_outside,
    comparable,
    listing,
    result_rows,
    tables,
)
from tests.distributed.processes import REPOSITORY, Cluster, Driver, Ended, Zygote
from tests.support.operations import install_below

IMAGES = 48

SHARD_IMAGES = 4
"""So few that the images fill 12 shards."""

TOML = f"""\
layout = "{{date}}/{{subject}}/{{experiment}}/{{name}}"

[limits]
shard_images = {SHARD_IMAGES}
"""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the repetitions unless ``-m faults`` is given."""
    if config.getoption("markexpr"):
        return
    repetitions = [item for item in items if item.get_closest_marker("faults")]
    config.hook.pytest_deselected(items=repetitions)
    items[:] = [item for item in items if item not in repetitions]


REPETITIONS = ("faults or fault", "faults")
"""Marker expressions of `make faults` (all tests of faults, including those of `make test`) and of
`make faults-short`."""

SURVIVAL = pytest.StashKey[Survival]()
PASSED = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Create the fault report."""
    config.stash[SURVIVAL] = Survival()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep a test's outcome for its fixtures; a skipped test has none."""
    report = yield
    if report.when == "call" and not report.skipped:
        item.stash[PASSED] = report.passed
    return report


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the report after repetitions, and write it to a file."""
    survival = config.stash[SURVIVAL]
    if config.getoption("markexpr") not in REPETITIONS or not survival.lines:
        return
    terminalreporter.section("what survived")
    for line in survival.text():
        terminalreporter.write_line(line)
    survival.write()
    terminalreporter.write_line(f"written to {FILE.relative_to(REPOSITORY)}")


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> Iterator[Trial]:
    """Measure a test's losses, in the report's line for its mark ``fault``."""
    found = Trial()
    yield found
    mark = request.node.get_closest_marker("fault")
    passed = request.node.stash.get(PASSED, None)
    if mark is not None and passed is not None:
        request.config.stash[SURVIVAL].add(*mark.args, found, passed)


@dataclass
class Lab:
    """A cohort under test, next to a folder that is watched for stray files.

    ``operation`` is the one that is run and checked; ``trial`` counts losses.
    """

    zygote: Zygote
    folder: Path
    images: Path
    place: Path
    calls: Calls
    right: Right | None = None
    cluster: Cluster | None = None
    operation: str = "probe"
    trial: Trial = field(default_factory=Trial)

    def __post_init__(self) -> None:
        self._twice = 0
        self._images_before = listing(self.images)
        self._home_before = listing(self.zygote.folder / "home")

    def _where(self, how: dict[str, Any]) -> list[str]:
        if how.get("threads"):
            return []
        if workers := how.pop("workers", None):
            return ["--workers", str(workers), "--memory-limit", "0"]
        assert self.cluster is not None
        return ["--scheduler", self.cluster.address]

    def start_ingest(self, **how: Any) -> Driver:
        """Start an ingest of the images."""
        where = self._where(how)
        return self.zygote.start(
            "ingest", self.place, self.images, *where, place=str(self.place), **how
        )

    def start(self, *argv: str, operation: str | None = None, **how: Any) -> Driver:
        """Start a run of the test operation."""
        where = self._where(how)
        asked = operation or self.operation
        return self.zygote.start(
            "run", self.place, asked, "--calls", self.calls.path, *argv, *where,
            place=str(self.place), **how,
        )  # fmt: skip

    def run(self, *argv: str, **how: Any) -> Ended:
        """Run the test operation to its end."""
        return self.start(*argv, **how).wait()

    def check(self, *argv: str, key: str | None = None, again: int = 0, **how: Any) -> Ended:
        """Check I1 to I4 and I6 of the test operation; run it once more.

        ``again`` is the number of calls that were explicitly requested a second time.
        """
        self._measure(key, again)
        check_once(self.place, key, operation=self.operation)
        before = self.calls.all()
        ended = self.run(*argv, **how)
        assert ended.code == 0, ended.err
        assert ended.run["planned"] == ended.run["published"] == 0
        assert self.calls.all() == before, "I2: a re-run computed something"
        check_files(self.place)
        if self.right is not None:
            assert comparable(self.rows(key)) == self.right.rows
            if key is None:
                self.right.check_tables(self.place, self.operation)
        check_outside(self.images, self._images_before)
        check_outside(self.zygote.folder / "home", self._home_before)
        assert not any((self.zygote.folder / "cwd").iterdir())
        return ended

    def rows(self, key: str | None = None) -> list[dict[str, Any]]:
        """Return the rows of the test operation."""
        return result_rows(self.place, key, operation=self.operation)

    def _measure(self, key: str | None, again: int) -> None:
        """Count missing, wrong and duplicate rows, and repeated computations."""
        calls = self.calls.all()
        twice = len(calls) - len(set(calls)) - again
        self.trial.recomputed += max(0, twice - self._twice)
        self._twice = twice
        rows = comparable(self.rows(key))
        there = {row["image_id"] for row in rows}
        self.trial.lost += len(set(self.sources()) - there)
        self.trial.silent += len(rows) - len(there)
        if self.right is not None:
            self.trial.silent += sum(row not in self.right.rows for row in rows)

    def forget_calls(self) -> None:
        """Reset the count of calls."""
        self.calls.path.unlink(missing_ok=True)
        self._twice = 0

    def sources(self) -> list[str]:
        """Return the names of all sources in the catalog."""
        return sorted(
            f"{self.images.name}/{path.relative_to(self.images)}"
            for path in self.images.rglob("*.png")
        )


@dataclass
class Right:
    """Results of a run without any fault."""

    rows: list[dict[str, Any]]
    tables: dict[str, pd.DataFrame]

    def check_tables(self, place: Path, operation: str) -> None:
        """Check that a cohort's tables are equal, including the order of rows."""
        for name, found in tables(place, operation).items():
            pd.testing.assert_frame_equal(found, self.tables[name])


@pytest.fixture
def rng() -> random.Random:
    """Return a generator whose seed is printed if a test fails; COHORT_TEST_SEED sets it."""
    seed = int(os.environ.get("COHORT_TEST_SEED", time.time_ns() % 2**31))
    print(f"COHORT_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of all processes: a home of its own, and the plugin's path."""
    folder = tmp_path_factory.mktemp("environment")
    plugin = install_below(folder / "plugin")
    (plugin / "sitecustomize.py").write_text(
        "import sys\n"
        "if any('multiprocessing.forkserver' in word for word in sys.orig_argv):\n"
        "    import engine.runs.driver, tests.support.operations\n"
    )
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    kept = {k: v for k, v in os.environ.items() if k.startswith(("PATH", "LANG", "LC_", "COV"))}
    return {
        **kept,
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": f"{REPOSITORY}:{plugin}",
    }


@pytest.fixture(scope="session")
def session_zygote(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[Zygote]:
    """Start the fork server."""
    folder = tmp_path_factory.mktemp("drivers")
    for name in ("cwd", "home", "tmp"):
        (folder / name).mkdir()
    own = {**environment, "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    zygote = Zygote(folder, own)
    yield zygote
    zygote.close()


@pytest.fixture
def zygote(session_zygote: Zygote) -> Iterator[Zygote]:
    """Return the fork server; end processes that a test left running."""
    yield session_zygote
    session_zygote.end_drivers()


@pytest.fixture(scope="session")
def session_cluster(
    tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]
) -> Iterator[Cluster]:
    """Start a scheduler and two workers for all tests that do not kill them permanently."""
    folder = tmp_path_factory.mktemp("clusters") / "shared"
    cluster = Cluster(folder, environment, options=("--resources", "GPU=1"))
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the images."""
    folder = tmp_path_factory.mktemp("images") / "lab"
    write_discs(
        folder,
        DiscOptions(
            images=IMAGES, size=64, placement="separate", discs=(1, 3), radius_px=(4, 8),
            noise=0.05, seed=7,
        ),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def template(
    tmp_path_factory: pytest.TempPathFactory, session_zygote: Zygote, images: Path
) -> tuple[Path, Right]:
    """Ingest the images once, and run the operation once, for the expected results."""
    folder = tmp_path_factory.mktemp("template")
    lab = Lab(session_zygote, folder, images, folder / "cohort", Calls(folder / "calls"))
    declare(lab.place)
    taken = lab.start_ingest(threads=1).wait()
    assert taken.code == 0, taken.err
    shutil.copytree(lab.place, folder / "ingested")
    done = lab.run(threads=1)
    assert done.code == 0, done.err
    assert sorted(lab.calls.all()) == lab.sources()
    return folder / "ingested", Right(comparable(result_rows(lab.place)), tables(lab.place))


def declare(place: Path) -> None:
    """Create a cohort with small shards."""
    engine.create(place)
    (place / "cohort.toml").write_text(TOML)


@pytest.fixture
def lab(
    tmp_path: Path, zygote: Zygote, images: Path, template: tuple[Path, Right], trial: Trial
) -> Lab:
    """Return a lab with ingested images and no results."""
    ingested, right = template
    place = tmp_path / "cohort"
    shutil.copytree(ingested, place)
    return Lab(zygote, tmp_path, images, place, Calls(tmp_path / "calls"), right, trial=trial)


@pytest.fixture
def shared_lab(lab: Lab, session_cluster: Cluster) -> Lab:
    """Return the same lab, on the shared cluster."""
    lab.cluster = session_cluster
    return lab


@pytest.fixture
def empty_lab(
    tmp_path: Path, zygote: Zygote, images: Path, template: tuple[Path, Right], trial: Trial
) -> Lab:
    """Return a lab without ingested images."""
    place = tmp_path / "cohort"
    declare(place)
    calls = Calls(tmp_path / "calls")
    return Lab(zygote, tmp_path, images, place, calls, template[1], trial=trial)
