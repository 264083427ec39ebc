"""A small cohort that was really made, once, and a copy of it for each test that breaks one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import engine
from engine.phantoms import DiscOptions, draw_disc_image
from tests.support.images import put


@dataclass(frozen=True)
class Small:
    """A cohort, its sources, and the two operations that were run on it."""

    path: Path
    sources: Path
    declared: engine.Operation
    trial: engine.Operation

    @property
    def cohort(self) -> engine.Cohort:
        """Open it."""
        return engine.open(self.path)

    def files(self, pattern: str) -> list[Path]:
        """Return the files that a pattern matches, at least one."""
        found = sorted(path for path in self.path.glob(pattern) if path.is_file())
        assert found, pattern
        return found


def write_sources(folder: Path) -> None:
    """Write discs, a copy, two blank images, one that fails, a broken one and a "giant" one."""
    options = DiscOptions(
        images=2, size=64, placement="separate", discs=(2, 3), radius_px=(6, 10), seed=1
    )
    for number in range(2):
        put(folder / "d1/s1/e1" / f"disc-{number}.png", draw_disc_image(options, number).pixels)
    shutil.copy(folder / "d1/s1/e1/disc-0.png", folder / "d1/s1/e1/copy.png")
    for name in ("blank-0", "blank-1"):
        put(folder / "d1/s2/e1" / f"{name}.png", np.zeros((48, 48), np.uint16))
    two_channels = np.random.default_rng(2).integers(0, 99, (40, 40, 2)).astype(np.uint8)
    stains = np.moveaxis(two_channels, 2, 0)
    put(folder / "d1/s2/e1/two-channels.tif", stains, imagej=True, metadata={"axes": "CYX"})
    tall = np.random.default_rng(3).integers(0, 99, (2100, 50)).astype(np.uint8)
    put(folder / "d1/s2/e2/giant.png", tall)
    broken = put(folder / "d1/s2/e2/broken.png", np.zeros((30, 30), np.uint8))
    broken.write_bytes(broken.read_bytes()[:45])


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, client: Client) -> Small:
    """Return the cohort that all tests share: only to be read."""
    base = tmp_path_factory.mktemp("small")
    small = Small(
        base / "cohort",
        base / "sources",
        engine.circles(radius_px=(5, 12)),
        engine.circles(radius_px=(5, 11)),
    )
    write_sources(small.sources)
    cohort = engine.create(small.path)
    with (small.path / "cohort.toml").open("a") as toml:
        toml.write("\n[limits]\ngiant_bytes = 100000\n")
    cohort.ingest(small.sources, client=client)
    cohort.run(small.declared, client=client)
    cohort.run(small.trial, client=client)
    return small


@pytest.fixture
def small(made: Small, tmp_path: Path) -> Small:
    """Return a copy of the cohort, to be broken."""
    shutil.copytree(made.path, tmp_path / "cohort")
    return Small(tmp_path / "cohort", made.sources, made.declared, made.trial)


@pytest.fixture
def cohort(tmp_path: Path) -> engine.Cohort:
    """Return an empty cohort."""
    return engine.create(tmp_path / "cohort")


@pytest.fixture
def log(tmp_path: Path) -> str:
    """Return the path of a file for the calls of `Counting`."""
    return str(tmp_path / "log")
