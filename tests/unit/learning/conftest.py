"""Cohorts that training would learn from, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import engine
from engine.phantoms.cine.files import write_cine
from engine.phantoms.cine.frames import CineOptions
from tests.support.images import put

CINE = CineOptions(patients=3, slices=3, phases=4, size_px=128, spacing_mm=1.4)


@pytest.fixture(scope="session")
def hearts(tmp_path_factory: pytest.TempPathFactory, client: Client) -> engine.Cohort:
    """Return a cohort of made cines, their contours, and one patient's rescale: only to be read."""
    import pydicom

    base = tmp_path_factory.mktemp("hearts")
    write_cine(base / "cine", CINE)
    for path in sorted((base / "cine" / "dicoms").glob("*3/*.dcm")):
        ds = pydicom.dcmread(path)
        ds.RescaleSlope, ds.RescaleIntercept = "0.5", "-100"
        ds.save_as(path)
    cohort = engine.create(base / "cohort")
    toml = base / "cohort" / "cohort.toml"
    drawn = f'[annotations.manual]\npath = "{base / "cine"}"\nformat = "sunnybrook"\norigin = 0\n'
    limits = "[limits]\nshard_bytes = 100000\n"  # three planes a shard
    toml.write_text(f"{toml.read_text()}\n{drawn}\n{limits}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COHORT_PSEUDONYM_KEY", "0123456789abcdef0123456789abcdef")
        cohort.ingest(base / "cine" / "dicoms", client=client)
    return cohort


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory, client: Client) -> engine.Cohort:
    """Return a cohort of pictures of many shapes, a copy and a giant one: only to be read."""
    base: Path = tmp_path_factory.mktemp("pictures")
    shapes = [(40, 48)] * 11 + [(64, 64, 3)] * 9 + [(33, 50), (40, 41), (39, 44)]
    for n, shape in enumerate(shapes):
        pixels = np.random.default_rng(n).integers(0, 255, shape, np.uint8)
        put(base / "files" / f"{n:02d}.png", pixels)
    put(base / "files" / "copy.png", np.random.default_rng(0).integers(0, 255, (40, 48), np.uint8))
    put(base / "files" / "giant.png", np.zeros((2100, 50), np.uint8))
    cohort = engine.create(base / "cohort", layout="{name}")
    with (base / "cohort" / "cohort.toml").open("a") as toml:
        toml.write("\n[limits]\ngiant_bytes = 100000\n")
    cohort.ingest(base / "files", client=client)
    return cohort
